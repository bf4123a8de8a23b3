"""Open videos: files, cameras, streams and pipes.  Frames are `[H, W, 3]` uint8 RGB."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from rbsf.datasets.video import pyav_reader
from rbsf.datasets.video.containers import is_cut_short, is_gif, shows_all_frames
from rbsf.datasets.video.live import NewestFrame
from rbsf.datasets.video.opencv_reader import (
    OpenCvReader,
    advice,
    fault_of,
    header_count,
    header_rate,
)
from rbsf.datasets.video.pyav_reader import PyavReader, PyavStream

Reader = OpenCvReader | PyavReader
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
LIVE_SUFFIXES = (".mjpg", ".mjpeg", ".m3u8")  # cameras and broadcasts over http
NOT_OPENED = "cannot be opened as a video; is the address right, and is a video sent there?"
MAX_STAND_INS = 5  # most frames in a row that the last good frame may replace


class BrokenVideo(ValueError):
    """A video file was cut short or damaged; every frame that can be decoded has been yielded."""


@dataclass(frozen=True)
class Frames:
    """A run of frames that can be iterated again and again.

    Each iteration over a camera or live stream begins with its current frame; other streams and
    pipes can be read only once. `count` is the number of images in a folder or of frames in a
    video's header, which may be wrong, or None. `fps` is the mean rate, or None.

    Iterating yields `[H, W, 3]` uint8 RGB, whose size may change on the way. `start()` yields each
    frame with its time in seconds since the first one, or None if there is no clock: images,
    cameras. Both raise ValueError for a frame that cannot be read, and BrokenVideo after the last
    good frame of a broken file.
    """

    name: str
    fps: float | None
    count: int | None
    start: Callable[[], Iterator[tuple[np.ndarray, float | None]]]
    live: NewestFrame | None = None  # only for a source that drops frames
    pixel_aspect: Fraction = Fraction(1)  # width / height of a pixel, as players show it
    files: Sequence[Path] = ()  # one for each frame, if frames are image files

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image for image, _ in self.start())


def open_camera(index: int) -> Frames:
    """Open a camera by its number, as a live source. Raises ValueError if there is none."""
    capture = cv2.VideoCapture(index)
    opened = capture.isOpened()
    fps = capture.get(cv2.CAP_PROP_FPS) if opened else 0.0
    capture.release()
    if not opened:
        raise ValueError(f"camera {index} cannot be opened; is it plugged in and free?")
    return _live(f"camera {index}", index, fps if fps > 0 else None)


def open_stream(address: str) -> Frames:
    """Open a URL that FFmpeg knows (rtsp, http ...) or a pipe.

    The address of a live source is read as one. Others are files that come over a network: none of
    their frames is dropped, and they can be read once. Raises ValueError if such a file cannot be
    opened or is read again.
    """
    if is_live(address):
        return _live(address, address, None)
    if pyav_reader.is_installed():
        stream = PyavStream(address)
        frames = _without_gaps(stream)
        return _read_once(address, stream.fps, stream.count, frames, stream.pixel_aspect)
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ValueError(f"{address} {NOT_OPENED}")
    count, fps = header_count(capture), header_rate(capture)
    return _read_once(address, fps, count, _read_capture(capture))


def is_live(address: str) -> bool:
    """Whether an address names a source that does not wait for its reader."""
    scheme, _, rest = address.lower().partition("://")
    path = rest.partition("?")[0]
    return scheme in LIVE_SCHEMES or (scheme.startswith("http") and path.endswith(LIVE_SUFFIXES))


def _live(name: str, source: int | str, fps: float | None) -> Frames:
    def connect() -> Generator[np.ndarray, None, None]:
        capture = cv2.VideoCapture(source)
        if not capture.isOpened():
            raise ValueError(NOT_OPENED)
        for image, _ in _read_capture(capture):
            yield image

    newest = NewestFrame(name, connect)
    return Frames(name, fps, None, lambda: iter(newest), newest)


def _read_once(
    address: str,
    fps: float | None,
    count: int | None,
    stamped: Iterator[tuple[np.ndarray, float]],
    pixel_aspect: Fraction = Fraction(1),
) -> Frames:
    """Frames of a stream; this waits for the first one."""
    frames = _timed(stamped, fps)
    first = next(frames, None)
    if first is None:
        advice = "an .mp4 can be sent so with its index in front alone"
        raise ValueError(f"{address} opens, but no frame comes; {advice}")
    unread = [chain([first], frames)]

    def start() -> Iterator[tuple[np.ndarray, float | None]]:
        if not unread:
            raise ValueError(f"{address} can be read only once; save it to a file")
        return unread.pop()

    return Frames(address, fps, count, start, pixel_aspect=pixel_aspect)


def open_video(path: Path) -> Frames:
    """Open a video file.

    OpenCV reads the files that it reads correctly, and PyAV, if installed, the rest. Raises
    ValueError for a file that is empty, cannot be decoded, or needs PyAV while that is missing.
    """
    reader = open_reader(path)
    return Frames(
        str(path),
        reader.fps,
        reader.count,
        lambda: _play(reader),
        pixel_aspect=reader.pixel_aspect,
    )


def open_reader(path: Path) -> Reader:
    """Open the reader for a video file. Raises the same errors as `open_video`."""
    if not path.is_file():
        raise FileNotFoundError(f"video {path} does not exist")
    state = path.stat()
    if state.st_size == 0:
        raise ValueError(f"video {path} is empty (0 bytes)")
    return _choose_reader(path, path.resolve(), state.st_mtime_ns)


@lru_cache(maxsize=64)
def _choose_reader(path: Path, place: Path, changed_at: int) -> Reader:
    """Choose the reader for the video `path`.

    Examining the file takes time, so the choice is kept while `path` leads to the same `place` and
    the file there does not change.
    """
    fault = fault_of(path)
    if fault is None:
        return OpenCvReader(path)
    if not pyav_reader.is_installed():
        raise ValueError(f"video {path} {fault}; {advice(path)}")
    try:
        return PyavReader(path)
    except pyav_reader.NoPictures:
        raise
    except ValueError:
        raise ValueError(f"video {path} {fault}") from None


def _read_capture(capture: cv2.VideoCapture) -> Iterator[tuple[np.ndarray, float]]:
    """Yield frames and timestamps in seconds until there are no more; then release `capture`."""
    try:
        while True:
            good, image = capture.read()
            if not good or image is None:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB), capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    finally:
        capture.release()


def _without_gaps(reader: Reader | PyavStream) -> Iterator[tuple[np.ndarray, float]]:
    """Yield frames; the last good one replaces those that cannot be decoded, to keep the numbers.

    The times of replaced frames are spread evenly. Raises BrokenVideo if more than MAX_STAND_INS in
    a row cannot be decoded, but a later one can.
    """
    last: tuple[np.ndarray, float] | None = None
    number = bad = 0
    for image, stamp in reader:
        if image is None:
            bad += 1
            continue
        if last is not None:
            yield from _stand_ins(reader.path, last, stamp, number, bad)
            number += bad
        elif bad:
            warnings.warn(
                f"video {reader.path}: its first {bad} frames cannot be decoded; they are left out",
                stacklevel=2,
            )
        yield image, stamp
        last, number, bad = (image, stamp), number + 1, 0


def _stand_ins(
    path: Path | str, last: tuple[np.ndarray, float], stamp: float, number: int, bad: int
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield frame `last` again for each of the `bad` frames from `number` to the one at `stamp`."""
    if not bad:
        return
    if bad > MAX_STAND_INS:
        raise BrokenVideo(
            f"video {path} is damaged: frames {number} to {number + bad - 1} cannot be decoded"
        )
    warnings.warn(
        f"video {path}: frame {number} cannot be decoded; the one before stands in for it",
        stacklevel=2,
    )
    image, before = last
    step = (stamp - before) / (bad + 1)
    for place in range(1, bad + 1):
        yield image.copy(), before + place * step


def _timed(
    frames: Iterable[tuple[np.ndarray, float]], fps: float | None
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Yield frames with their seconds since the first; these never decrease.

    If a timestamp does not rise (in raw streams none does), the time is 1/fps after the previous
    frame, or None without a rate. Later timestamps that rise are used again.
    """
    begin, highest, seconds = None, 0.0, 0.0
    for image, stamp in frames:
        if begin is None:
            begin = stamp
            yield image, 0.0
            continue
        rises = stamp - begin > highest
        if rises:
            highest = stamp - begin
            seconds = max(seconds, highest)
        elif fps:
            seconds += 1 / fps
        yield image, seconds if rises or fps else None


def _play(reader: Reader) -> Iterator[tuple[np.ndarray, float | None]]:
    """Decode a video file to its end. Raises BrokenVideo there if frames are certainly missing.

    Fewer frames than in the header are no proof of that. The file must end before its own blocks
    do, or the times must have a gap in a file that shows every frame it lists.
    """
    path, fps = reader.path, reader.fps
    count = None if is_gif(path) else reader.count  # FFmpeg counts what is left of a GIF
    times: list[float] = []
    for image, seconds in _timed(_without_gaps(reader), fps):
        times.append(seconds or 0.0)
        yield image, seconds
    if not times:
        raise BrokenVideo(f"video {path} is damaged: none of its frames can be decoded")
    if count and len(times) >= count - 1:  # one missing frame is allowed, because headers round
        return
    if is_cut_short(path) or _lacks_frames(path, times, count, fps):
        promised = f" of the {count} frames that its header promises" if count else " frames"
        raise BrokenVideo(
            f"video {path} is cut short or damaged: {len(times)}{promised} could be decoded"
            f" (0 to {len(times) - 1})"
        )


def _lacks_frames(path: Path, times: list[float], count: int | None, fps: float | None) -> bool:
    """Whether a file gave fewer frames than it lists, with a gap in the times."""
    if not count or not fps:
        return False
    steps = np.diff([*times, count / fps])  # a header that counts two fields a frame leaves no gap
    return bool(steps.max() > 1.5 * np.median(steps)) and shows_all_frames(path)


def count_frames(path: str | Path) -> int:
    """Number of frames of a video file that can be decoded.

    All of them are decoded, which takes time.
    """
    return sum(1 for _ in _without_gaps(open_reader(Path(path))))


def read_video_frame(path: str | Path, index: int) -> np.ndarray:
    """Frame `index` (from 0) of a video file, `[H, W, 3]` uint8 RGB.

    Raises ValueError if it cannot be decoded.
    """
    reader = open_reader(Path(path))
    if isinstance(reader, OpenCvReader) and reader.seeks:
        return reader.frame(index)
    return _in_order(reader).frame(index)


class FramesInOrder:
    """Frames of a file without seeks; those that are asked for in order are decoded once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = Lock()
        self._frames = _without_gaps(reader)
        self._image: np.ndarray | None = None
        self._number = -1  # of the image

    def frame(self, index: int) -> np.ndarray:
        """Frame `index`; ValueError where it cannot be decoded."""
        with self._lock:
            if index < self._number:
                self._begin()
            while self._number < index:
                found = next(self._frames, None)
                if found is None:
                    self._begin()
                    raise ValueError(
                        f"frame {index} of video {self._reader.path} cannot be decoded"
                    )
                self._image, _ = found
                self._number += 1
            assert self._image is not None  # for the type checker
            return self._image.copy()

    def _begin(self) -> None:
        self._frames, self._image, self._number = _without_gaps(self._reader), None, -1


# A file that is read stays open, so few are kept.
_in_order = lru_cache(maxsize=4)(FramesInOrder)
