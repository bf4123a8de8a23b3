"""A user's actions in the window: drawing the first boxes, and steering a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import numpy as np

from rbsf.system.stop import StopRequest
from rbsf.tools.tracking.window import CONFIRM, ESCAPE, SPACE, UNDO, Box, Window
from rbsf.tracker.session import Session
from rbsf.tracker.states import Result

POLL = 30  # milliseconds for which a still picture waits for a key
MOMENT = 1  # the same for a running video

# Texts of the window, of two lines at most.
SELECT = (
    "Drag a box around each target. Enter or Space: track them.\n"
    "Z or Backspace: undo. Q or Esc: cancel."
)
KEYS = "B: new box for a target. A: one more target.\nD: drop a target. Q or Esc: end."
PLAYING, PAUSED = f"Space: pause. {KEYS}", f"Paused. Space: go on. {KEYS}"


def select_boxes(image: np.ndarray) -> list[tuple[float, ...]]:
    """Let the user draw boxes in an `[H, W, 3]` uint8 RGB image.

    Returns x,y,w,h of each in its pixels, 0-based. Raises ValueError if the user cancels or closes
    the window. Ctrl-C and SIGTERM act as usual.
    """
    print(SELECT.replace("\n", " "))
    with StopRequest() as stop, Window(lambda: bool(stop.signum)) as window:
        window.load(image)
        boxes = _drawn_boxes(window)
    if stop.signum:
        signal.raise_signal(stop.signum)
    return list(boxes)


def _drawn_boxes(window: Window) -> list[Box]:
    boxes: list[Box] = []
    while not window.ended:
        results = {n: Result(np.array(box), 1.0) for n, box in enumerate(boxes, 1)}
        key = window.look(results, SELECT, POLL)
        drawn = [window.fit.box(drag) for drag in window.take_drags(end=key in CONFIRM)]
        boxes += [box for box in drawn if box]
        if key in CONFIRM and boxes:
            return boxes
        if key in UNDO:
            del boxes[-1:]
        if key in (ESCAPE, "q"):
            raise ValueError(_cancelled("the selection was cancelled", boxes))
    if window.closed:
        raise ValueError(_cancelled("the window was closed", boxes))
    return boxes


def _cancelled(what: str, boxes: list[Box]) -> str:
    if not boxes:
        return f"{what} and no box was drawn; drag one with the mouse, then press Enter"
    return f"{what}, so nothing is tracked; press Enter to track the boxes that are drawn"


class Player:
    """Shows the frames of a run, and lets the user pause it and correct, add or drop targets.

    `say` is called with a sentence about each change of a target.
    """

    def __init__(self, window: Window, session: Session, say: Callable[[str], None]) -> None:
        self._window, self._session, self._say = window, session, say
        self._paused = False
        self.ended = False  # the user or a signal ended the run
        self.waited = 0.0  # seconds for which the run stood still
        self._actions = {"a": self._add, "b": self._correct, "d": self._drop}

    def show(self, image: np.ndarray) -> bool:
        """Show the session's last frame, `[H, W, 3]` uint8 RGB, and do what the user wants.

        The session's results have the changes afterwards. Returns False if the run is to end.
        """
        self._window.load(image)
        self._do(self._look(PLAYING, MOMENT))
        while self._paused and not self.ended:
            self._do(self._wait(PAUSED))
        return not self.ended

    @property
    def closed(self) -> bool:
        """Whether the user has closed the window by its X."""
        return self._window.closed

    def _do(self, key: str) -> None:
        if key == ESCAPE:
            self.ended = True
        elif key == SPACE:
            self._paused = not self._paused
        elif key in self._actions and not self.ended:
            self._window.take_drags(end=True)  # discards earlier clicks
            self._actions[key]()

    def _look(self, hint: str, milliseconds: int) -> str:
        key = self._window.look(self._session.results, hint, milliseconds)
        self.ended |= key == "q" or self._window.ended
        return key

    def _wait(self, hint: str) -> str:
        start = time.perf_counter()
        key = self._look(hint, POLL)
        self.waited += time.perf_counter() - start
        return key

    def _add(self) -> None:
        if box := self._ask_box("one more target"):
            self._say(f"target {self._session.add(box)} added")

    def _correct(self) -> None:
        number = self._ask_target("gets a new box")
        box = self._ask_box(f"target {number}") if number else None
        if number and box:
            self._session.correct(number, box)
            self._say(f"target {number} has a new box")

    def _drop(self) -> None:
        if number := self._ask_target("is dropped"):
            self._session.drop(number)
            self._say(f"target {number} dropped")

    def _ask_box(self, what: str) -> Box | None:
        """Let the user drag a box; None if the user gives up."""
        while not self.ended:
            key = self._wait(f"Drag a box around {what}. Esc: back.")
            if key == ESCAPE:
                return None
            for drag in self._window.take_drags(end=key in CONFIRM):
                if box := self._window.fit.box(drag):
                    return box
        return None

    def _ask_target(self, what: str) -> int | None:
        """The number of the only target, or of one that the user clicks on."""
        results = self._session.results
        if len(results) < 2:
            return next(iter(results), None)
        while not self.ended:
            if self._wait(f"Click on the target that {what}. Esc: back.") == ESCAPE:
                return None
            for drag in self._window.take_drags():
                return nearest(results, self._window.fit.point(drag))
        return None


def nearest(results: dict[int, Result], point: np.ndarray) -> int:
    """The number of the target whose centre is nearest to x,y."""
    centers = {n: result.box[:2] + result.box[2:] / 2 for n, result in results.items()}
    return min(centers, key=lambda n: float(np.linalg.norm(centers[n] - point)))
