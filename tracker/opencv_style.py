"""The tracker with OpenCV's interface: `init` on one frame, `update` on each next one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rbsf.shipped import DEFAULT, find_weights
from rbsf.tracker.geometry import as_rgb
from rbsf.tracker.loading import constants_of, load_network, make_tracker
from rbsf.tracker.states import State


class Tracker:
    """Follow one target.

        tracker = rbsf.Tracker()
        tracker.init(frame, (x, y, w, h))
        found, box = tracker.update(next_frame)

    Frames are as OpenCV reads them: `[H, W, 3]` uint8, **BGR**, or `[H, W]` gray. Boxes are x, y,
    w, h in pixels, 0-based, floats. `score` and `state` are those of the last frame, see
    `rbsf.tracker.states`.
    """

    def __init__(self, weights: str | Path = DEFAULT, threads: int | None = None) -> None:
        """`weights`: a file, or the name of shipped weights. `threads`: by default all cores.

        Raises FileNotFoundError for a missing file, ValueError for a file that is not a tracker.
        """
        path = find_weights(weights)
        network = load_network(path, "cpu", threads=threads)
        self._tracker = make_tracker(network, constants_of(path)())
        self.score, self.state = 1.0, State.TRACKED

    def init(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Learn the target in `box`.

        Raises ValueError for a box that has no area, is not finite or is outside the frame.
        """
        self._tracker.init(as_rgb(image, "BGR"), box)
        self.score, self.state = 1.0, State.TRACKED

    def update(self, image: np.ndarray) -> tuple[bool, tuple[float, float, float, float]]:
        """Whether the target is there, and its box; raises RuntimeError before `init`."""
        result = self._tracker.update(as_rgb(image, "BGR"))
        self.score, self.state = result.score, result.state
        x, y, w, h = (float(side) for side in result.box)
        return not result.lost, (x, y, w, h)
