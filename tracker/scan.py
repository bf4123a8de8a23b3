"""Windows in which to search for a lost target; they cover the frame, a few at a time."""

from __future__ import annotations

import numpy as np


class Windows:
    """Centres of windows that cover a frame; those near `place` come first, then it repeats.

    `place`: (x, y) pixels. `frame`: (width, height) of the frame. `step`: pixels between
    neighbouring centres. `reach`: most pixels from `place` to a centre, in x and in y.
    """

    def __init__(self, place: np.ndarray, frame: np.ndarray, step: float, reach: float) -> None:
        columns, rows = (_centers(length, step) for length in frame)
        grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
        distance = np.abs(grid - place).max(1)
        near = distance <= reach
        self.centers = grid[near][np.argsort(distance[near], kind="stable")]  # [N, 2] x, y
        self._next = 0

    def take(self, count: int) -> np.ndarray:
        """The next centres, `[M, 2]`; M is `count`, or the number of windows if that is less."""
        count = min(count, len(self.centers))
        numbers = (self._next + np.arange(count)) % max(len(self.centers), 1)
        self._next += count
        return self.centers[numbers]


def _centers(length: float, step: float) -> np.ndarray:
    """Centres of equal pieces of at most `step` pixels, as few as possible, that cover `length`."""
    count = max(int(np.ceil(length / step)), 1)
    return (np.arange(count) + 0.5) * length / count - 0.5
