"""A tracking run and what it leaves behind: drawn frames, boxes, and words on lost targets and on
speed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.sources import Frames
from rbsf.datasets.video.writer import VideoWriter
from rbsf.system.stop import StopRequest
from rbsf.tracker.anchor_free import Network
from rbsf.tracker.loading import Constants, wrapped
from rbsf.tracker.session import Session
from rbsf.tracker.siamfc import Backbone, Result

COLORS = [
    (64, 220, 64),
    (255, 160, 0),
    (64, 160, 255),
    (255, 64, 200),
    (240, 230, 60),
]  # RGB, by target
LOST_COLOR = (255, 40, 40)
DEFAULT_FPS = 25.0  # of images, which have no rate of their own
WINDOW = "track (q ends)"
FLUSH_SECONDS = 1.0  # between two writings of boxes

Row = dict[str, float | int]
Item = TypeVar("Item")


@dataclass
class Timing:
    """Seconds a run spends on decoding, in the network and on everything else."""

    start: float = field(default_factory=time.perf_counter)
    decode: float = 0.0
    network: float = 0.0

    def decoding(self, frames: Iterable[Item]) -> Iterator[Item]:
        """Pass frames on, and count the time that they take to come."""
        source = iter(frames)
        while True:
            start = time.perf_counter()
            frame = next(source, None)
            self.decode += time.perf_counter() - start
            if frame is None:
                return
            yield frame

    def of_network(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of the network to count the time spent in it."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.network += time.perf_counter() - start
            return result

        return timed

    def summary(self, count: int) -> str:
        """One line on speed, for ``count`` frames since ``start``."""
        total = time.perf_counter() - self.start
        shares = {
            "decode": self.decode,
            "network": self.network,
            "rest": total - self.decode - self.network,
        }
        split = ", ".join(
            f"{name} {1000 * s / count:.1f} ms ({s / total:.0%})" for name, s in shares.items()
        )
        return f"{count} frames in {total:.1f} s: {count / total:.1f} fps; per frame {split}"


@dataclass
class Recorder:
    """Takes each frame's results: hands on the boxes, tells losses, draws, writes and shows."""

    fps: float | None  # of frames that come without a time; None: a camera, timed by the clock
    writer: VideoWriter | None
    boxes: BoxWriter | None
    show: bool
    first: int = 0  # number of the first frame
    start: float = field(default_factory=time.perf_counter)
    frames: int = 0
    lost: set[int] = field(default_factory=set)

    def add(self, image: np.ndarray, seconds: float | None, results: list[Result]) -> bool:
        """Record a frame (H x W x 3 uint8 RGB), its time and a result per target; False once the
        window is closed.
        """
        for target, result in enumerate(results, 1):
            self._tell_loss(target, result, several=len(results) > 1)
        if self.boxes:
            self.boxes.add(self._rows(seconds, results))
        self.frames += 1
        if self.writer or self.show:
            drawn = draw(image, results)
            if self.writer:
                self.writer.write(drawn)
            return not self.show or show(drawn)
        return True

    @property
    def number(self) -> int:
        """Number of the next frame in its video, from 0."""
        return self.first + self.frames

    def _rows(self, seconds: float | None, results: list[Result]) -> list[Row]:
        if seconds is None:
            seconds = self.number / self.fps if self.fps else time.perf_counter() - self.start
        rows: list[Row] = []
        for target, result in enumerate(results, 1):
            row: Row = {"frame": self.number, "time": round(seconds, 3)}
            if len(results) > 1:
                row["target"] = target
            row |= zip("xywh", (round(float(v), 3) for v in result.box), strict=True)
            rows.append(row | {"score": round(result.score, 4), "lost": int(result.lost)})
        return rows

    def _tell_loss(self, target: int, result: Result, several: bool) -> None:
        if result.lost == (target in self.lost):
            return
        self.lost ^= {target}
        change = "probably lost" if result.lost else "found again"
        who = f"target {target}" if several else "target"
        tqdm.write(f"frame {self.number}: {who} {change} (score {result.score:.2f})")


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go, None for nowhere, and whether it is shown in a window."""

    video: Path | None = None
    boxes: Path | None = None  # .csv or .json
    show: bool = False


@dataclass(frozen=True)
class Span:
    """Which frames of a video are tracked: the first one, and the one after the last (None: to its
    end).
    """

    first: int = 0
    stop: int | None = None

    def expected(self, count: int | None) -> int | None:
        """How many frames there are, by a header of `count` frames; None where that says nothing."""
        ends = [end for end in (self.stop, count) if end is not None]
        total = min(ends) - self.first if count else 0
        return total if total > 0 else None  # a header that says less than there is helps nobody


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    frames: int  # that were tracked
    speed: str  # a sentence
    error: Exception | None = None  # that broke in
    signum: int | None = None  # of the signal that asked for the end


def track_video(
    source: str,
    frames: Frames,
    choose: Callable[[np.ndarray], list[tuple[float, ...]]],
    network: Backbone | Network,
    constants: Constants,
    outputs: Outputs,
    span: Span,
) -> Ending:
    """Follow the targets that `choose` finds in the first frame; what was computed is kept in any
    case.

    `frames`: what `open_frames` opened of `source`.

    Prints what happens, under a progress bar.  Errors in a frame after the first are in what is
    returned; ValueError or OSError, before any tracking, for a source without that frame and boxes
    that cannot be used.
    """
    fps = frames.fps or DEFAULT_FPS
    images = islice(frames.start(), span.first, span.stop)
    first, seconds = next(images, (None, None))
    if first is None:
        raise ValueError(
            f"{source} holds no frame {span.first}"
            + ("; give an earlier --start" if span.first else "")
        )
    timing = Timing()
    session = Session(wrapped(network, timing.of_network), constants)
    session.update(first, seconds)
    for box in choose(first):
        session.add(box)
    for note in session.notes:
        print(note)
    writer = VideoWriter(outputs.video, fps) if outputs.video else None
    rows = BoxWriter(outputs.boxes) if outputs.boxes else None
    recorder = Recorder(None if source.isdecimal() else fps, writer, rows, outputs.show, span.first)
    with StopRequest() as stop, rows or nullcontext(), writer or nullcontext():
        recorder.add(first, seconds, [*session.results.values()])
        error = _follow(
            timing.decoding(images), session, recorder, span.expected(frames.count), stop
        )
    return Ending(recorder.frames, timing.summary(recorder.frames), error, stop.signum)


def _follow(
    frames: Iterator[tuple[np.ndarray, float | None]],
    session: Session,
    recorder: Recorder,
    total: int | None,
    stop: StopRequest,
) -> Exception | None:
    """Track to the end of ``frames``, ``total`` by the header, or to a stop; the error that broke
    in.
    """
    with tqdm(total=total, initial=1, desc="track", unit="frame") as bar:
        try:
            for image, seconds in frames:
                go_on = recorder.add(image, seconds, [*session.update(image, seconds).values()])
                bar.update()
                if stop.signum or not go_on:
                    return None
        except (ValueError, OSError) as error:
            return error
    if total and total != recorder.frames:
        print(
            f"the video ended after {recorder.number} frames; by its header {recorder.first + total} were expected"
        )
    return None


class BoxWriter:
    """Writes boxes to ``path``, .csv or .json; use as a context manager.

    CSV rows go, about once a second, to ``path`` with ``.part`` appended, which even a killed run
    leaves; JSON is written at the end. The file gets its name when the block ends, with or without
    an error. Where writing fails (a full disk), the rows that are not in the file are printed and
    OSError is raised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._json = path.suffix.lower() == ".json"
        self._rows: list[Row] = []  # not written yet
        self._written = time.monotonic()
        self._size = 0  # bytes of whole rows in the file

    def __enter__(self) -> BoxWriter:
        return self

    def add(self, rows: list[Row]) -> None:
        """Take a frame's rows, which all have the same columns."""
        self._rows += rows
        if not self._json and time.monotonic() - self._written >= FLUSH_SECONDS:
            self._write()

    def __exit__(self, *_: object) -> None:
        try:
            if self._rows:
                self._write()
        finally:
            if self._size:
                os.replace(self._part, self.path)
                print(f"boxes: {self.path}")

    def _write(self) -> None:
        text = (
            json.dumps(self._rows, indent=1) + "\n"
            if self._json
            else format_csv(self._rows, not self._size)
        )
        try:
            append(self._part, text, self._size)
        except OSError as error:
            print(text, end="")
            raise OSError(
                f"cannot write {self.path}: {error.strerror}; the boxes not in it were printed instead"
            ) from error
        finally:
            self._rows.clear()
        self._size += len(text)
        self._written = time.monotonic()


def append(path: Path, text: str, size: int) -> None:
    """Write ASCII ``text`` after the first ``size`` bytes of a file (0: anew); all of it or, with
    OSError, none.
    """
    try:
        with path.open("a" if size else "w", newline="", encoding="ascii") as file:
            file.write(text)
    except OSError:
        with suppress(OSError):  # there may be no file to cut back
            os.truncate(path, size) if size else path.unlink()
        raise


def format_csv(rows: list[Row], header: bool) -> str:
    """Lay rows out as lines of CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def draw(image: np.ndarray, results: list[Result]) -> np.ndarray:
    """Draw boxes and scores into a copy of an H x W x 3 uint8 RGB image; lost targets in red."""
    image = image.copy()
    line = max(2, round(min(image.shape[:2]) / 240))
    for target, result in enumerate(results, 1):
        color = LOST_COLOR if result.lost else COLORS[(target - 1) % len(COLORS)]
        x, y, w, h = (round(float(v)) for v in result.box)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, line)
        text = f"{target}: " if len(results) > 1 else ""
        text += f"{result.score:.2f}" + (" lost?" if result.lost else "")
        font, size = cv2.FONT_HERSHEY_SIMPLEX, line / 4
        (width, height), _ = cv2.getTextSize(text, font, size, 1)
        x, y = max(x, 0), max(y, height + 2 * line)  # above the box, where there is room
        cv2.rectangle(image, (x, y - height - 2 * line), (x + width, y), color, cv2.FILLED)
        cv2.putText(image, text, (x, y - line), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def show(image: np.ndarray) -> bool:
    """Show an RGB image in the window; False once the user presses q or Escape or closes it."""
    cv2.imshow(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    key = cv2.waitKey(1) & 0xFF
    return key not in (ord("q"), 27) and cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1
