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
        seconds, number, sound = 0.0, 0, True
        with self._open() as container:
            stream = _main_stream(container, f"video {self.path}")
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except self._errors():
                    yield None, seconds
                    number += 1
                    continue
                for frame in decoded:
                    if sound and frame.is_corrupt:
                        sound = False
                        self._warn_of_damage(number)
                    number += 1
                    seconds = seconds if frame.time is None else float(frame.time)
                    image = frame.to_ndarray(format="rgb24")
                    yield self._turn.apply(image) if self._turn else image, seconds

    def _warn_of_damage(self, number: int) -> None:
        warnings.warn(
            f"video {self.path} is damaged: from frame {number} on, pictures may be wrong",
            stacklevel=3,
        )

    def _open(self) -> Any:
        import av

        return av.open(str(self.path))

    @staticmethod
    def _errors() -> type[Exception]:
        import av

        return av.FFmpegError


def read_stream(address: str) -> Iterator[tuple[np.ndarray, float]]:
    """Frames of a stream, `[H, W, 3]` uint8 RGB, with their timestamps in seconds.

    Raises ValueError if it cannot be opened, or breaks off before its end.
    """
    import av

    count, seconds = 0, 0.0
    try:
        with av.open(address) as container:
            for frame in container.decode(_main_stream(container, address)):
                seconds = seconds if frame.time is None else float(frame.time)
                yield frame.to_ndarray(format="rgb24"), seconds
                count += 1
    except (av.FFmpegError, OSError) as error:
        what = f"broke off after {count} frames" if count else "cannot be opened as a video"
        raise ValueError(f"{address} {what} ({error.strerror})") from None


def _main_stream(container: Any, name: str) -> Any:
    """The video stream that a player shows, not a cover picture."""
    stream = container.streams.best("video")
    if stream is not None:
        return stream
    if container.streams:
        raise NoPictures(f"{name} holds no pictures, only sound or text; give another file")
    raise ValueError(f"{name} holds nothing that can be read")
