"""Read image files, and folders, patterns and stacks of them as the frames of a video."""

from __future__ import annotations

import glob
import os
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video import jpeg
from rbsf.system.text import printable

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)
NOTES = ("", ".txt", ".csv", ".xml", ".json", ".md", ".db", ".ini")  # known not to be images
COUNTER = re.compile(r"%(0?\d*)d")  # a number in a pattern as FFmpeg writes it: %d, %04d
FEW_LEVELS = 64  # a 16-bit image is stretched if its upper 8 bits span fewer levels
EXTREMES = (0.1, 99.9)  # percentiles of an image that become black and white when it is stretched
DEFLATE_RATIO = 1032  # zlib cannot pack more bytes than this into one
CUT_SHORT = "is not an image, or is cut short; replace or remove it"
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"  # OpenCV's; `rbsf.system.program` sets it
TOO_LARGE = (
    "is larger than OpenCV reads; scale it down, or raise the limit by the environment variable"
    f" {PIXELS_VARIABLE}"
)
TIMED = (".png", ".webp")  # animated images whose durations OpenCV reads; AVIF's it reads wrongly
STACK = 4  # images of the largest size whose pixels a stack may have in all
PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as `[H, W, 3]` uint8 RGB.

    Gray is repeated, alpha is dropped, and a camera's rotation is applied. Images of more than 8
    bits keep the upper 8. If these would hold few levels, or if values are floating-point, the
    image is stretched from its darkest to its brightest value, with a warning.

    Raises FileNotFoundError if there is no file, and ValueError, naming it, if it cannot be decoded
    whole. Of several pictures the first is read.
    """
    path = Path(path)
    data = _read_bytes(path)
    return cv2.cvtColor(decode(data, path), cv2.COLOR_BGR2RGB)


def _to_bgr(image: np.ndarray, path: Path) -> np.ndarray:
    """Convert gray, BGR or BGRA of any type to `[H, W, 3]` uint8 BGR."""
    if image.dtype != np.uint8:
        image = _to_8_bits(image, path)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image[..., :3]


def _read_bytes(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    return np.fromfile(path, dtype=np.uint8)


def decode(data: np.ndarray, path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode an image file as `read_image` does, but as BGR.

    `flags`: as of `cv2.imdecode`. Raises ValueError, naming `path`, if it cannot be decoded whole.
    """
    check_file(data, path)
    try:
        image = _decode(data, path, flags | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        raise ValueError(f"image {path} {TOO_LARGE}") from None
    if image is None:
        raise ValueError(f"image {path} {CUT_SHORT}")
    return _to_bgr(image, path)


def _decode(data: np.ndarray, path: Path, flags: int) -> np.ndarray | None:
    if data[: len(jpeg.START)].tobytes() == jpeg.START:
        image, complaint = jpeg.decode_jpeg(data, flags)
        if image is not None and complaint:
            raise ValueError(f"image {path} is damaged ({complaint}); replace or remove it")
        return image
    image = cv2.imdecode(data, flags)
    if image is None:  # OpenCV does not make gray floats three channels
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return image


def check_file(data: np.ndarray, path: Path) -> None:
    """Raise ValueError for an empty file, and for a PNG that must be cut short or damaged.

    If it claims more pixels than a file of its length can hold, OpenCV would allocate memory for
    them before it notices.
    """
    if not data.size:
        raise ValueError(f"image {path} is empty (0 bytes); replace or remove it")
    if data[: len(PNG)].tobytes() != PNG or len(data) < 24:
        return
    content = data.tobytes()
    width, height = struct.unpack_from(">II", content, 16)
    least = width * height / 8  # bytes, at one bit a pixel
    if least > DEFLATE_RATIO * len(content):
        raise ValueError(
            f"image {path} claims {width} x {height} pixels in {len(content)} bytes: it is"
            " damaged; replace or remove it"
        )
    position = len(PNG)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        position += 12 + length
    if position > len(content):
        raise ValueError(f"image {path} {CUT_SHORT}")


def _to_8_bits(image: np.ndarray, path: Path) -> np.ndarray:
    """Convert 16 bits or floats to uint8. Raises ValueError for values that are not finite."""
    if not np.isfinite(image).all():
        raise ValueError(f"image {path} has values that are not finite; replace or remove it")
    low, high = np.percentile(image, EXTREMES)
    if image.dtype == np.uint16:
        upper = (image >> 8).astype(np.uint8)
        if high == low or int(upper.max()) - int(upper.min()) >= FEW_LEVELS:
            return upper
    warnings.warn(
        f"{path.parent} holds images of type {image.dtype} that are stretched from their own"
        " darkest to their own brightest value",
        stacklevel=3,
    )
    span = (high - low) or 1
    return (np.clip((image - low) / span, 0, 1) * 255).round().astype(np.uint8)


def read_stack(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Read all pictures of an animated image or a stack, each as `read_image` does.

    Also returns how many seconds each picture is shown; an empty list if the file does not say.
    Raises ValueError if not all of them can be decoded.
    """
    data = _read_bytes(path)
    check_file(data, path)
    count = count_pictures(path)
    first = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if not count:
        raise ValueError(f"image {path} {CUT_SHORT}")
    if first is not None and count * first.shape[0] * first.shape[1] > STACK * most_pixels():
        raise ValueError(
            f"image {path} holds {count} pictures of {first.shape[1]} x {first.shape[0]} pixels,"
            " more than fit in memory; convert it to a video or to a folder of images"
        )
    images, seconds = _decode_all(data, path)
    if len(images) < count:
        raise ValueError(
            f"image {path} holds {count} pictures, of which {len(images)} can be decoded; convert"
            " it to a video or to a folder of images"
        )
    all_bgr = (_to_bgr(image, path) for image in images)
    return [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in all_bgr], seconds


def _decode_all(data: np.ndarray, path: Path) -> tuple[Sequence[np.ndarray], list[float]]:
    """Pictures of a file as OpenCV gives them, and their durations as `read_stack` does."""
    if path.suffix.lower() in TIMED and hasattr(cv2, "imdecodeanimation"):  # OpenCV 4.11
        _, animation = cv2.imdecodeanimation(data)
        seconds = [int(duration) / 1000 for duration in animation.durations]
        return animation.frames, seconds if any(seconds) else []
    _, images = cv2.imdecodemulti(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return images, []


def check_video_size(path: str | Path, width: int, height: int) -> None:
    """Raise ValueError for a video whose frames have more pixels than are read."""
    most = most_pixels() // 2  # a decoder holds several frames
    if width * height > most:
        raise ValueError(
            f"video {path} has {width} x {height} pixels, more than {most:,};"
            f" {PIXELS_VARIABLE} allows more"
        )


def most_pixels() -> int:
    """How many pixels OpenCV reads of an image at most."""
    text = os.environ.get(PIXELS_VARIABLE, "")
    return int(text) if text.isdecimal() else 1 << 30


def count_pictures(path: Path) -> int:
    """Number of pictures in an image file: 1, except for animated images and stacks."""
    try:
        return cv2.imcount(encodable(path))
    except cv2.error:
        return 1


def encodable(path: str | Path) -> str:
    """Return a path for OpenCV. Raises ValueError if it is not UTF-8, which crashes OpenCV."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the name of {printable(text)} is not valid UTF-8, which OpenCV cannot open; rename it"
        ) from None
    return text


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `img2` before `img10`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part.lower())
        for part in re.split(r"(\d+)", name)
    ]


def is_image(path: str | Path) -> bool:
    """Whether a file is an image, by the end of its name."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def list_images(folder: str | Path) -> list[str]:
    """Names of the image files in `folder`, in natural order; empty if there are none.

    Hidden files and folders are left out.
    """
    names = [
        entry.name for entry in os.scandir(folder) if is_image(entry.name) and not entry.is_dir()
    ]
    return sorted((name for name in names if not name.startswith(".")), key=natural_key)


def warn_of_other_files(folder: Path, names: Iterable[str]) -> None:
    """Warn of those files among `names` that are neither images nor notes, as they are left out."""
    known = (*IMAGE_SUFFIXES, *NOTES)
    if others := [name for name in names if Path(name).suffix.lower() not in known]:
        fault = f"{len(others)} files have no suffix of an image and are left out"
        warnings.warn(f"{folder}: {fault}, such as {others[0]}", stacklevel=3)


def find_images(pattern: str) -> list[Path]:
    """The files of a pattern such as `a/*.jpg` or `a/%04d.jpg`, in natural order.

    In a pattern with a number such as `%04d`, all other characters are literal, even brackets.
    """
    counter = COUNTER.search(Path(pattern).name)
    if counter is None:
        return sorted(map(Path, glob.glob(pattern)), key=lambda path: natural_key(str(path)))
    folder, name = Path(pattern).parent, Path(pattern).name
    digits = int(counter[1] or 1)
    before, after = re.escape(name[: counter.start()]), re.escape(name[counter.end() :])
    wanted = re.compile(rf"{before}\d{{{digits},}}{after}")
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / found for found in sorted(filter(wanted.fullmatch, names), key=natural_key)]


def is_pattern(text: str) -> bool:
    """Whether `text` stands for several files."""
    return bool(COUNTER.search(Path(text).name)) or glob.has_magic(text)


def warn_of_mixture(source: str, files: Sequence[Path]) -> None:
    """Warn if file names are of several kinds, or numbers are missing.

    Names are of several kinds if masks lie beside frames, for example.
    """
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(re.sub(r"\d+", "#", file.name), []).append(file)
    numbered = {kind: found for kind, found in kinds.items() if "#" in kind}
    if len(numbered) > 1 and min(map(len, numbered.values())) > 1:
        examples = " and ".join(found[0].name for found in list(numbered.values())[:2])
        warnings.warn(
            f"{source} holds images with {len(numbered)} kinds of names, such as {examples}, and"
            " all of them are taken for frames; give a pattern such as 'FOLDER/%05d.png' to take"
            " one kind",
            stacklevel=2,
        )
    elif len(numbered) == 1:
        _warn_of_gaps(source, next(iter(numbered.values())))


def _warn_of_gaps(source: str, files: Sequence[Path]) -> None:
    """Warn if the last numbers in the names rise by one, except for a few missing ones."""
    numbers = [int(re.findall(r"\d+", file.name)[-1]) for file in files]
    gaps = [(a + 1, b - 1) for a, b in pairwise(numbers) if b - a > 1]
    if gaps and len(gaps) <= len(numbers) / 10:
        first, last = gaps[0]
        named = f"{first}" if first == last else f"{first} to {last}"
        more = f", and {len(gaps) - 1} more gaps" if len(gaps) > 1 else ""
        warnings.warn(
            f"{source}: frame numbers are missing: {named}{more}; the frames around them are taken"
            " as neighbours",
            stacklevel=2,
        )
