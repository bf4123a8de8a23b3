"""Open any source of frames, `[H, W, 3]` uint8 RGB. All programs use this module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from rbsf.datasets.video import jpeg
from rbsf.datasets.video.images import (
    IMAGE_SUFFIXES,
    count_pictures,
    find_images,
    is_image,
    is_pattern,
    list_images,
    read_image,
    read_stack,
    warn_of_mixture,
)
from rbsf.datasets.video.sources import Frames, open_camera, open_stream, open_video

VIDEO_SUFFIXES = (
    ".mp4",
    ".avi",
    ".mkv",
    ".mov",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
    ".gif",
)
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def open_frames(source: str | Path) -> Frames:
    """Open a source of frames.

    It is a video file, an image or a stack of images, a folder of images (or a folder with these in
    `img/`), a pattern (`'a/*.jpg'` or `a/%04d.jpg`), a camera's number (`"0"`), a stream's URL or a
    pipe. Raises FileNotFoundError or ValueError, naming `source`, if it is missing, empty or cannot
    be decoded.
    """
    text, path = str(source), Path(source)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        if path.suffix.lower() == ".mpo":
            _refuse_many(path)
        return _open_image(path) if is_image(path) else open_video(path)
    if text.isdecimal():
        return open_camera(int(text))
    if URL.match(text) or path.exists():  # other existing paths are pipes
        return open_stream(text)
    if is_pattern(text):
        return _open_images(text, find_images(text))
    raise FileNotFoundError(
        f"{text} does not exist; give a video, a folder of images, a pattern, a camera's number"
        " or a stream's URL"
    )


def _open_folder(path: Path) -> Frames:
    folder = path if list_images(path) or not (path / "img").is_dir() else path / "img"
    return _open_images(str(path), [folder / name for name in list_images(folder)])


def _refuse_many(path: Path) -> None:
    """Raise ValueError for a JPEG of several pictures, of which OpenCV and FFmpeg read one."""
    count = jpeg.count_jpegs(path)
    if count > 1:
        raise ValueError(
            f"image {path} holds {count} pictures, of which only the first can be read; save each"
            " as a file of its own and give their folder"
        )


def _open_image(path: Path) -> Frames:
    """One picture, or all of an animated image, with its own clock if it has one."""
    if count_pictures(path) == 1:
        return _open_images(str(path), [path])
    images, durations = read_stack(path)
    if not durations:
        return Frames(str(path), None, len(images), lambda: ((image, None) for image in images))
    times = [0.0, *accumulate(durations)]  # of the pictures, and of the end
    rate = len(images) / times[-1]
    return Frames(str(path), rate, len(images), lambda: zip(images, times, strict=False))


def _open_images(name: str, paths: Sequence[Path]) -> Frames:
    files = list(filter(is_image, paths))
    if not files:
        raise ValueError(f"{name} holds no images; looked for {', '.join(IMAGE_SUFFIXES)}")
    warn_of_mixture(name, files)
    return Frames(
        name,
        None,
        len(files),
        lambda: ((read_image(path), None) for path in files),
        files=files,
    )
