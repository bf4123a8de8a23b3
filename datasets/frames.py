"""Read frames from images, folders, videos and cameras, and write videos. Frames are H x W x 3 uint8 RGB."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # ffmpeg: quiet; our own messages name the fault

import cv2
import numpy as np

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV: silent, for the same reason

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


class BrokenVideo(ValueError):
    """A video that ends before its header says so; every frame before the break has been yielded."""


@dataclass(frozen=True)
class Frames:
    """A run of frames that can be iterated again and again (a camera: from now on).

    ``count`` is what a folder holds or a video's header promises; None where it is not known (camera, some videos).
    Iterating yields H x W x 3 uint8 RGB, whose size may change on the way, and raises ValueError for a frame that
    cannot be read, BrokenVideo for a video that breaks off.
    """

    name: str
    fps: float | None
    count: int | None
    start: Callable[[], Iterator[np.ndarray]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.start()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as H x W x 3 uint8 RGB; gray is repeated, alpha dropped, 16 bits become 8.

    Raises FileNotFoundError where there is no file and ValueError, naming it, where it cannot be decoded whole.
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
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def list_images(folder: str | Path) -> list[str]:
    """Names of the image files in ``folder``, in natural order; empty where there are none."""
    names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted((n for n in names if not n.startswith(".")), key=natural_key)


def open_frames(source: str | Path) -> Frames:
    """Open a video file, a folder of images (or of ``img/``), a quoted pattern ``'a/*.jpg'`` or a camera ``"0"``.

    Raises FileNotFoundError or ValueError, naming ``source``, where it is missing, empty or not decodable.
    """
    text, path = str(source), Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_images(text, [path]) if path.suffix.lower() in IMAGE_SUFFIXES else _open_video(path)
    if text.isdecimal():
        return _open_camera(int(text))
    if glob.has_magic(text):
        return _open_images(text, sorted((Path(p) for p in glob.glob(text)), key=lambda p: natural_key(str(p))))
    raise FileNotFoundError(f"{text} does not exist; give a video, a folder of images, a pattern or a camera's number")


def _open_folder(path: Path) -> Frames:
    folder = path if list_images(path) or not (path / "img").is_dir() else path / "img"
    return _open_images(str(path), [folder / name for name in list_images(folder)])


def _open_images(name: str, paths: Iterable[Path]) -> Frames:
    files = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{name} holds no images; looked for {', '.join(IMAGE_SUFFIXES)}")
    return Frames(name, None, len(files), lambda: (read_image(path) for path in files))


def _open_camera(index: int) -> Frames:
    capture = cv2.VideoCapture(index)
    opened = capture.isOpened()
    fps = capture.get(cv2.CAP_PROP_FPS) if opened else 0.0
    capture.release()
    if not opened:
        raise ValueError(f"camera {index} cannot be opened; is it plugged in and free?")

    def start() -> Iterator[np.ndarray]:
        yield from _decode(cv2.VideoCapture(index))

    return Frames(f"camera {index}", fps if fps > 0 else None, None, start)


def _decode(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Frames of an open capture as H x W x 3 uint8 RGB, until it gives no more; it is released at the end."""
    try:
        while True:
            good, image = capture.read()
            if not good or image is None:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _open_video(path: Path) -> Frames:
    if path.stat().st_size == 0:
        raise ValueError(f"video {path} is empty (0 bytes)")
    capture = cv2.VideoCapture(str(path))
    opened, good = capture.isOpened(), capture.read()[0]
    count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if not opened:
        raise ValueError(f"{path} cannot be opened as a video: cut short, damaged or of an unknown format")
    if not good:
        raise ValueError(f"video {path} opens, but not one frame of it can be decoded: it is cut short or damaged")
    known = count if count > 0 else None
    return Frames(str(path), fps if 0 < fps < 1000 else None, known, lambda: _play(path, known))
