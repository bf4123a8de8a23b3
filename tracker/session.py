"""Follows any number of targets in one video with one network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rbsf.tracker.anchor_free import AnchorFree, Network
from rbsf.tracker.follower import Response
from rbsf.tracker.loading import Constants, make_tracker, update_all
from rbsf.tracker.siamfc import Backbone, SiamFC
from rbsf.tracker.states import Result

Box = Sequence[float]  # x, y, w, h in pixels, 0-based


class Tracked(NamedTuple):
    """A frame and the results for it."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    time: float | None  # seconds; None if the frame has no time
    results: dict[int, Result]  # {number of a target: its result}


class Session:
    """Targets in one video, each with a number.

    Numbers count from 1 in the order in which targets are added and are never reused.

        session = Session(network, constants)
        session.update(first_frame)
        number = session.add((x, y, w, h))
        results = session.update(next_frame)

    `network` and `constants` come from `rbsf.tracker.loading`. Frames are `[H, W, 3]` uint8 RGB.
    """

    def __init__(self, network: Backbone | Network, constants: Constants) -> None:
        self.network, self.constants = network, constants
        self.results: dict[int, Result] = {}  # results of the last frame
        self.notes: list[str] = []  # sentences about boxes that are doubtful
        self._trackers: dict[int, SiamFC | AnchorFree] = {}
        self._frame: np.ndarray | None = None
        self._count = 0

    def update(self, frame: np.ndarray) -> dict[int, Result]:
        """Find all targets in the next frame, with as few network passes as possible.

        Raises ValueError for an array that is not an image.
        """
        self._frame = frame
        found = update_all(list(self._trackers.values()), frame) if self._trackers else []
        self.results = dict(zip(self._trackers, found, strict=True))
        return self.results

    def add(self, box: Box) -> int:
        """Learn a target in a box of the last frame; returns its number.

        Raises ValueError for a box that has no area, is not finite or is outside the frame, and
        RuntimeError before the first frame.
        """
        tracker = make_tracker(self.network, self.constants)
        self._learn(tracker, box)
        self._count += 1
        self._trackers[self._count] = tracker
        self.results[self._count] = Result(tracker.box, 1.0)
        return self._count

    def correct(self, number: int, box: Box) -> None:
        """Learn a target again from a box in the last frame.

        Raises KeyError if no target has that number; other errors are those of `add`.
        """
        tracker = self._tracker(number)
        self._learn(tracker, box)
        self.results[number] = Result(tracker.box, 1.0)

    def response(self, number: int) -> Response | None:
        """How well a target matches places around its last one; None if its box was just given.

        Raises KeyError if no target has that number.
        """
        return self._tracker(number).response

    def drop(self, number: int) -> None:
        """Stop following a target; raises KeyError if no target has that number."""
        self._tracker(number)
        del self._trackers[number]
        self.results.pop(number, None)

    def _tracker(self, number: int) -> SiamFC | AnchorFree:
        if number not in self._trackers:
            there = ", ".join(map(str, self._trackers)) or "none"
            raise KeyError(f"there is no target {number}; there are: {there}")
        return self._trackers[number]

    def _learn(self, tracker: SiamFC | AnchorFree, box: Box) -> None:
        if self._frame is None:
            raise RuntimeError("there is no frame yet: call update(frame) before add(box)")
        if note := tracker.init(self._frame, box):
            self.notes.append(note)


def follow(
    frames: Iterable[tuple[np.ndarray, float | None]],
    boxes: Sequence[Box],
    network: Backbone | Network,
    constants: Constants,
) -> Iterator[Tracked]:
    """Each frame with the results for the targets given by `boxes` in the first frame.

    Errors are those of `Session`.
    """
    session = Session(network, constants)
    for number, (image, time) in enumerate(frames):
        session.update(image)
        if number == 0:
            for box in boxes:
                session.add(box)
        yield Tracked(image, time, dict(session.results))
