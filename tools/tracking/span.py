"""Which frames of a video are tracked: from a frame or a time, to a frame or a time."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rbsf.datasets.video.codecs import MAX_FPS

if TYPE_CHECKING:
    import numpy as np

Place = int | float  # int: a frame, from 0; float: seconds since the first frame

SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)s")
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")  # 1:02.5, 1:02:03
DEFAULT_FPS = 25.0  # for images and streams that name no rate
ROUNDING = 0.0005  # seconds; files of boxes have times in milliseconds


class Numbered(NamedTuple):
    """A frame with its number in its video."""

    number: int
    image: np.ndarray  # [H, W, 3] uint8 RGB
    seconds: float | None  # since the first frame; None if the source has no times


def place(text: str) -> Place:
    """Parse a flag's frame, such as 120, or time, such as 12.5s or 1:02.5 (`type=` of argparse)."""
    if text.isdecimal():
        return int(text)
    if found := SECONDS.fullmatch(text):
        return float(found[1])
    if found := CLOCK.fullmatch(text):
        return 3600.0 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3])
    forms = "a frame, such as 120, or a time, such as 12.5s or 1:02.5"
    raise argparse.ArgumentTypeError(f"{text!r} is not {forms}")


def rate(text: str) -> float:
    """Parse a flag's number of frames a second (`type=` of argparse)."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_FPS:
        limit = f"a number above 0, up to {MAX_FPS}, such as 25"
        raise argparse.ArgumentTypeError(f"{text!r} is not {limit}")
    return value


def describe(where: Place) -> str:
    """A place in words."""
    return f"{where}" if isinstance(where, int) else f"at {where:g} s"


@dataclass(frozen=True)
class Span:
    """Which frames of a video are tracked: all from `first` to `last`, including both.

    Raises ValueError if the end is before the start.
    """

    first: Place = 0
    last: Place | None = None  # None for the video's end

    def __post_init__(self) -> None:
        if self.last is None or type(self.first) is not type(self.last):
            return  # a frame and a time are compared while the video is read
        if self.last < self.first:
            start, end = (describe(each).removeprefix("at ") for each in (self.first, self.last))
            raise ValueError(f"--end {end} is before --start {start}; give a later one")

    def choose(
        self, frames: Iterable[tuple[np.ndarray, float | None]], fps: float
    ) -> Iterator[Numbered]:
        """Yield these frames. Frames without a time count as `fps` a second."""
        for number, (image, seconds) in enumerate(frames):
            time = number / fps if seconds is None else seconds
            if self._ends_before(number, time):
                return
            if self._has_begun(number, time):
                yield Numbered(number, image, seconds)
            if number == self.last and isinstance(self.last, int):
                return  # without waiting for another frame

    def _has_begun(self, number: int, time: float) -> bool:
        if isinstance(self.first, int):
            return number >= self.first
        return time >= self.first - ROUNDING

    def _ends_before(self, number: int, time: float) -> bool:
        if self.last is None:
            return False
        if isinstance(self.last, int):
            return number > self.last
        return time > self.last + ROUNDING

    def expected(self, count: int | None) -> int | None:
        """Number of frames in the span, if the video's header says `count`.

        None if the header says no number or one that is too small to be true, or if the span has
        times.
        """
        if not count or not isinstance(self.first, int) or isinstance(self.last, float):
            return None
        stop = count if self.last is None else min(self.last + 1, count)
        total = stop - self.first
        return total if total > 0 else None

    def beyond(self, count: int | None, fps: float) -> str | None:
        """A sentence if the video's header says that it ends before the span does, else None."""
        if not count or self.last is None:
            return None
        last = count - 1 if isinstance(self.last, int) else (count - 1) / fps
        if self.last <= last + ROUNDING:
            return None
        where, end = (describe(each).removeprefix("at ") for each in (last, self.last))
        return f"the video ends at {where}, before --end {end}"
