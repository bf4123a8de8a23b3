"""A tracker that fails; worker processes load it from here, for the tests' own modules take long to
import.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np

from rbsf.eval.trackers import StaticTracker, TrackerSpec
from rbsf.tracker.siamfc import Result


class FaultyTracker(StaticTracker):
    """Ends its process, or fails, on targets of a certain width."""

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
class FaultySpec(TrackerSpec):
    """Spec of ``FaultyTracker``."""

    def build(self, threads: int = 1) -> StaticTracker:
        return FaultyTracker()
