"""Read the video files that OpenCV cannot, with PyAV, which is an extra: `rbsf[video]`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  (before av: in the other order, OpenCV's windows hang on Linux)
import numpy as np

from rbsf.datasets.video.containers import as_shown, display_turn
from rbsf.datasets.video.images import check_video_size
from rbsf.datasets.video.opencv_reader import Stamped


def is_installed() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


class NoPictures(ValueError):
    """A whole file has no video stream, only others."""


class PyavReader:
    """Frames of a video file's main video stream.

    `count` and `fps` come from the file, or are None if it does not have them. Raises NoPictures
    for a file without pictures, and ValueError for one that PyAV does not read either.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = display_turn(path)
        try:
            with self._open() as container:
                stream = _main_stream(container, f"video {self.path}")
                self.count = stream.frames or None
                self.fps = float(stream.average_rate or Fraction(0)) or None
                aspect = stream.sample_aspect_ratio or Fraction(1)
                self.pixel_aspect = as_shown(aspect, self._turn)
                size = stream.width, stream.height
        except NoPictures:
            raise
        except (self._errors(), ValueError, AttributeError) as error:
            raise ValueError(f"PyAV cannot read it either ({error})") from None
        check_video_size(path, *size)

    def __iter__(self) -> Iterator[Stamped]:
        """All frames; None in place of one that cannot be decoded.

        Warns of the first one that is decoded with errors.
        """
        with self._open() as container:
            stream = _main_stream(container, f"video {self.path}")
            stream.thread_type = "AUTO"
            for frame, seconds in _decode(container, stream, f"video {self.path}"):
                image = frame.to_ndarray(format="rgb24") if frame else None
                if self._turn and image is not None:
                    image = self._turn.apply(image)
                yield image, seconds

    def _open(self) -> Any:
        import av

        return av.open(str(self.path))

    @staticmethod
    def _errors() -> type[Exception]:
        import av

        return av.FFmpegError


class PyavStream:
    """Frames of a stream or a pipe, which can be read once.

    `count` and `fps` are as in `PyavReader`. Raises ValueError if it cannot be opened, and while it
    is read if it breaks off after its first frame.
    """

    def __init__(self, address: str) -> None:
        import av

        self.path = address
        self._faults = (av.FFmpegError, OSError)
        try:
            self._container = av.open(address)
        except self._faults as error:
            raise ValueError(f"{address} cannot be opened as a video ({error.strerror})") from None
        self._stream = _main_stream(self._container, address)
        self.count = self._stream.frames or None
        self.fps = float(self._stream.average_rate or 0) or None
        self.pixel_aspect = as_shown(self._stream.sample_aspect_ratio or Fraction(1), None)

    def __iter__(self) -> Iterator[Stamped]:
        """All frames, turned as players show them; None in place of one that cannot be decoded."""
        count = 0
        try:
            with self._container as container:
                frames = _decode(container, self._stream, self.path)
                for frame, seconds in frames:
                    yield _as_shown(frame) if frame else None, seconds
                    count += 1
        except self._faults as error:
            if count:
                fault = f"broke off after {count} frames ({error.strerror})"
                raise ValueError(f"{self.path} {fault}") from None


def _as_shown(frame: Any) -> np.ndarray:
    """A frame as an image, turned by a multiple of 90 degrees as it asks for."""
    quarters = round(frame.rotation / 90)  # counter-clockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarters))


def _decode(container: Any, stream: Any, name: str) -> Iterator[tuple[Any, float]]:
    """PyAV's frames and their seconds; None in place of a frame that cannot be decoded.

    Warns of the first one that is decoded with errors.
    """
    import av

    seconds, number, sound = 0.0, 0, True
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            yield None, seconds
            number += 1
            continue
        for frame in decoded:
            if sound and frame.is_corrupt:
                sound = False
                damage = f"from frame {number} on, pictures may be wrong"
                warnings.warn(f"{name} is damaged: {damage}", stacklevel=3)
            number += 1
            seconds = seconds if frame.time is None else float(frame.time)
            yield frame, seconds


def _main_stream(container: Any, name: str) -> Any:
    """The video stream that a player shows, not a cover picture."""
    stream = container.streams.best("video")
    if stream is not None:
        return stream
    if container.streams:
        raise NoPictures(f"{name} holds no pictures, only sound or text; give another file")
    raise ValueError(f"{name} holds nothing that can be read")
