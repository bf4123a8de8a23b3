"""A target's box, learned from its first frame by ridge regression.

A response map gives the target's place to within some pixels, and the best of a few sizes. The
regression learns from moved, resized and stretched copies of the first frame's target how each
change affects the features. So it can predict place, size and proportions from the features of a
later frame. DSST learns sizes in the same way (Danelljan et al., BMVC 2014). The regression has a
closed form and needs no weights other than those of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, STRIDE, crop_square, exemplar_side

COPIES = 48  # number of warped copies, even
BLOCK = 2048  # features that are converted to float64 at a time
COPY_SIZE = EXEMPLAR_SIZE + 2 * STRIDE  # pixels; one cell more than exemplars on each side
SHIFT = 4.0  # most pixels by which copies are moved, in x and in y: half a cell
SIZE_SPREAD = 0.15  # standard deviation of the log of a copy's size
ASPECT_SPREAD = 0.1  # standard deviation of the log of a copy's sqrt(width / height)
RIDGE = 1.0  # regularisation, relative to the mean eigenvalue


class BoxOffset(NamedTuple):
    """How a target's box differs from the expected box."""

    x: float  # shift of its centre, in pixels of the search crop
    y: float
    size: float  # log of its size divided by the expected size
    aspect: float  # log of its sqrt(width / height) divided by the expected one

    @property
    def shift(self) -> np.ndarray:
        """(x, y)."""
        return np.array([self.x, self.y])

    @property
    def change(self) -> np.ndarray:
        """(size, aspect), logs: see `stretch`."""
        return np.array([self.size, self.aspect])


class BoxRegression:
    """Predicts from the features around a target how its box differs from the expected box.

    `backbone`: see `rbsf.tracker.siamfc`. The regression learns the target of `size` (w, h) pixels
    around `center` (x, y) of an RGB `image`; `fill` is the colour outside the image. `cells` is the
    side of the features that a call takes.
    """

    def __init__(
        self,
        backbone: Callable[[np.ndarray], np.ndarray],
        image: np.ndarray,
        center: np.ndarray,
        size: np.ndarray,
        fill: tuple[float, ...],
    ) -> None:
        rng = np.random.default_rng(0)
        shifts = with_opposites(rng.uniform(-SHIFT, SHIFT, (COPIES // 2, 2)))
        logs = rng.normal(0, (SIZE_SPREAD, ASPECT_SPREAD), (COPIES // 2, 2))
        changes = with_opposites(logs)  # see `stretch`
        side = exemplar_side(size) * SEARCH_SIZE / EXEMPLAR_SIZE
        scene = crop_square(image, center, side, SEARCH_SIZE, fill)
        middle = np.full(2, (SEARCH_SIZE - 1) / 2)
        crops = np.empty((COPIES, COPY_SIZE, COPY_SIZE, 3), np.uint8)
        for crop, shift, change in zip(crops, shifts, changes, strict=True):
            step = 1 / stretch(*change)  # scene pixels per pixel of the copy, in x and in y
            crop[:] = crop_square(scene, middle - shift * step, COPY_SIZE * step, COPY_SIZE, fill)
        features = backbone(crops)
        self.cells = features.shape[-1]
        self._learn(features.reshape(COPIES, -1), np.concatenate([shifts, changes], axis=1))

    def _learn(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Ridge regression in its dual form: far fewer copies than features."""
        mean = features.mean(0)
        centered = np.subtract(features, mean, out=features)  # the labels also have mean 0
        products = (centered @ centered.T).astype(np.float64)
        ridge = max(RIDGE * np.trace(products) / COPIES, 1e-12)  # above 0 even for equal features
        shares = np.linalg.solve(products + ridge * np.eye(COPIES), labels)
        blocks = range(0, centered.shape[1], BLOCK)
        parts = [
            (centered[:, start : start + BLOCK].T @ shares).astype(np.float32) for start in blocks
        ]
        self._weights = np.concatenate(parts)
        self._bias = -(mean @ self._weights).astype(np.float64)

    def __call__(self, features: np.ndarray) -> BoxOffset:
        """The offset of the box with features `[C, cells, cells]` in the middle of its crop."""
        return BoxOffset(*(features.ravel() @ self._weights + self._bias))


def with_opposites(draws: np.ndarray) -> np.ndarray:
    """`draws` `[N, K]` followed by their negatives, `[2 N, K]`, so that the mean is 0."""
    return np.concatenate([draws, -draws])


def stretch(size: float, aspect: float) -> np.ndarray:
    """Factors of width and height, from logs of the factors of size and of sqrt(width / height)."""
    return np.exp([size + aspect, size - aspect])
