"""Tracking by a class map and boxes.

For each position of a search region a network tells how likely the target is there, and how far its
sides are. The rules are NanoTrack's (those of SiamBAN), from its author's publication. A network is
a pair of callables, see `Network`; RB-SF 2 is one, NanoTrack itself another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, as_rgb, box_around, exemplar_side
from rbsf.tracker.siamfc import Result
from rbsf.tracker.target import Target

POSITION_STRIDE = 16  # pixels of the search crop between neighbouring positions
SMALLEST = 10.0  # least width and height of a target, in pixels of the image


class Answer(NamedTuple):
    """What a head says of each position of a search region.

    `target`: probability that the target is there. `sides`: distances from the position to the
    target's left, top, right and bottom side, in crop pixels. `presence`: probability that the
    target is in the region at all, None where the network does not tell.
    """

    target: np.ndarray  # [rows, columns]
    sides: np.ndarray  # [4, rows, columns]
    presence: np.ndarray | None = None  # [rows, columns]


class Network(Protocol):
    """Backbone and head; crops are uint8 RGB `[S, S, 3]`."""

    def learn(self, crop: np.ndarray) -> Any:
        """The template of a crop of 127 pixels, in a form of the network's own."""
        ...

    def answer(self, template: Any, crop: np.ndarray) -> Answer:
        """The head's answer for a search region, a crop of 255 pixels."""
        ...


@dataclass(frozen=True)
class AnchorFreeConfig:
    """Constants of the search, by default those published for NanoTrack v3."""

    window_influence: float = 0.455  # share of the cosine window in the final map
    change_penalty: float = 0.138  # strength of the penalty on a change of size or proportions
    size_rate: float = 0.348  # share of the new size taken over where the score is 1
    lost_score: float = 0.3  # score below which the target counts as lost

    def __post_init__(self) -> None:
        """Raise ValueError where a field is wrong; it names field, value and what is valid."""
        for name in ("window_influence", "change_penalty", "size_rate", "lost_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a number from 0 to 1")


class _Choice(NamedTuple):
    """What is found at the best position."""

    offset: np.ndarray  # (x, y) from the middle of the crop to that of the box, crop pixels
    size: np.ndarray  # (w, h), crop pixels
    score: float
    trust: float  # the score times the penalty's factor
    presence: float | None


class AnchorFree:
    """Track one target: `init` on the first frame, then `update` on each next one.

    `Result.score` is the probability at the position chosen, without window and penalty.
    `presence` is the probability there that the target is in the search region at all, None where
    the network does not tell.
    """

    def __init__(
        self, network: Network, config: AnchorFreeConfig | None = None, name: str = "RB-SF 2"
    ) -> None:
        self.network, self.config, self.name = network, config or AnchorFreeConfig(), name
        self.presence: float | None = None
        self._target: Target | None = None
        self._template: Any = None

    def init(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> str | None:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of an RGB image.

        The image is `[H, W, 3]` uint8; gray and RGBA are converted. Returns a sentence if the box
        was clipped to the frame, else None. Raises ValueError for a box without area, not finite or
        outside the frame, and for an array that is no image.
        """
        image = as_rgb(image)
        target, note = Target.of(image, box)
        crop = target.crop(image, exemplar_side(target.size), EXEMPLAR_SIZE)
        self._template = self.network.learn(crop)
        self._target = target
        return note

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, `[H, W, 3]` uint8 RGB; gray and RGBA are converted.

        A frame of another size than the one before is taken as the same view, rescaled. Raises
        RuntimeError before `init`, ValueError for an array that is no image.
        """
        image, target = as_rgb(image), self._known
        target.follow_frame(image)
        zoom = EXEMPLAR_SIZE / exemplar_side(target.size)  # crop pixels per image pixel
        crop = target.crop(image, SEARCH_SIZE / zoom, SEARCH_SIZE)
        answer = self.network.answer(self._template, crop)
        found = self._choose(answer, target.size * zoom)
        rate = self.config.size_rate * found.trust
        size = target.size * (1 - rate) + found.size / zoom * rate
        target.size = np.clip(size, SMALLEST, target.frame)
        target.move(found.offset / zoom)
        self.presence = found.presence
        return Result(self.box, found.score, found.score < self.config.lost_score)

    @property
    def box(self) -> np.ndarray:
        """The target's last box: x,y,w,h float64 pixels; after `init` the given one, clipped."""
        return box_around(self._known.center, self._known.size)

    @property
    def _known(self) -> Target:
        if self._target is None:
            raise RuntimeError(
                "AnchorFree.update was called before init: call init(image, box) on the first frame"
            )
        return self._target

    def _choose(self, answer: Answer, before: np.ndarray) -> _Choice:
        """The best position; `before` is the size so far, in crop pixels."""
        left, top, right, bottom = answer.sides.astype(np.float64)
        size = np.stack([left + right, top + bottom])  # [2, rows, columns]
        trust = self._penalty(size, before) * answer.target
        share = self.config.window_influence
        final = trust * (1 - share) + _window(*answer.target.shape) * share
        at = row, column = np.unravel_index(final.argmax(), final.shape)
        center = (np.array(answer.target.shape[::-1]) - 1) / 2
        position = (np.array([column, row]) - center) * POSITION_STRIDE
        middle = np.array([right - left, bottom - top])[:, row, column] / 2
        score = float(answer.target[at])
        presence = None if answer.presence is None else float(answer.presence[at])
        offset = position + middle
        return _Choice(offset, size[:, row, column], score, float(trust[at]), presence)

    def _penalty(self, size: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Factors `[rows, columns]`, lower where boxes differ more from `before`.

        Size and proportions count.
        """
        growth = _larger(_side(size) / _side(before))
        stretch = _larger((size[0] / size[1]) / (before[0] / before[1]))
        return np.exp(-(growth * stretch - 1) * self.config.change_penalty)


def _side(size: np.ndarray) -> np.ndarray:
    """Side of the square of a target of this width and height with its context."""
    margin = (size[0] + size[1]) / 2
    return np.sqrt((size[0] + margin) * (size[1] + margin))


def _larger(ratio: np.ndarray) -> np.ndarray:
    """The ratio or its inverse, whichever is above 1."""
    return np.maximum(ratio, 1 / ratio)


def _window(rows: int, columns: int) -> np.ndarray:
    return np.outer(np.hanning(rows), np.hanning(columns))
