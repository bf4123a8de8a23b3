"""The state of a target (tracked, unsure or lost), and a tracker's result for a frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # flags import REDETECT from here, and --help must not wait for NumPy
    import numpy as np

REDETECT = ("off", "local", "frame")


class State(str, Enum):
    """What a tracker knows about its target."""

    TRACKED = "tracked"  # the target is in the box
    UNSURE = "unsure"  # the target may be in the box; its size is kept and nothing is learned
    LOST = "lost"  # the target is not in the box, which keeps its size; a search starts


@dataclass(frozen=True)
class Result:
    """The result for one frame.

    `box`: x,y,w,h, float64 pixels, 0-based; it may reach outside the frame.

    `score`: the probability that the box overlaps the target by more than a half, 0 to 1. Trackers
    without calibration return a number that increases with it.
    """

    box: np.ndarray
    score: float
    state: State = State.TRACKED

    @property
    def lost(self) -> bool:
        """Whether the state is LOST."""
        return self.state is State.LOST


@dataclass(frozen=True)
class StateConfig:
    """Scores at which the state changes, and where to search for a lost target."""

    sure_score: float = 0.2  # at least this: the frame counts as tracked and is learned
    lost_score: float = 0.2  # below this in lost_frames frames in a row: target lost
    lost_frames: int = 5
    faint_score: float = 0.02  # below this: the box does not move
    found_score: float = 0.6  # at least this in found_frames frames in a row: target found
    found_frames: int = 3
    # Where to search for a lost target: at its last place, around it, or in the whole frame.
    redetect: str = field(default="frame", metadata={"choices": REDETECT})

    def __post_init__(self) -> None:
        """Raise ValueError if a field is wrong; it names field, value and what is valid."""
        check_shares(self, ("sure_score", "lost_score", "faint_score", "found_score"))
        for name in ("lost_frames", "found_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a whole number from 1")
        if self.redetect not in REDETECT:
            raise ValueError(f"redetect={self.redetect!r}: give one of {', '.join(REDETECT)}")
        if not self.lost_score <= self.found_score:
            raise ValueError(
                f"found_score={self.found_score}: give at least lost_score={self.lost_score}"
            )


def check_shares(config: StateConfig, names: Iterable[str]) -> None:
    """Raise ValueError if one of these constants is not from 0 to 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: give a number from 0 to 1")


class StateMonitor:
    """Derives the state of a target from the scores of its frames."""

    def __init__(self, config: StateConfig) -> None:
        self.config = config
        self.state = State.TRACKED
        self._count = 0  # frames in a row that indicate that the target is lost, or found

    def update(self, score: float, elsewhere: bool = False) -> State:
        """The state after one more frame.

        `elsewhere`: the score belongs to a different place than the last one; counting restarts.
        """
        config, lost = self.config, self.state is State.LOST
        speaks = score >= config.found_score if lost else score < config.lost_score
        if elsewhere or not speaks:
            self._count = 0
        self._count += speaks
        if self._count >= (config.found_frames if lost else config.lost_frames):
            self._count = 0
            lost = not lost
        if lost:
            self.state = State.LOST
        else:
            self.state = State.TRACKED if score >= config.sure_score else State.UNSURE
        return self.state
