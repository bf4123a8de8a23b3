"""What all trackers of one target share: the last place, the state, and the search when lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, as_rgb, box_around, exemplar_side
from rbsf.tracker.states import Result, State, StateMonitor
from rbsf.tracker.target import Target
from rbsf.tracker.windows import Windows

WINDOWS_PER_CROP = 2  # windows that are looked at while lost, for each crop of a tracked frame
WINDOW_STEP = 1.0  # between the centres of windows, in sides of the target's crop
LOCAL_REACH = 2.0  # of the search around the last place, in sides of the target's crop


@dataclass(frozen=True)
class Response:
    """How well the target fits at each place of a grid."""

    values: np.ndarray  # [rows, columns], higher is better; each tracker has its own range
    box: np.ndarray  # x,y,w,h of the whole grid, pixels of the image; it may reach outside


@dataclass(frozen=True)
class Sighting:
    """What the crops around a place show."""

    offset: np.ndarray  # (x, y) image pixels from the crops' centre to what was found
    score: float  # the probability that it is the target, as `Result.score`
    detail: Any  # what the tracker learns from it
    values: np.ndarray  # of the `Response` around the crops' centre
    spacing: float  # image pixels between neighbouring places of that


@dataclass
class _Past:
    """What is kept of the frames so far."""

    target: Target  # the place around which the next frame is searched, and the size there
    monitor: StateMonitor
    sure: np.ndarray  # (x, y) of the target where it was tracked last
    held: np.ndarray  # the box there
    crops: int = 0  # of this frame around the last place; those of windows follow
    windows: Windows | None = None  # while lost
    places: np.ndarray | None = None  # [N, 2], centres of the windows in this frame


class Follower(ABC):
    """Follow one target: `init` on the first frame, then `update` on each next one.

    A tracker says how it learns a target, what it crops, and what it makes of the crops. Where the
    target is lost, the box stays where it was tracked last, and windows of the last size are looked
    at, some in each frame. A target is found again where the score is high in several frames.
    """

    name: str
    config: Any  # a StateConfig with the tracker's own constants
    response: Response | None = None  # around the last place, in the last frame; None after `init`
    _past: _Past | None = None

    @abstractmethod
    def _learn(self, image: np.ndarray, target: Target) -> None:
        """Learn the target of the first frame."""

    @abstractmethod
    def _crops(self, image: np.ndarray) -> list[np.ndarray]:
        """The crops around the last place, `[255, 255, 3]` uint8, in which the target is sought."""

    @abstractmethod
    def _answers(self, crops: np.ndarray) -> Sequence[Any] | np.ndarray:
        """What the network says of each crop."""

    @abstractmethod
    def _look(self, answers: Any, anywhere: bool) -> Sighting:
        """What the answers for a place's crops, or for the one crop of a window, show.

        `anywhere`: places far from the middle are as likely as those near it. Changes nothing.
        """

    @abstractmethod
    def _take(self, seen: Sighting, learn: bool) -> None:
        """Move to what was seen; `learn`: its size and looks too."""

    @abstractmethod
    def _own_box(self) -> np.ndarray:
        """The box of what was taken last: x,y,w,h float64 pixels."""

    def _rescale(self, ratio: np.ndarray) -> None:  # noqa: B027 - most trackers keep no sizes
        """The frame is `ratio` (x, y) times as large as the one before."""

    def init(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> str | None:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of an RGB image.

        The image is `[H, W, 3]` uint8; gray and RGBA are converted. Returns a sentence if the box
        was clipped to the frame, else None. Raises ValueError for a box without area, not finite or
        outside the frame, and for an array that is no image.
        """
        image = as_rgb(image)
        target, note = Target.of(image, box)
        self._learn(image, target)
        self.response = None
        given = box_around(target.center, target.size)
        self._past = _Past(target, StateMonitor(self.config), target.center, given)
        return note

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, `[H, W, 3]` uint8 RGB; gray and RGBA are converted.

        A frame of another size than the one before is taken as the same view, rescaled. Raises
        RuntimeError before `init`, ValueError for an array that is no image.
        """
        return self.locate(self._answers(self.search_crops(image)))

    def search_crops(self, image: np.ndarray) -> np.ndarray:
        """First half of `update`: what the network shall look at, `[N, 255, 255, 3]` uint8."""
        image, past = as_rgb(image), self._known
        self._follow_frame(past, image)
        crops = self._crops(image)
        past.crops = len(crops)
        if past.windows:
            past.places = past.windows.take(WINDOWS_PER_CROP * len(crops))
            side = self._side * SEARCH_SIZE
            crops += [past.target.crop(image, side, SEARCH_SIZE, place) for place in past.places]
        return np.stack(crops)

    def locate(self, answers: Any) -> Result:
        """Second half of `update`: the target by the network's answers for all crops."""
        past = self._known
        searching = past.windows is not None
        own = self._look(answers[: past.crops], anywhere=searching)
        reach = own.spacing * np.array(own.values.shape[::-1])  # (w, h)
        self.response = Response(own.values, box_around(past.target.center, reach))
        if searching:
            return self._search(past, own, answers[past.crops :])
        state = past.monitor.update(own.score)
        if state is State.LOST and self.config.redetect != "off":
            self._lose(past)
            return Result(past.held, own.score, state)
        self._take(own, learn=own.score >= self.config.sure_score)
        return self._taken(past, own, state)

    @property
    def box(self) -> np.ndarray:
        """The target's last box: x,y,w,h float64 pixels; after `init` the given one, clipped."""
        past = self._known
        return past.held if past.windows else self._own_box()

    def _taken(self, past: _Past, seen: Sighting, state: State) -> Result:
        """The result where the target is taken to be at what was seen."""
        box = self._own_box()
        if state is State.TRACKED:
            past.sure, past.held = past.target.center, box
        return Result(box, seen.score, state)

    def _lose(self, past: _Past) -> None:
        """Go back to where the target was tracked last, and begin to look for it."""
        past.target.center = past.sure
        side = self._side * EXEMPLAR_SIZE
        reach = LOCAL_REACH * side if self.config.redetect == "local" else np.inf
        past.windows = Windows(past.sure, past.target.frame, WINDOW_STEP * side, reach)

    def _search(self, past: _Past, own: Sighting, answers: Any) -> Result:
        """Look for a lost target around the place that is watched, and in the windows.

        A place with a high score is watched in the next frames, until the target counts as found
        there, or the score falls.
        """
        best, place = own, past.target.center
        assert past.places is not None  # for the type checker
        for center, answer in zip(past.places, answers, strict=True):
            seen = self._look([answer], anywhere=True)
            if seen.score > best.score:
                best, place = seen, center
        state = past.monitor.update(best.score, elsewhere=best is not own)
        if best.score < self.config.found_score:
            past.target.center = past.sure
        else:
            past.target.center = place
            self._take(best, learn=False)
        if state is State.LOST:
            return Result(past.held, min(best.score, self.config.lost_score), state)
        past.windows = None
        return self._taken(past, best, state)

    @property
    def _target(self) -> Target:
        """The target's last place and size."""
        return self._known.target

    @property
    def _known(self) -> _Past:
        if self._past is None:
            raise RuntimeError(
                f"{type(self).__name__}.update was called before init:"
                " call init(image, box) on the first frame"
            )
        return self._past

    @property
    def _side(self) -> float:
        """Image pixels of a crop's pixel, at the target's size."""
        return exemplar_side(self._target.size) / EXEMPLAR_SIZE

    def _follow_frame(self, past: _Past, image: np.ndarray) -> None:
        ratio = past.target.follow_frame(image)
        if ratio is None:
            return
        past.sure = (past.sure + 0.5) * ratio - 0.5
        past.held = past.held * np.tile(ratio, 2)
        if past.windows:
            self._lose(past)
        self._rescale(ratio)
