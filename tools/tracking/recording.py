"""A tracking run: it draws frames, writes boxes, and prints lost targets and its speed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.encoders import Original, find_codec
from rbsf.datasets.video.sources import Frames
from rbsf.datasets.video.writer import VideoWriter, shown_size
from rbsf.system.stop import StopRequest
from rbsf.tools.tracking.box_forms import Row, rows_of
from rbsf.tools.tracking.box_writer import BoxWriter
from rbsf.tools.tracking.controls import Player
from rbsf.tools.tracking.drawing import draw
from rbsf.tools.tracking.introduction import ask_for_corners, describe_source, describe_target, tell
from rbsf.tools.tracking.span import DEFAULT_FPS, Numbered, Span, describe
from rbsf.tools.tracking.window import Window
from rbsf.tracker.anchor_free import Network
from rbsf.tracker.loading import Constants, wrapped
from rbsf.tracker.session import Session
from rbsf.tracker.siamfc import Backbone
from rbsf.tracker.states import Result

MAX_AHEAD = 4  # most frames that tracking may be ahead of the written video

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
    """Records each frame's results: prints lost targets, writes boxes, and draws and writes frames.

    The video is encoded in a thread, while the next frames are tracked. Leaving the block of
    `encoding` waits for the thread's end.
    """

    fps: float | None  # rate of frames without a time; None for a camera, which the clock times
    writer: VideoWriter | None
    boxes: BoxWriter | None
    watch: Callable[[list[Result]], object] | None = None  # called with each frame's results
    files: Sequence[Path] = ()  # the source's image files, one for each frame
    first: int = 0  # number of the first frame
    start: float = field(default_factory=time.perf_counter)
    frames: int = 0  # number of frames recorded so far
    lost: set[int] = field(default_factory=set)  # targets that are lost now
    named: bool = False  # whether rows of boxes have the target's number
    encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    encoded: deque[Future[None]] = field(default_factory=deque)  # the last frames, done or not

    def add(self, image: np.ndarray, seconds: float | None, results: dict[int, Result]) -> None:
        """Record a frame, `[H, W, 3]` uint8 RGB, its time, and results by number of the target.

        Raises OSError if one of the last few frames could not be written.
        """
        for target, result in results.items():
            self._tell_loss(target, result, several=list(results) != [1])
        if self.watch:
            self.watch([*results.values()])
        if self.boxes and results:
            self._name_targets(self.boxes, results)
            size = (image.shape[1], image.shape[0])
            self.boxes.add(self._rows(seconds, results), size)
        self.frames += 1
        if self.writer:
            drawn = draw(image, results)
            self.encoded.append(self.encoding.submit(self.writer.write, drawn, seconds))
        if len(self.encoded) > MAX_AHEAD:
            self.encoded.popleft().result()

    def say(self, text: str) -> None:
        """Print a sentence on the next frame, above the progress bar."""
        tqdm.write(f"frame {self.number}: {text}")

    @property
    def number(self) -> int:
        """Number of the next frame in its video, from 0."""
        return self.first + self.frames

    def _name_targets(self, boxes: BoxWriter, results: dict[int, Result]) -> None:
        """Name the target in all rows, earlier ones too, once there is a target other than 1."""
        if not self.named and list(results) != [1]:
            self.named = True
            boxes.name_targets()

    def _rows(self, seconds: float | None, results: dict[int, Result]) -> list[Row]:
        if seconds is None:
            seconds = self.number / self.fps if self.fps else time.perf_counter() - self.start
        file = self.files[self.number].name if self.files else ""
        return rows_of(self.number, seconds, results, self.named, file)

    def _tell_loss(self, target: int, result: Result, several: bool) -> None:
        if result.lost == (target in self.lost):
            return
        self.lost ^= {target}
        change = "probably lost" if result.lost else "found again"
        who = f"target {target}" if several else "target"
        self.say(f"{who} {change} (score {result.score:.2f})")


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go; None: they are not written."""

    video: Path | None = None
    boxes: Path | None = None  # in one of the formats `box_forms.FORMS`
    count_video: bool = False  # if the name is taken, use NAME_2 and so on
    count_boxes: bool = False
    show: bool = False  # show frames in a window
    watch: Callable[[list[Result]], object] | None = None  # called with each frame's results


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    frames: int  # number of tracked frames
    speed: str  # a sentence
    error: Exception | None = None  # the error that ended the run
    signum: int | None = None  # number of the signal that ended the run; 0 or None: none
    by_user: bool = False  # the user ended it in the window
    closed: bool = False  # the user closed the window by its X


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

    `frames`: the result of `open_frames(source)`. Everything computed is kept in any case.

    An error in a frame after the first is returned in the `Ending`. Raises ValueError or OSError,
    before any tracking, if the source has no first frame, a box cannot be used, or an output cannot
    be written or is being written by another process.
    """
    recorder = _open_recorder(source, frames, outputs)
    with ExitStack() as opened:
        if recorder.boxes:
            opened.enter_context(recorder.boxes)
        if recorder.writer:
            opened.enter_context(recorder.writer)
            opened.enter_context(recorder.encoding)
        chosen = span.choose(frames.start(), frames.fps or DEFAULT_FPS)
        recorder.first, first, seconds = _first_of(chosen, source, span)
        timing = Timing()
        session = Session(wrapped(network, timing.of_network), constants)
        session.update(first)
        size = (first.shape[1], first.shape[0])
        tell(describe_source(source, frames, size))
        if note := span.beyond(frames.count, frames.fps or DEFAULT_FPS):
            print(note)
        _add_targets(session, choose(first), size, recorder.first)
        if frames.pixel_aspect != 1:
            print(_describe_pixels(source, first, frames.pixel_aspect))
        # Signals wait until the outputs are complete.
        with StopRequest() as stop, opened.pop_all() as opened:
            player = None
            if outputs.show:
                window = opened.enter_context(Window(lambda: bool(stop.signum)))
                player = Player(window, session, recorder.say)
            if frames.live:
                frames.live.should_stop = lambda: bool(stop.signum)
            recorder.start = time.perf_counter()
            error = None
            if _take(first, seconds, session, recorder, player):
                total = span.expected(frames.count)
                error = _follow(timing.decoding(chosen), session, recorder, player, total, stop)
    if frames.live:
        print(frames.live.describe())
    if recorder.writer:
        print(recorder.writer.describe())
    if player:
        timing.start += player.waited
    speed, by_user = timing.summary(recorder.frames), bool(player and player.ended)
    closed = bool(player and player.closed)
    return Ending(recorder.frames, speed, error, stop.signum, by_user, closed)


def _add_targets(
    session: Session, boxes: list[tuple[float, ...]], size: tuple[int, int], frame: int
) -> None:
    """Learn the targets in `boxes` of frame number `frame`, and say what they are.

    `size` is the frame's (width, height). Raises ValueError for a box that cannot be used.
    """
    for box in boxes:
        if question := ask_for_corners(box, size):
            tell(question)
        number = _added(session, box, len(boxes))
        tell(describe_target(number, session.results[number].box, size, frame))
    for note in session.notes:
        print(note)


def _added(session: Session, box: tuple[float, ...], targets: int) -> int:
    """The number of a new target; if it is one of several, an error names it."""
    try:
        return session.add(box)
    except ValueError as error:
        if targets == 1:
            raise
        raise ValueError(f"target {len(session.results) + 1}: {error}") from None


def _first_of(chosen: Iterator[Numbered], source: str, span: Span) -> Numbered:
    """The first frame of a span. Raises ValueError if there is none."""
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
        fps=None if source.isdecimal() else fps,  # None for a camera
        writer=_open_writer(source, frames, outputs),
        boxes=boxes,
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


def _take(
    image: np.ndarray,
    seconds: float | None,
    session: Session,
    recorder: Recorder,
    player: Player | None,
) -> bool:
    """Show a frame, in which the user may change the targets, then record it.

    Returns False if the user ends the run.
    """
    go_on = player is None or player.show(image)
    recorder.add(image, seconds, session.results)
    return go_on


def _follow(
    frames: Iterator[Numbered],
    session: Session,
    recorder: Recorder,
    player: Player | None,
    total: int | None,
    stop: StopRequest,
) -> Exception | None:
    """Track to the end of `frames`, or until a stop; returns the error that ended the run, if any.

    `total` is the number of frames according to the video's header.
    """
    with tqdm(total=total, initial=1, desc="track", unit="frame") as bar:
        try:
            for _, image, seconds in frames:
                session.update(image)
                go_on = _take(image, seconds, session, recorder, player)
                bar.update()
                if stop.signum or not go_on:
                    return None
        except (ValueError, OSError) as error:
            return error
    if total and total != recorder.frames:
        expected = f"by its header {recorder.first + total} were expected"
        print(f"the video ended after {recorder.number} frames; {expected}")
    return None
