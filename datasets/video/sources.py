"""Read videos: files, cameras, streams and pipes. Frames are H x W x 3 uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.containers import is_cut_short, shows_all_frames

COMMON_FPS = 240  # a header that says more often names its unit of time, such as 1/600 or 1/1000 s
MAX_FPS = 60_000  # that a video can be written at
MEASURED_FRAMES = 10  # whose timestamps tell the rate where the header is not believed


class BrokenVideo(ValueError):
    """A video file that was cut short or damaged; every frame of it that can be decoded has been
    yielded.
    """


@dataclass(frozen=True)
class Frames:
    """A run of frames that can be iterated again and again (a camera: from now on; a stream or
    pipe: once).

    ``count`` is what a folder holds or a video's header says, which may be wrong; None where
    nothing does. ``fps`` is the mean rate. Iterating yields H x W x 3 uint8 RGB, whose size may
    change on the way, and ``start()`` each with its time in seconds since the first one (None where
    there is no clock: images, cameras). Both raise ValueError for a frame that cannot be read,
    BrokenVideo after the last good frame of a broken file.
    """

    name: str
    fps: float | None
    count: int | None
    start: Callable[[], Iterator[tuple[np.ndarray, float | None]]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image for image, _ in self.start())


def open_camera(index: int) -> Frames:
    """Open a camera by its number; ValueError where there is none."""
    capture = cv2.VideoCapture(index)
    opened = capture.isOpened()
    fps = capture.get(cv2.CAP_PROP_FPS) if opened else 0.0
    capture.release()
    if not opened:
        raise ValueError(f"camera {index} cannot be opened; is it plugged in and free?")

    def start() -> Iterator[tuple[np.ndarray, None]]:
        for image, _ in _decode(cv2.VideoCapture(index), None):
            yield image, None

    return Frames(f"camera {index}", fps if fps > 0 else None, None, start)


def open_stream(address: str) -> Frames:
    """Open a URL that FFmpeg knows (rtsp, http ...) or a pipe; ValueError where that fails, or for
    a second reading.
    """
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ValueError(
            f"{address} cannot be opened as a video; is the address right, and is a video sent there?"
        )
    count, fps = _header_count(capture), _header_rate(capture)
    frames = _decode(capture, fps)
    first = next(frames, None)
    if first is None:
        raise ValueError(
            f"{address} opens, but no frame comes; an .mp4 can be sent so with its index in front alone"
        )
    unread = [chain([first], frames)]

    def start() -> Iterator[tuple[np.ndarray, float | None]]:
        if not unread:
            raise ValueError(f"{address} can be read only once; save it to a file")
        return unread.pop()

    return Frames(address, fps, count, start)


def open_video(path: Path) -> Frames:
    """Open a video file; ValueError where it is empty or nothing of it can be decoded."""
    if path.stat().st_size == 0:
        raise ValueError(f"video {path} is empty (0 bytes)")
    capture = cv2.VideoCapture(str(path))
    opened, good = capture.isOpened(), capture.read()[0]
    count, fps = _header_count(capture), _mean_rate(capture)
    capture.release()
    if not opened:
        raise ValueError(
            f"{path} cannot be opened as a video: cut short, damaged or of an unknown format"
        )
    if not good:
        raise ValueError(
            f"video {path} opens, but not one frame of it can be decoded: it is cut short or damaged"
        )
    return Frames(str(path), fps, count, lambda: _play(path, count, fps))


def _header_count(capture: cv2.VideoCapture) -> int | None:
    """Number of frames by the header. An estimate: cuts by edit lists and longer sound are counted
    in, among others.
    """
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None


def _header_rate(capture: cv2.VideoCapture) -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MAX_FPS else None


def _mean_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames a second by the header; where that is uncommonly many, by the next frames' timestamps,
    if they rise.
    """
    fps = _header_rate(capture)
    if not fps or fps <= COMMON_FPS:
        return fps
    stamps = [
        capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(MEASURED_FRAMES) if capture.read()[0]
    ]
    seconds = (stamps[-1] - stamps[0]) / 1000 if stamps else 0.0
    measured = (len(stamps) - 1) / seconds if seconds > 0 else fps
    return (
        fps if 0.9 < measured / fps < 1.1 else measured
    )  # timestamps may be rounded to milliseconds


def _decode(
    capture: cv2.VideoCapture, fps: float | None
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Frames of an open capture, until it gives no more, each with its seconds since the first;
    releases it.

    Timestamps count while they rise; from the first on that does not (raw streams have none) each
    frame takes 1/fps.
    """
    first, seconds, rising = 0.0, -1.0, True
    try:
        while True:
            good, image = capture.read()
            if not good or image is None:
                return
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if seconds < 0:
                first = stamp
            rising = rising and stamp - first > seconds
            seconds = stamp - first if rising else seconds + (1 / fps if fps else 0)
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB), seconds if rising or fps else None
    finally:
        capture.release()


def _play(
    path: Path, count: int | None, fps: float | None
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Decode a video file to its end; raises BrokenVideo there if frames are missing for sure.

    Fewer frames than the header says do not prove that. The file must be shorter than it says
    itself, or list its frames and show them all, and time lack some.
    """
    times: list[float] = []
    for image, seconds in _decode(cv2.VideoCapture(str(path)), fps):
        times.append(seconds or 0.0)
        yield image, seconds
    if count and len(times) >= count - 1:  # one is forgiven to headers that round
        return
    if is_cut_short(path) or (
        count and fps and _has_gap(times, count / fps) and shows_all_frames(path)
    ):
        promised = f" of the {count} frames that its header promises" if count else " frames"
        raise BrokenVideo(
            f"video {path} is cut short or damaged: {len(times)}{promised} could be decoded (0 to {len(times) - 1})"
        )


def _has_gap(times: list[float], length: float) -> bool:
    """Whether frames at ``times`` leave a gap in, or at the end of, ``length`` seconds: none if two
    fields make one.
    """
    steps = np.diff([*times, length])
    return bool(steps.max() > 1.5 * np.median(steps))


def count_frames(path: str | Path) -> int:
    """Number of frames of a video file that can be decoded: all of them are, which takes its time."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def read_video_frame(path: str | Path, index: int) -> np.ndarray:
    """Frame ``index`` (from 0) of a video, by a seek, as H x W x 3 uint8 RGB; ValueError where it
    cannot be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    good, image = capture.read()
    capture.release()
    if not good:
        raise ValueError(f"frame {index} of video {path} cannot be decoded; is the file whole?")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
