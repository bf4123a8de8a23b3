"""Frames by number, from a video file, a made-up clip, or the browser's camera."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rbsf.datasets.video.sources import BrokenVideo, Frames
from rbsf.tools.page.settings import Refused
from rbsf.tools.page.spool import Spool
from rbsf.tools.page.work import Work
from rbsf.tools.tracking.span import DEFAULT_FPS

SHOWN_WIDTH = 1280  # pixels; wider frames are sent to the page at this width
QUALITY = 85  # quality of JPEGs
MOST_SIDE = 8192  # longest side of a frame, in pixels
JPEG = b"\xff\xd8"  # first bytes of a JPEG
EIGHTH = cv2.IMREAD_REDUCED_GRAYSCALE_8  # cheap to decode, however large a picture is
TOO_WIDE = f"the frames have more than {MOST_SIDE} pixels in a row, the most for this page"


class EndOfVideo(Exception):
    """There is no frame of that number."""


class About(NamedTuple):
    """Facts about a frame."""

    seconds: float  # since the first one
    width: int  # pixels
    height: int


class Footage(ABC):
    """Frames that can be read in any order; `count` is their number as far as it is known.

    Frames are `[H, W, 3]` uint8 RGB.
    """

    name: str
    fps: float
    count: int
    live = False  # whether frames are added
    note = ""  # a sentence on frames that are missing
    source: Frames | None = None
    file: Path | None = None  # the uploaded file

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.about: list[About] = []  # one for each frame read so far

    @abstractmethod
    def image(self, number: int, work: Work) -> np.ndarray:
        """A frame. Raises EndOfVideo after the last one, and Cancelled."""

    @abstractmethod
    def jpeg(self, number: int, work: Work) -> bytes:
        """A frame as the page shows it. Raises the errors of `image`."""

    def close(self) -> None:
        """Remove what is on the disk."""
        self.spool.close()
        if self.file:
            self.file.unlink(missing_ok=True)


class VideoFootage(Footage):
    """Frames of `Frames`, decoded in order; for an earlier frame decoding starts again.

    At most `most_frames` of them are shown.
    """

    def __init__(self, frames: Frames, most_frames: int, spool: Spool, work: Work) -> None:
        super().__init__(spool)
        self.name, self.fps, self.source = frames.name, frames.fps or DEFAULT_FPS, frames
        self._most_frames = most_frames
        self._rewind()
        self.count = frames.count or self._count(work)

    def image(self, number: int, work: Work) -> np.ndarray:
        """See `Footage`."""
        if number < self._position:
            self._rewind()
        while self._position < number:
            work.tell(f"Reading up to frame {number}", self._position + 1, number + 1)
            self._read()
        return self._image

    def jpeg(self, number: int, work: Work) -> bytes:
        """See `Footage`."""
        kept = self.spool.get(number)
        if kept is None:
            kept = encode(self.image(number, work))
            self.spool.put(number, kept)
        return kept

    def _rewind(self) -> None:
        self._reading = self.source.start() if self.source else iter(())
        self._position = -1
        self._image = np.zeros((1, 1, 3), np.uint8)

    def _read(self) -> None:
        """Go to the next frame. Raises EndOfVideo if there is none."""
        number = self._position + 1
        try:
            image, seconds = next(self._reading)
        except StopIteration:
            raise self._ended("") from None
        except BrokenVideo:
            raise self._ended(f"the file is damaged behind frame {number - 1}") from None
        if number >= self._most_frames:
            raise self._ended(f"only the first {number} frames are used, the most for this page")
        if max(image.shape) > MOST_SIDE:
            raise Refused(TOO_WIDE)
        self._image, self._position = image, number
        if number == len(self.about):
            time = number / self.fps if seconds is None else seconds
            self.about.append(_about(time, self._image))

    def _ended(self, note: str) -> EndOfVideo:
        self.count = self._position + 1
        self.note = self.note or note
        return EndOfVideo()

    def _count(self, work: Work) -> int:
        """Count the frames, for a header without their number."""
        try:
            while True:
                work.tell("Counting frames", self._position, self._most_frames)
                self._read()
        except EndOfVideo:
            return self.count


class CameraFootage(Footage):
    """Frames that the browser sends, kept unchanged."""

    name, fps, live = "camera", DEFAULT_FPS, True

    def __init__(self, most_frames: int, spool: Spool) -> None:
        super().__init__(spool)
        self.count = 0
        self._most_frames = most_frames
        self._last = np.zeros((1, 1, 3), np.uint8)

    def append(self, jpeg: bytes, seconds: float) -> int:
        """Add a frame; returns its number. Raises Refused if it is not a JPEG, and when full."""
        image = decode(jpeg)
        full = self.count >= self._most_frames
        if full or not self.spool.put(self.count, jpeg):
            raise Refused("the recording has reached the longest that this page takes; stop here")
        self._last = image
        self.about.append(_about(max(seconds, 0.0), image))
        self.count += 1
        return self.count - 1

    def image(self, number: int, work: Work) -> np.ndarray:
        """See `Footage`."""
        if number == self.count - 1:
            return self._last
        return decode(self.jpeg(number, work))

    def jpeg(self, number: int, work: Work) -> bytes:
        """See `Footage`."""
        kept = self.spool.get(number)
        if kept is None:
            raise EndOfVideo
        return kept


def _about(seconds: float, image: np.ndarray) -> About:
    return About(seconds, image.shape[1], image.shape[0])


def encode(image: np.ndarray) -> bytes:
    """A frame as JPEG, at most SHOWN_WIDTH pixels wide."""
    height, width = image.shape[:2]
    if width > SHOWN_WIDTH:
        size = (SHOWN_WIDTH, max(round(height * SHOWN_WIDTH / width), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def decode(jpeg: bytes) -> np.ndarray:
    """Decode a camera's frame. Raises Refused for all but a JPEG of a usual size."""
    data = np.frombuffer(jpeg, np.uint8)
    small = cv2.imdecode(data, EIGHTH) if jpeg.startswith(JPEG) else None
    if small is not None and max(small.shape) * 8 > MOST_SIDE:
        raise Refused(TOO_WIDE)
    bgr = None if small is None else cv2.imdecode(data, cv2.IMREAD_COLOR)
    if bgr is None:
        raise Refused("the camera's frame is no picture that the server can read")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
