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
    box: np.ndarray  # of the last frame
    crops: int = 0  # of this frame around the last place; those of windows follow
    windows: Windows | None = None  # while lost
    left: np.ndarray | None = None  # (x, y) of the place that was left to watch a window's
    places: np.ndarray | None = None  # [N, 2], centres of the windows in this frame


class Follower(ABC):
    """Follow one target: `init` on the first frame, then `update` on each next one.

    A tracker says how it learns a target, what it crops, and what it makes of the crops. Where the
    target is lost, the box keeps its size and goes on with what is most like the target. Besides,
    windows over the frame are looked at, some in each frame. A target is found again where the
    score is high in several frames.
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
        self._past = _Past(target, StateMonitor(self.config), given)
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
        past, config = self._known, self.config
        own = self._look(answers[: past.crops], anywhere=False)
        reach = own.spacing * np.array(own.values.shape[::-1])  # (w, h)
        self.response = Response(own.values, box_around(past.target.center, reach))
        if past.windows:
            return self._search(past, own, answers[past.crops :])
        state = past.monitor.update(own.score)
        if own.score >= config.faint_score:
            self._take(own, learn=own.score >= config.sure_score)
        past.box = self._own_box()
        if state is State.LOST and config.redetect != "off":
            past.windows = self._windows(past.target)
        return Result(past.box, own.score, state)

    @property
    def box(self) -> np.ndarray:
        """The target's last box: x,y,w,h float64 pixels; after `init` the given one, clipped."""
        return self._known.box

    def _windows(self, target: Target) -> Windows:
        """Where to look for a target that was lost at its place."""
        side = self._side * EXEMPLAR_SIZE
        reach = LOCAL_REACH * side if self.config.redetect == "local" else np.inf
        return Windows(target.center, target.frame, WINDOW_STEP * side, reach)

    def _search(self, past: _Past, own: Sighting, answers: Any) -> Result:
        """Look for a lost target around the last place, and in the windows.

        The place in a window that has a high score is watched in the next frames, until the target
        counts as found there, or the score falls.
        """
        best, elsewhere = own, False
        assert past.places is not None  # for the type checker
        for center, answer in zip(past.places, answers, strict=True):
            seen = self._look([answer], anywhere=True)
            if seen.score > max(best.score, self.config.found_score):
                best, elsewhere = seen, True
                self._watch(past, center)
        state = past.monitor.update(best.score, elsewhere)
        if past.left is not None and best.score < self.config.found_score:
            past.target.center, past.left = past.left, None
        elif best.score >= self.config.faint_score:
            self._take(best, learn=False)
        if state is not State.LOST:
            past.windows = past.left = None
        if past.left is None:
            past.box = self._own_box()
        if state is State.LOST:
            return Result(past.box, min(best.score, self.config.lost_score), state)
        return Result(past.box, best.score, state)

    def _watch(self, past: _Past, center: np.ndarray) -> None:
        """Search around the centre of a window, and keep in mind where the search was before."""
        if past.left is None:
            past.left = past.target.center
        past.target.center = center

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
        past.left = None
        past.box = past.box * np.tile(ratio, 2)
        if past.windows:
            past.windows = self._windows(past.target)
        self._rescale(ratio)
