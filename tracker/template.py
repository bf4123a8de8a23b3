"""A target's template: its first look, a memory of later looks, and their correlation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rbsf.engine.correlate import correlate_signs
from rbsf.tracker.geometry import STRIDE

Correlation = Callable[[np.ndarray], np.ndarray]  # from features [N, C, 22, 22] to [N, 17, 17]


class Template:
    """Features of a target, and their correlation with the features of search regions.

    `first`: the features `[C, 6, 6]` of the first frame. `by_signs`: correlate only their signs.
    `memory_share`: share of the memory of later looks in the template; with 0 it stays fixed.
    `memory_rate`: weight of a new look in the memory.

    `place` is the correlation that finds the place, `weigh` the one that chooses the size.
    """

    def __init__(
        self, first: np.ndarray, by_signs: bool, memory_share: float, memory_rate: float
    ) -> None:
        self.first, self.by_signs = first, by_signs
        self.share, self.rate = np.float32(memory_share), np.float32(memory_rate)
        self.fixed = not memory_share
        self.memory = first
        self.place = self.weigh = self._correlation(first)

    def remember(self, look: np.ndarray) -> None:
        """Add features of the target, `[C, 6, 6]`, to the memory.

        The size uses half of the memory: looks in it lag behind when a target grows or shrinks, and
        with the whole memory they would hold the size back.
        """
        self.memory = self.memory + self.rate * (look - self.memory)
        learned = self.share * (self.memory - self.first)
        self.place = self._correlation(self.first + learned)
        self.weigh = self._correlation(self.first + learned / 2)

    def _correlation(self, template: np.ndarray) -> Correlation:
        return correlate_signs(template) if self.by_signs else partial(correlate, template)


def look_at(features: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """Features `[C, size, size]` of the place `offset` (x, y) pixels from the middle of a crop.

    They are interpolated from the crop's features `[C, H, W]`; beyond their edge, a place nearer to
    the middle is used. Since the network does not pad, the result equals the features of a smaller
    crop around that place, to within less than a stride.
    """
    last = features.shape[-1] - size
    x, y = np.clip(offset / STRIDE + last / 2, 0, last)
    column, row = (min(int(start), last - 1) for start in (x, y))
    right, down = np.float32(x - column), np.float32(y - row)
    part = features[:, row : row + size + 1, column : column + size + 1]
    part = part[:, :-1] + down * (part[:, 1:] - part[:, :-1])
    return part[..., :-1] + right * (part[..., 1:] - part[..., :-1])


def correlate(template: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Cross-correlate a template `[C, K, K]` with features `[N, C, H, W]`.

    Returns `[N, H - K + 1, W - K + 1]` float32. One matrix product covers all pairs of a template
    cell and a place, and a shifted sum follows; this is 30 times faster than a product per window.
    """
    (channels, k, _), (n, _, height, width) = template.shape, features.shape
    products = template.reshape(channels, k * k).T @ features.reshape(n, channels, height * width)
    image, cell, place = products.strides
    rows, columns = height - k + 1, width - k + 1
    # [n, k, k, rows, columns]: the contribution of each template cell to each response.
    shifted = as_strided(
        products,
        (n, k, k, rows, columns),
        (image, k * cell + width * place, cell + place, width * place, place),
        writeable=False,
    )
    return shifted.sum((1, 2))
