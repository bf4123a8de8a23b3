"""A tracker that fails.

Worker processes load it from here, because the tests' own modules take long to import.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np

from rbsf.eval.trackers.static import StaticSpec, StaticTracker
from rbsf.tracker.states import Result


class FaultyTracker(StaticTracker):
    """Ends its process on targets 31 or 32 pixels wide, and raises on 33."""

    def update(self, image: np.ndarray) -> Result:
        faults = {
            31: lambda: os.kill(os.getpid(), signal.SIGKILL),
            32: lambda: os._exit(3),
            33: self.fail,
        }
        faults.get(int(self._box[2]), lambda: None)()
        return super().update(image)

    def fail(self) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")


@dataclass(frozen=True)
class FaultySpec(StaticSpec):
    """How a benchmark makes a `FaultyTracker`."""

    def load(self, threads: int) -> StaticTracker:
        return FaultyTracker()
