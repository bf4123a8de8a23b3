"""A box that never moves."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rbsf.eval.trackers.spec import TrackerSpec
from rbsf.tracker.states import Result


class StaticTracker:
    """A box that never moves: every tracker has to score higher."""

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Keep the box."""
        self._box = np.asarray(box, dtype=np.float64)

    def update(self, image: np.ndarray) -> Result:
        """Return the kept box."""
        return Result(self._box.copy(), 1.0)


class StaticSpec(TrackerSpec):
    """`static`."""

    FORMS: ClassVar[tuple[str, ...]] = ("static",)
    name = "static"

    @classmethod
    def read(cls, what: str, label: str) -> StaticSpec | None:
        """See `Kind`."""
        return cls(label or what) if what == "static" else None

    def load(self, threads: int) -> StaticTracker:
        """See `TrackerSpec`."""
        return StaticTracker()

    def key(self) -> str:
        """See `TrackerSpec`."""
        return self.name
