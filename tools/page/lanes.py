"""The trackers and their results: any number of targets, each followed up to its own frame."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rbsf.shipped import shipped_trackers
from rbsf.tracker.anchor_free import Network
from rbsf.tracker.engines import is_packed
from rbsf.tracker.follower import Response
from rbsf.tracker.loading import Constants, constants_of, load_network
from rbsf.tracker.session import Session
from rbsf.tracker.siamfc import Backbone
from rbsf.tracker.states import Result

MOST_TRACKERS = 3  # most trackers that a viewer may use at once
TITLES = {"rbsf": "RB-SF", "rbsf2": "RB-SF 2", "siamfc": "SiamFC, float"}  # others show their name
ONLY = 1  # number of the target in a session that has one


@cache
def offered() -> dict[str, Path]:
    """The shipped trackers that run here, by name; those that are not packed need PyTorch."""
    has_torch = find_spec("torch") is not None
    found = shipped_trackers().items()
    return {name: path for name, path in found if has_torch or is_packed(path)}


def described() -> list[dict[str, str]]:
    """Name and title of each, for the page."""
    return [{"name": name, "title": TITLES.get(name, name)} for name in offered()]


@dataclass(frozen=True)
class Seen:
    """A target's result in a frame."""

    result: Result
    response: Response | None = None
    drawn: bool = False  # whether the viewer drew this box


@dataclass
class Track:
    """A target's results by frame, and the session that follows it after the last of them.

    When the viewer draws a box, a new track replaces the old one, which is not changed; undoing
    puts the old one back. A dropped target has no session.
    """

    session: Session | None
    seen: dict[int, Seen] = field(default_factory=dict)
    last: int = -1  # the last frame

    def before(self, frame: int) -> dict[int, Seen]:
        """The results in frames before `frame`."""
        return {number: seen for number, seen in self.seen.items() if number < frame}


class Lane:
    """A tracker with its tracks, by number of the target.

    Each target has its own session, because each may be followed up to a different frame.
    """

    def __init__(self, network: Backbone | Network, constants: Constants) -> None:
        self._network, self._constants = network, constants
        self.tracks: dict[int, Track] = {}
        self.milliseconds: dict[int, float] = {}  # time that tracking took, by frame

    @classmethod
    def load(cls, path: Path, threads: int | None) -> Lane:
        """Load a network's file. Raises the errors of `load_network`."""
        return cls(load_network(path, "cpu", threads=threads), constants_of(path)())

    def emptied(self) -> Lane:
        """The same tracker, without targets."""
        return Lane(self._network, self._constants)

    def learned(
        self, target: int, frame: int, image: np.ndarray, box: list[float]
    ) -> tuple[Track, list[str]]:
        """The track of a target whose box is drawn in a frame, and sentences on the box.

        Raises ValueError for a box that cannot be used. Changes nothing.
        """
        session = Session(self._network, self._constants)
        session.update(image)
        session.add(box)
        seen = self.tracks[target].before(frame) if target in self.tracks else {}
        seen[frame] = Seen(session.results[ONLY], drawn=True)
        return Track(session, seen, frame), session.notes

    def dropped(self, target: int, frame: int) -> Track:
        """The track of a target that is not followed from a frame on."""
        seen = self.tracks[target].before(frame)
        return Track(None, seen, max(seen, default=-1))

    def follow(self, frame: int, image: np.ndarray) -> None:
        """Find the targets that were followed up to the frame before."""
        due = [track for track in self.tracks.values() if track.session and track.last == frame - 1]
        if not due:
            return
        start = time.perf_counter()
        for track in due:
            assert track.session  # for the type checker
            result = track.session.update(image)[ONLY]
            track.seen[frame] = Seen(result, track.session.response(ONLY))
            track.last = frame
        self.milliseconds[frame] = 1000 * (time.perf_counter() - start)

    def at(self, frame: int) -> dict[int, Seen]:
        """What was found in a frame, by number of the target."""
        tracks = sorted(self.tracks.items())
        return {target: track.seen[frame] for target, track in tracks if frame in track.seen}

    def results(self) -> dict[int, dict[int, Result]]:
        """All that was found, by frame and by number of the target."""
        frames = sorted({frame for track in self.tracks.values() for frame in track.seen})
        return {
            frame: {target: seen.result for target, seen in self.at(frame).items()}
            for frame in frames
        }
