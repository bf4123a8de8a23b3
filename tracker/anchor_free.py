"""Tracking by a class map and boxes.

For each position of a search region a network predicts how likely the target is there, and the
distances to its sides. The rules are those that NanoTrack's author published (the same as
SiamBAN's). A network is a pair of callables, see `Network`; examples are RB-SF 2 and NanoTrack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from rbsf.tracker.follower import Follower, Sighting
from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    SEARCH_SIZE,
    box_around,
    box_center,
    exemplar_side,
    exemplar_sides,
)
from rbsf.tracker.states import StateConfig, check_shares
from rbsf.tracker.target import Target

POSITION_STRIDE = 16  # pixels of the search crop between neighbouring positions
MOST_SHIFT = 30.0  # largest shift of a logit; with far larger ones a score would be 0 / 0
SMALLEST = 10.0  # least width and height of a target, in pixels of the image
MOST_CORRECTION = 2.0  # largest factor that corrects a width or height
TINY = 1e-12  # replaces a sum of 0
SHARES = (
    "window_influence",
    "change_penalty",
    "size_rate",
    "size_correction",
    "middle_reach",
    "steadiness",
)


class Answer(NamedTuple):
    """The output of a head for each position of a search region.

    `target`: probability that the target is there. `sides`: distances from the position to the
    target's left, top, right and bottom sides, in crop pixels.
    """

    target: np.ndarray  # [rows, columns]
    sides: np.ndarray  # [4, rows, columns]


class Network(Protocol):
    """Backbone and head; crops are uint8 RGB `[S, S, 3]`."""

    def learn(self, crop: np.ndarray) -> Any:
        """The template of a crop of 127 pixels, in the network's own form."""
        ...

    def answer(self, template: Any, crop: np.ndarray) -> Answer:
        """The head's answer for a search region, a crop of 255 pixels."""
        ...


@dataclass(frozen=True)
class AnchorFreeConfig(StateConfig):
    """Constants of the search; the defaults were chosen for RB-SF 2 on GOT-10k/val."""

    window_influence: float = 0.455  # share of the cosine window in the final map
    change_penalty: float = 0.138  # strength of the penalty on a change of size or proportions
    size_rate: float = 0.1  # weight of the new size if the probability is 1
    size_correction: float = 0.5  # share of the first frame's error that all sizes are corrected by
    middle_reach: float = 0.25  # boxes with middles so near, in box sizes, are averaged; 0: none
    steadiness: float = 0.02  # the box shown lags by fewer box sizes, see `_steadied`
    score_shift: float = 4.0  # subtracted from the logit to give the score

    def __post_init__(self) -> None:
        """Raise ValueError if a field is wrong; it names field, value and what is valid."""
        super().__post_init__()
        if not abs(self.score_shift) <= MOST_SHIFT:
            most = f"{MOST_SHIFT:g}"
            raise ValueError(
                f"score_shift={self.score_shift}: give a number from -{most} to {most}"
            )
        check_shares(self, SHARES)


# Constants of NanoTrack v3. It does not search for a lost target, and ignores the score.
AS_PUBLISHED = AnchorFreeConfig(
    window_influence=0.455,
    change_penalty=0.138,
    size_rate=0.348,
    size_correction=0.0,
    middle_reach=0.0,
    steadiness=0.0,
    score_shift=0.0,
    sure_score=0,
    lost_score=0.3,
    faint_score=0,
    redetect="off",
)


class _Choice(NamedTuple):
    """The size and trust found at the best position."""

    size: np.ndarray  # (w, h), image pixels
    trust: float  # probability of the target times the penalty's factor


class AnchorFree(Follower):
    """Follow one target with a network that predicts class and sides at each position.

    The score is the probability of the target at the chosen position, without the cosine window and
    the penalty. Its logit is shifted, which turns it into the probability of an overlap above a
    half. Presence is not used: when targets leave the frame, it separates frames with and without
    the target less well (docs/experiments/long-term.md).

    The network finds some targets too wide or too high in all frames. So it also searches the first
    frame, and the error found there corrects all sizes.

    The box's middle is a mean over positions, see `_mean_middle`. The middle that one position
    finds would tremble, because the best position changes from frame to frame. The box shown is
    steadied besides, see `_steadied`; the search goes on from the middle that was found.
    """

    name = "RB-SF 2"

    def __init__(self, network: Network, config: AnchorFreeConfig | None = None) -> None:
        if not hasattr(network, "learn"):
            raise ValueError("this network gives features, no boxes; give it to SiamFC")
        self.network, self.config = network, config or AnchorFreeConfig()
        if not isinstance(self.config, AnchorFreeConfig):
            raise ValueError(f"constants are a {type(config).__name__}; give AnchorFreeConfig")
        self._template: Any = None
        self._correction = np.ones(2)  # factors of the widths and heights that the network finds

    def _learn(self, image: np.ndarray, target: Target) -> None:
        side = exemplar_side(target.size)
        self._template = self.network.learn(target.crop(image, side, EXEMPLAR_SIZE))
        self._correction = np.ones(2)
        if self.config.size_correction:
            scale = side / EXEMPLAR_SIZE
            crop = target.crop(image, scale * SEARCH_SIZE, SEARCH_SIZE)
            answer = self.network.answer(self._template, crop)
            error = _size_error(answer, target.size / scale)
            self._correction = np.exp(-self.config.size_correction * error)

    def _crops(self, image: np.ndarray) -> list[np.ndarray]:
        return [self._target.crop(image, self._side * SEARCH_SIZE, SEARCH_SIZE)]

    def _answers(self, crops: np.ndarray) -> list[Answer]:
        return [self.network.answer(self._template, crop) for crop in crops]

    def _look(self, answers: Sequence[Answer], anywhere: bool) -> Sighting:
        return self._choose(answers[0], 0.0 if anywhere else self.config.window_influence)

    def _take(self, seen: Sighting, learn: bool) -> None:
        target, found = self._target, seen.detail
        if learn:
            rate = self.config.size_rate * found.trust
            size = target.size * (1 - rate) + found.size * rate
            target.size = np.clip(size, SMALLEST, target.frame)
        target.move(seen.offset)

    def _own_box(self) -> np.ndarray:
        target = self._target
        middle = _steadied(box_center(self.box), target.center, target.size, self.config.steadiness)
        return box_around(middle, target.size)

    def _choose(self, answer: Answer, window_share: float) -> Sighting:
        """Choose the best position."""
        size = _sizes(answer) * self._correction[:, None, None]
        trust = self._penalty(size, self._target.size / self._side) * answer.target
        final = trust * (1 - window_share) + _window(*answer.target.shape) * window_share
        row, column = divmod(int(final.argmax()), final.shape[1])
        best_size = size[:, row, column]
        reach = self.config.middle_reach * best_size
        offset = _mean_middle(answer, row, column, reach) * self._side
        spacing = POSITION_STRIDE * self._side
        choice = _Choice(best_size * self._side, float(trust[row, column]))
        score = _shifted(float(answer.target[row, column]), self.config.score_shift)
        return Sighting(offset, score, choice, answer.target, spacing)

    def _penalty(self, size: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Factors `[rows, columns]`, lower where size or proportions differ more from `before`."""
        growth = _larger(exemplar_sides(size) / exemplar_side(before))
        stretch = _larger((size[0] / size[1]) / (before[0] / before[1]))
        return np.exp(-(growth * stretch - 1) * self.config.change_penalty)


def _sizes(answer: Answer) -> np.ndarray:
    """Widths and heights, `[2, rows, columns]` float64, in pixels of the crop."""
    left, top, right, bottom = answer.sides.astype(np.float64)
    return np.stack([left + right, top + bottom])


def _middles(answer: Answer) -> np.ndarray:
    """The middle `[2, rows, columns]` float64 of each position's box.

    x and y are pixels of the crop, from the crop's middle.
    """
    rows, columns = answer.target.shape
    left, top, right, bottom = answer.sides.astype(np.float64)
    x = (np.arange(columns) - (columns - 1) / 2) * POSITION_STRIDE
    y = (np.arange(rows) - (rows - 1) / 2) * POSITION_STRIDE
    return np.stack([x + (right - left) / 2, y[:, None] + (bottom - top) / 2])


def _mean_middle(answer: Answer, row: int, column: int, reach: np.ndarray) -> np.ndarray:
    """The mean `[2]` of the middles of all boxes that agree with the box at one position.

    A box's weight is the square of its probability times a bell over the distance of the middles,
    with the deviations `reach` (x, y), pixels of the crop. If `reach` is 0, the mean is the middle
    of the box at that position.
    """
    middles = _middles(answer)
    best = middles[:, row, column]
    if not reach.all():
        return best
    distance = (middles - best[:, None, None]) / reach[:, None, None]
    weights = answer.target**2 * np.exp(-(distance**2).sum(0) / 2)
    if weights[row, column] < TINY:  # too small for a mean
        return best
    return (middles * weights).sum((1, 2)) / weights.sum()


def _steadied(
    shown: np.ndarray, found: np.ndarray, size: np.ndarray, steadiness: float
) -> np.ndarray:
    """The middle (x, y) to show next, between the one `shown` last and the one `found`.

    Small steps are mostly noise and large ones are not. So the share of a step that is shown grows
    with its length d, in box sizes: d / (d + steadiness). This is a One Euro filter (Casiez et al.,
    CHI 2012) without its smallest cutoff. The middle shown lags by less than `steadiness`.
    """
    step = found - shown
    length = math.hypot(*step) / math.sqrt(size.prod())
    if not length:
        return found
    return shown + step * (length / (length + steadiness))


def _size_error(answer: Answer, true: np.ndarray) -> np.ndarray:
    """Logs of found over true width and height, `[2]`, for a target in the middle of the crop.

    `true` is its width and height in pixels of the crop. A position's weight is the square of its
    probability times the square of the cosine window.
    """
    weights = (answer.target * _window(*answer.target.shape)) ** 2
    errors = np.log(_sizes(answer)) - np.log(true)[:, None, None]
    mean = (errors * weights).sum((1, 2)) / max(weights.sum(), TINY)
    return np.clip(mean, -math.log(MOST_CORRECTION), math.log(MOST_CORRECTION))


def _shifted(probability: float, shift: float) -> float:
    """The probability with its logit lowered by `shift`: its odds are multiplied by exp(-shift)."""
    part = probability * math.exp(-shift)
    return part / (part + (1 - probability))


def _larger(ratio: np.ndarray) -> np.ndarray:
    """The ratio or its inverse, whichever is at least 1."""
    return np.maximum(ratio, 1 / ratio)


@cache
def _window(rows: int, columns: int) -> np.ndarray:
    return np.outer(np.hanning(rows), np.hanning(columns))
