"""Our own networks, packed or in PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rbsf.eval.trackers.spec import Tracker, TrackerSpec
from rbsf.tracker.follower import TRACKER_VERSION
from rbsf.tracker.loading import Constants, load_network, make_tracker
from rbsf.tracker.siamfc import TrackerConfig


@dataclass(frozen=True)
class NetworkSpec(TrackerSpec):
    """A file of weights."""

    precision: str = "float32"
    device: str = "cpu"
    config: Constants = field(default_factory=TrackerConfig)
    engine: str = "torch"  # or "packed"

    @property
    def name(self) -> str:
        """See `TrackerSpec`."""
        return re.sub(r"[^\w.+-]", "_", self.files[0].stem)

    @property
    def decisive(self) -> str:
        """See `TrackerSpec`."""
        device = _device_kind(self.device) if self.engine == "torch" else "cpu"
        return f"{self.config} {TRACKER_VERSION} {device}"

    @property
    def arithmetic(self) -> str:
        """See `TrackerSpec`."""
        return self.precision if self.engine == "torch" else "packed"

    def key(self) -> str:
        """See `TrackerSpec`."""
        suffix = "" if self.arithmetic == "float32" else f"-{self.arithmetic}"
        return super().key() + suffix

    def load(self, threads: int) -> Tracker:
        """See `TrackerSpec`."""
        network = load_network(self.files[0], self.device, self.precision, threads, self.engine)
        return make_tracker(network, self.config)


def _device_kind(device: str) -> str:
    from rbsf.train.device import choose_device  # loads PyTorch, which packed networks need not

    return choose_device(device).type
