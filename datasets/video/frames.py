"""Read frames, H x W x 3 uint8 RGB, of images, folders and what `rbsf.datasets.video.sources`
reads; write videos.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.sources import MAX_FPS, Frames, open_camera, open_stream, open_video

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
WRITABLE_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as H x W x 3 uint8 RGB; gray is repeated, alpha dropped, 16 bits become 8.

    Raises FileNotFoundError where there is no file and ValueError, naming it, where it cannot be
    decoded whole.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image {path} does not exist")
    data = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        fault = "is not an image, or is cut short" if data.size else "is empty (0 bytes)"
        raise ValueError(f"image {path} {fault}; replace or remove it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``img2`` before ``img10``."""
    return [
        (int(part), "") if part.isdigit() else (-1, part.lower())
        for part in re.split(r"(\d+)", name)
    ]


def list_images(folder: str | Path) -> list[str]:
    """Names of the image files in ``folder``, in natural order; empty where there are none."""
    names = [
        entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES)
    ]
    return sorted((n for n in names if not n.startswith(".")), key=natural_key)


def open_frames(source: str | Path) -> Frames:
    """Open a video file, a folder of images (or of ``img/``), a quoted pattern, a camera, a
    stream's URL or a pipe.

    Patterns are ``'a/*.jpg'`` and ``a/%04d.jpg``, cameras numbers: ``"0"``. Raises
    FileNotFoundError or ValueError, naming ``source``, where it is missing, empty or not decodable.
    """
    text, path = str(source), Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return (
            _open_images(text, [path])
            if path.suffix.lower() in IMAGE_SUFFIXES
            else open_video(path)
        )
    if text.isdecimal():
        return open_camera(int(text))
    if URL.match(text) or path.exists():  # what is neither file nor folder is a pipe
        return open_stream(text)
    pattern = re.sub(r"%\d*d", "[0-9]*", text)  # as ffmpeg counts files
    if glob.has_magic(pattern):
        return _open_images(
            text, sorted((Path(p) for p in glob.glob(pattern)), key=lambda p: natural_key(str(p)))
        )
    raise FileNotFoundError(
        f"{text} does not exist; give a video, a folder of images, a pattern, a camera's number or a stream's URL"
    )


def _open_folder(path: Path) -> Frames:
    folder = path if list_images(path) or not (path / "img").is_dir() else path / "img"
    return _open_images(str(path), [folder / name for name in list_images(folder)])


def _open_images(name: str, paths: Iterable[Path]) -> Frames:
    files = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{name} holds no images; looked for {', '.join(IMAGE_SUFFIXES)}")
    return Frames(name, None, len(files), lambda: ((read_image(path), None) for path in files))


class VideoWriter:
    """Write frames to ``path`` (.mp4, .avi, .mov, .mkv) at ``fps``; use as a context manager.

    The first frame fixes the picture's size (cut to even sides, as the codec asks); later frames of
    another size are scaled to fit into it, with black bars. The file appears under its name when
    the block ends without an error. Raises ValueError for a bad ``fps`` or a ``path`` that cannot
    be written, OSError where writing fails later.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), float(fps)
        if self.path.suffix.lower() not in WRITABLE_SUFFIXES:
            raise ValueError(
                f"cannot write {path}: give a name that ends in one of {', '.join(WRITABLE_SUFFIXES)}"
            )
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(
                f"cannot write {path} at {fps} frames per second; give a rate above 0, such as 25"
            )
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size, self._count = (0, 0), 0

    def __enter__(self) -> VideoWriter:
        if self.path.is_dir():
            raise ValueError(f"cannot write {self.path}: it is a folder; give a file name")
        try:  # now, not after an hour of tracking
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror}") from error
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a frame, H x W x 3 uint8 RGB."""
        if self._writer is None:
            self._writer = self._open(image)
        self._writer.write(cv2.cvtColor(fit(image, self._size), cv2.COLOR_RGB2BGR))
        self._count += 1

    def _open(self, image: np.ndarray) -> cv2.VideoWriter:
        height, width = image.shape[:2]
        self._size = (max(width // 2 * 2, 2), max(height // 2 * 2, 2))
        writer = cv2.VideoWriter(
            str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, self._size
        )
        if not writer.isOpened():
            raise OSError(
                f"cannot write {self.path}: OpenCV cannot encode {width}x{height} frames into it"
            )
        return writer

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._keep()
        finally:
            self._part.unlink(missing_ok=True)

    def _keep(self) -> None:
        capture = cv2.VideoCapture(str(self._part))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # OpenCV does not tell of a full disk
        capture.release()
        if count < self._count:
            raise OSError(
                f"cannot write {self.path}: the file came out cut short; is the disk full?"
            )
        os.replace(self._part, self.path)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an H x W x 3 image to ``size`` (width, height): one odd row or column is cut, else
    scaled with bars.
    """
    width, height = size
    if 0 <= image.shape[0] - height <= 1 and 0 <= image.shape[1] - width <= 1:
        return image[:height, :width]
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    bars = (top, height - inner[1] - top, left, width - inner[0] - left)
    return cv2.copyMakeBorder(
        cv2.resize(image, inner, interpolation=cv2.INTER_AREA), *bars, cv2.BORDER_CONSTANT
    )
