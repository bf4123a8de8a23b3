"""A tracking run: it draws frames, writes boxes, and prints lost targets and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.encoders import Original, find_codec
from rbsf.datasets.video.sources import Frames
from rbsf.datasets.video.writer import VideoWriter, shown_size
from rbsf.system.stop import StopRequest
from rbsf.tools.box_forms import Row
from rbsf.tools.box_writer import BoxWriter
from rbsf.tools.span import Numbered, Span, describe
from rbsf.tracker.anchor_free import Network
from rbsf.tracker.loading import Constants, wrapped
from rbsf.tracker.session import Session
from rbsf.tracker.siamfc import Backbone, Result

# RGB, by target
COLORS = [(64, 220, 64), (255, 160, 0), (64, 160, 255), (255, 64, 200), (240, 230, 60)]
LOST_COLOR = (255, 40, 40)  # RGB
DEFAULT_FPS = 25.0  # for images and videos that name no rate
WINDOW = "track (q ends)"

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
        """Wrap a function of the network so that the time spent in it counts."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.network += time.perf_counter() - start
            return result

        return timed

    def summary(self, count: int) -> str:
        """One line on speed, for `count` frames since `start`."""
        total = time.perf_counter() - self.start
        rest = total - self.decode - self.network
        parts = []
        for name, spent in (("decode", self.decode), ("network", self.network), ("rest", rest)):
            parts.append(f"{name} {1000 * spent / count:.1f} ms ({spent / total:.0%})")
        speed = f"{count} frames in {total:.1f} s: {count / total:.1f} fps"
        return f"{speed}; per frame {', '.join(parts)}"


@dataclass
class Recorder:
    """Takes each frame's results: prints lost targets, writes boxes, draws, writes and shows."""

    fps: float | None  # rate of frames without a time; None for a camera, which the clock times
    writer: VideoWriter | None
    boxes: BoxWriter | None
    show: bool
    watch: Callable[[list[Result]], object] | None = None  # called with each frame's results
    files: Sequence[Path] = ()  # the source's, one for each frame
    first: int = 0  # number of the first frame
    start: float = field(default_factory=time.perf_counter)
    frames: int = 0  # recorded so far
    lost: set[int] = field(default_factory=set)  # targets that are lost now

    def add(self, image: np.ndarray, seconds: float | None, results: list[Result]) -> bool:
        """Record a frame, H x W x 3 uint8 RGB, its time, and a result for each target.

        Returns False once the user has closed the window.
        """
        for target, result in enumerate(results, 1):
            self._tell_loss(target, result, several=len(results) > 1)
        if self.watch:
            self.watch(results)
        if self.boxes:
            size = (image.shape[1], image.shape[0])
            self.boxes.add(self._rows(seconds, results), size)
        self.frames += 1
        if not (self.writer or self.show):
            return True
        drawn = draw(image, results)
        if self.writer:
            self.writer.write(drawn, seconds)
        return not self.show or show(drawn)

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
            for side, value in zip("xywh", result.box, strict=True):
                row[side] = round(float(value), 3)
            row["score"] = round(result.score, 4)
            row["lost"] = int(result.lost)
            row["state"] = state_of(result)
            if self.files:
                row["file"] = self.files[self.number].name
            rows.append(row)
        return rows

    def _tell_loss(self, target: int, result: Result, several: bool) -> None:
        if result.lost == (target in self.lost):
            return
        self.lost ^= {target}
        change = "probably lost" if result.lost else "found again"
        who = f"target {target}" if several else "target"
        tqdm.write(f"frame {self.number}: {who} {change} (score {result.score:.2f})")


def state_of(result: Result) -> str:
    """The state of a target in words."""
    return "lost" if result.lost else "tracked"


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go; None for nowhere."""

    video: Path | None = None
    boxes: Path | None = None  # in one of `box_forms.FORMS`
    count_video: bool = False  # a name that is taken gives way to NAME_2, and so on
    count_boxes: bool = False
    show: bool = False  # in a window
    watch: Callable[[list[Result]], object] | None = None  # called with each frame's results


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    frames: int  # tracked
    speed: str  # a sentence
    error: Exception | None = None  # the one that ended the run
    signum: int | None = None  # of the signal that ended the run, 0 or None for none


def track_video(
    source: str,
    frames: Frames,
    choose: Callable[[np.ndarray], list[tuple[float, ...]]],
    network: Backbone | Network,
    constants: Constants,
    outputs: Outputs,
    span: Span,
) -> Ending:
    """Follow the targets that `choose` finds in the first frame, under a progress bar.

    `frames` is what `open_frames` opened of `source`. What was computed is kept in any case.

    An error in a frame after the first is in what is returned. Raises ValueError or OSError, before
    any tracking, where the source has no first frame, a box cannot be used, or an output cannot be
    written or is being written by another process.
    """
    recorder = _open_recorder(source, frames, outputs)
    with ExitStack() as opened:
        if recorder.boxes:
            opened.enter_context(recorder.boxes)
        if recorder.writer:
            opened.enter_context(recorder.writer)
        chosen = span.choose(frames.start(), frames.fps or DEFAULT_FPS)
        recorder.first, first, seconds = _first_of(chosen, source, span)
        timing = Timing()
        session = Session(wrapped(network, timing.of_network), constants)
        session.update(first, seconds)
        for box in choose(first):
            session.add(box)
        for note in session.notes:
            print(note)
        if frames.pixel_aspect != 1:
            print(_describe_pixels(source, first, frames.pixel_aspect))
        # Signals wait until the outputs are whole.
        with StopRequest() as stop, opened.pop_all():
            if frames.live:
                frames.live.should_stop = lambda: bool(stop.signum)
            recorder.start = time.perf_counter()
            recorder.add(first, seconds, [*session.results.values()])
            total = span.expected(frames.count)
            error = _follow(timing.decoding(chosen), session, recorder, total, stop)
    if frames.live:
        print(frames.live.describe())
    if recorder.writer:
        print(recorder.writer.describe())
    return Ending(recorder.frames, timing.summary(recorder.frames), error, stop.signum)


def _first_of(chosen: Iterator[Numbered], source: str, span: Span) -> Numbered:
    """The first frame of a span. Raises ValueError where there is none."""
    for first in chosen:
        return first
    advice = "; give an earlier --start" if span.first else ""
    end = "" if span.last is None else f" that is not after --end {describe(span.last)}"
    raise ValueError(f"{source} holds no frame {describe(span.first)}{end}{advice}")


def _describe_pixels(source: str, image: np.ndarray, aspect: Fraction) -> str:
    height, width = image.shape[:2]
    shape = f"{aspect.numerator}:{aspect.denominator}"
    shown = "x".join(map(str, shown_size((width, height), aspect)))
    return (
        f"{source} has pixels of the shape {shape}: boxes are in those of its {width}x{height}"
        f" frames, which players show as {shown}"
    )


def _open_recorder(source: str, frames: Frames, outputs: Outputs) -> Recorder:
    fps = frames.fps or DEFAULT_FPS
    boxes = BoxWriter(outputs.boxes, outputs.count_boxes) if outputs.boxes else None
    return Recorder(
        fps=None if source.isdecimal() else fps,  # of a camera
        writer=_open_writer(source, frames, outputs),
        boxes=boxes,
        show=outputs.show,
        watch=outputs.watch,
        files=frames.files,
    )


def _open_writer(source: str, frames: Frames, outputs: Outputs) -> VideoWriter | None:
    if not outputs.video:
        return None
    has_sound = Path(source).is_file() and not frames.files
    original = Original(
        frames.pixel_aspect, Path(source) if has_sound else None, frames.live is not None
    )
    codec = find_codec(outputs.video.suffix.lower())
    fps = frames.fps or DEFAULT_FPS
    return VideoWriter(outputs.video, fps, codec, original, outputs.count_video)


def _follow(
    frames: Iterator[Numbered],
    session: Session,
    recorder: Recorder,
    total: int | None,
    stop: StopRequest,
) -> Exception | None:
    """Track to the end of `frames`, or until a stop; returns the error that ended the run, if any.

    `total` is the number of frames by the video's header.
    """
    with tqdm(total=total, initial=1, desc="track", unit="frame") as bar:
        try:
            for _, image, seconds in frames:
                results = session.update(image, seconds)
                go_on = recorder.add(image, seconds, [*results.values()])
                bar.update()
                if stop.signum or not go_on:
                    return None
        except (ValueError, OSError) as error:
            return error
    if total and total != recorder.frames:
        expected = f"by its header {recorder.first + total} were expected"
        print(f"the video ended after {recorder.number} frames; {expected}")
    return None


def draw(image: np.ndarray, results: list[Result]) -> np.ndarray:
    """Draw boxes and scores into a copy of an H x W x 3 uint8 RGB image; lost targets in red."""
    image = image.copy()
    for target, result in enumerate(results, 1):
        color = LOST_COLOR if result.lost else COLORS[(target - 1) % len(COLORS)]
        label = f"{target}: " if len(results) > 1 else ""
        label += f"{result.score:.2f}"
        if result.lost:
            label += " lost?"
        _draw_box(image, result, label, color)
    return image


def _draw_box(image: np.ndarray, result: Result, label: str, color: tuple[int, int, int]) -> None:
    line = max(2, round(min(image.shape[:2]) / 240))
    x, y, w, h = (round(float(v)) for v in result.box)
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, line)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, line / 4
    (width, height), _ = cv2.getTextSize(label, font, size, 1)
    left = max(x, 0)
    bottom = max(y, height + 2 * line)  # above the box, where there is room
    top = bottom - height - 2 * line
    cv2.rectangle(image, (left, top), (left + width, bottom), color, cv2.FILLED)
    cv2.putText(image, label, (left, bottom - line), font, size, (0, 0, 0), 1, cv2.LINE_AA)


def show(image: np.ndarray) -> bool:
    """Show an RGB image in the window; False once the user presses q or Escape or closes it."""
    cv2.imshow(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    key = cv2.waitKey(1) & 0xFF
    if key in (ord("q"), 27):
        return False
    return cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1
