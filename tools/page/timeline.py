"""A viewer's boxes and what was tracked, in all trackers, with undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rbsf.tools.page.lanes import Lane, Track
from rbsf.tools.page.settings import LEAST_SIDE, Refused
from rbsf.tracker.geometry import check_box

MOST_UNDONE = 50  # most changes that can be undone
MOST_TARGETS = 20

Box = list[float]  # x, y, w, h in pixels


@dataclass(frozen=True)
class Change:
    """A change of one target, with its state before the change."""

    frame: int
    target: int
    key: tuple[int, Box] | None
    tracks: dict[str, Track | None]  # by name of the tracker


class Timeline:
    """The lanes of all trackers; the viewer changes the same targets in each."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.keys: dict[int, tuple[int, Box]] = {}  # last frame and box drawn for followed targets
        self._changes: list[Change] = []
        self._count = 0  # targets so far; no number is used again

    def choose(
        self,
        names: Iterable[str],
        load: Callable[[str], Lane],
        image: Callable[[int], np.ndarray],
    ) -> None:
        """Use the trackers of these names; a new one tracks as far as the others have.

        If the trackers differ, earlier changes cannot be undone.
        """
        lanes = {name: self.lanes.get(name) or load(name) for name in names}
        self._catch_up([lanes[name] for name in lanes.keys() - self.lanes.keys()], image)
        if lanes.keys() != self.lanes.keys():
            self._changes.clear()
        self.lanes = lanes

    def _catch_up(self, lanes: list[Lane], image: Callable[[int], np.ndarray]) -> None:
        """Let new lanes learn the targets from their last drawn boxes, and track them."""
        reach = self.reach()
        if not lanes or reach is None:
            return
        first = min(frame for frame, _ in self.keys.values())
        for frame in range(first, reach[1] + 1):
            picture = image(frame)
            for lane in lanes:
                lane.follow(frame, picture)
                self._learn_in(lane, frame, picture)

    def _learn_in(self, lane: Lane, frame: int, image: np.ndarray) -> None:
        """Let a lane learn the targets that were drawn in a frame."""
        for target, (drawn, box) in self.keys.items():
            if drawn == frame:
                lane.tracks[target], _ = lane.learned(target, frame, image, box)

    def emptied(self) -> Timeline:
        """The same trackers, without targets."""
        other = Timeline()
        other.lanes = {name: lane.emptied() for name, lane in self.lanes.items()}
        return other

    def draw(self, target: int | None, frame: int, image: np.ndarray, box: Box) -> list[str]:
        """Learn a target from a box in a frame; without a number it is a new target.

        Returns sentences about the box. Raises Refused if it cannot be used.
        """
        if target is not None and target not in self.keys:
            raise Refused(f"there is no target {target}; add one by drawing its box")
        if target is None and len(self.keys) >= MOST_TARGETS:
            raise Refused(f"there are {MOST_TARGETS} targets, the most for this page; drop one")
        _check_size(box, image)
        number = target or self._count + 1
        learned = {
            name: lane.learned(number, frame, image, box) for name, lane in self.lanes.items()
        }
        self._put(frame, number, {name: track for name, (track, _) in learned.items()})
        self.keys[number] = frame, box
        self._count = max(self._count, number)
        return list(dict.fromkeys(note for _, notes in learned.values() for note in notes))

    def drop(self, target: int, frame: int) -> None:
        """Stop following a target from a frame on. Raises Refused if there is none."""
        if target not in self.keys:
            raise Refused(f"there is no target {target}")
        dropped = {
            name: lane.dropped(target, frame)
            for name, lane in self.lanes.items()
            if target in lane.tracks
        }
        self._put(frame, target, dropped)
        del self.keys[target]

    def undo(self) -> Change:
        """Undo the last change, and restore tracking. Raises Refused if there is none."""
        if not self._changes:
            raise Refused("there is nothing to undo")
        change = self._changes.pop()
        for name, track in change.tracks.items():
            if track is None:
                self.lanes[name].tracks.pop(change.target, None)
            else:
                self.lanes[name].tracks[change.target] = track
        self.keys.pop(change.target, None)
        if change.key:
            self.keys[change.target] = change.key
        return change

    def follow(self, frame: int, image: np.ndarray) -> None:
        """Find the targets that were followed up to the frame before."""
        for lane in self.lanes.values():
            lane.follow(frame, image)

    @property
    def undoable(self) -> int:
        """Number of changes that can be undone."""
        return len(self._changes)

    def reach(self) -> tuple[int, int] | None:
        """The first and the last of the frames up to which targets are followed."""
        lasts = [
            track.last
            for lane in self.lanes.values()
            for track in lane.tracks.values()
            if track.session
        ]
        return (min(lasts), max(lasts)) if lasts else None

    def _put(self, frame: int, target: int, tracks: dict[str, Track]) -> None:
        old = {name: self.lanes[name].tracks.get(target) for name in tracks}
        self._changes.append(Change(frame, target, self.keys.get(target), old))
        del self._changes[:-MOST_UNDONE]
        for name, track in tracks.items():
            self.lanes[name].tracks[target] = track


def _check_size(box: Box, image: np.ndarray) -> None:
    """Raise Refused for a box that is too small to be meant, or that `check_box` refuses."""
    height, width = image.shape[:2]
    try:
        clipped, _ = check_box(box, width, height)
    except ValueError as error:
        raise Refused(f"{error}; draw it around something in the picture") from None
    if min(clipped[2:]) < LEAST_SIDE:
        size = " x ".join(f"{side:.3g}" for side in clipped[2:])
        least = f"{LEAST_SIDE} x {LEAST_SIDE}"
        raise Refused(f"the box is {size} pixels; draw one of at least {least}")
