"""Shared parts of all trackers: the last place, the state, and the search for a lost target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    SEARCH_SIZE,
    as_rgb,
    box_around,
    exemplar_side,
    rescaled,
)
from rbsf.tracker.scan import Windows
from rbsf.tracker.states import Result, State, StateMonitor
from rbsf.tracker.target import Target

# Part of the name of benchmark results of all our trackers. Raise this when boxes change for the
# same weights and constants, so that old results are not reused: after a change of a tracker, of
# its search for lost targets, of geometry, or of the packed engine.
TRACKER_VERSION = 4

WINDOWS_PER_CROP = 2  # windows searched while lost, for each crop of a tracked frame
WINDOW_STEP = 1.0  # distance between the centres of windows, in sides of the target's crop
LOCAL_REACH = 2.0  # reach of the search around the last place, in sides of the target's crop


@dataclass(frozen=True)
class Response:
    """How well the target matches each place of a grid."""

    values: np.ndarray  # [rows, columns], higher is better; each tracker has its own range
    box: np.ndarray  # x,y,w,h of the whole grid, pixels of the image; it may reach outside


@dataclass(frozen=True)
class Sighting:
    """What was found in the crops around a place."""

    offset: np.ndarray  # (x, y) image pixels from the crops' centre to the place found
    score: float  # the probability that it is the target, as `Result.score`
    detail: Any  # data that the tracker learns from
    values: np.ndarray  # the values of the `Response` around the crops' centre
    spacing: float  # image pixels between neighbouring values


@dataclass
class _Past:
    """The data kept from the frames so far."""

    target: Target  # the place around which the next frame is searched, and the size there
    monitor: StateMonitor
    box: np.ndarray  # the box in the last frame
    crops: int = 0  # number of this frame's crops around the last place; window crops follow
    windows: Windows | None = None  # only while the target is lost
    left: np.ndarray | None = None  # (x, y) of the place that was left in order to watch a window
    places: np.ndarray | None = None  # [N, 2], centres of the windows in this frame


class Follower(ABC):
    """Follow one target: `init` on the first frame, then `update` on each next one.

    A subclass defines how a target is learned, which crops are cut and how they are evaluated. If
    the target is lost, the box keeps its size and follows the place most similar to the target. In
    addition, windows over the frame are searched, a few in each frame. A target counts as found
    again if the score is high in several frames.
    """

    name: str
    config: Any  # a StateConfig with the tracker's own constants
    response: Response | None = None  # last frame's, around the last place; None after `init`
    _past: _Past | None = None

    @abstractmethod
    def _learn(self, image: np.ndarray, target: Target) -> None:
        """Learn the target of the first frame."""

    @abstractmethod
    def _crops(self, image: np.ndarray) -> list[np.ndarray]:
        """The crops around the last place, `[255, 255, 3]` uint8, to search for the target."""

    @abstractmethod
    def _answers(self, crops: np.ndarray) -> Sequence[Any] | np.ndarray:
        """The network's output for each crop."""

    @abstractmethod
    def _look(self, answers: Any, anywhere: bool) -> Sighting:
        """Evaluate the answers for the crops around a place, or for the one crop of a window.

        `anywhere`: places far from the middle are as likely as those near it. The tracker's state
        is not changed.
        """

    @abstractmethod
    def _take(self, seen: Sighting, learn: bool) -> None:
        """Move to the place in `seen`; with `learn`, also learn its size and look."""

    @abstractmethod
    def _own_box(self) -> np.ndarray:
        """The box of the last place that was taken: x,y,w,h float64 pixels."""

    def _rescale(self, ratio: np.ndarray) -> None:  # noqa: B027 - most trackers keep no sizes
        """Adapt stored sizes to a frame `ratio` (x, y) times as large as the one before."""

    def init(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> str | None:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of an RGB image.

        The image is `[H, W, 3]` uint8; gray and RGBA are converted. Returns a sentence if the box
        was clipped to the frame or shows one plain colour, else None. Raises ValueError for a box
        that has no area, is not finite or is outside the frame, and for an array that is not an
        image.
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

        A frame of a different size than the one before is treated as the same view, rescaled.
        Raises RuntimeError before `init`, ValueError for an array that is not an image.
        """
        return self.locate(self._answers(self.search_crops(image)))

    @staticmethod
    def update_all(trackers: Sequence[Follower], image: np.ndarray) -> list[Result]:
        """Update trackers that share a network, on the next frame.

        Each needs a pass of its own, unless a subclass joins them.
        """
        return [tracker.update(image) for tracker in trackers]

    def search_crops(self, image: np.ndarray) -> np.ndarray:
        """First half of `update`: the crops for the network, `[N, 255, 255, 3]` uint8."""
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
        """Second half of `update`: find the target in the network's answers for all crops."""
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
        """The target's last box: x,y,w,h float64 pixels; after `init` the given box, clipped."""
        return self._known.box

    def _windows(self, target: Target) -> Windows:
        """The windows in which to search for a target that was lost at its place."""
        side = self._side * EXEMPLAR_SIZE
        reach = LOCAL_REACH * side if self.config.redetect == "local" else np.inf
        return Windows(target.center, target.frame, WINDOW_STEP * side, reach)

    def _search(self, past: _Past, own: Sighting, answers: Any) -> Result:
        """Search for a lost target around the last place, and in the windows.

        A place in a window with a high score is watched in the next frames, until the target counts
        as found there or the score falls.
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
        """Search around the centre of a window, and remember where the search was before."""
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
        """Image pixels per pixel of a crop, at the target's size."""
        return exemplar_side(self._target.size) / EXEMPLAR_SIZE

    def _follow_frame(self, past: _Past, image: np.ndarray) -> None:
        ratio = past.target.follow_frame(image)
        if ratio is None:
            return
        if past.left is not None:  # end the watch of a window
            past.target.center, past.left = rescaled(past.left, ratio), None
        past.box = past.box * np.tile(ratio, 2)
        if past.windows:
            past.windows = self._windows(past.target)
        self._rescale(ratio)
