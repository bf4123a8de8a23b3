"""Our own networks, packed or in PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rbsf.eval.trackers.spec import Tracker, TrackerSpec
from rbsf.shipped import shipped_trackers
from rbsf.tracker.backbones import choose_engine
from rbsf.tracker.flags import with_redetect
from rbsf.tracker.loading import Constants, constants_of, load_network, make_tracker
from rbsf.tracker.siamfc import TRACKER_VERSION, TrackerConfig

SHIPPED = shipped_trackers()


@dataclass(frozen=True)
class NetworkSpec(TrackerSpec):
    """A file of weights, or a key of `SHIPPED`."""

    precision: str = "float32"
    device: str = "cpu"
    config: Constants = field(default_factory=TrackerConfig)
    engine: str = "torch"  # or "packed"

    FORMS: ClassVar[tuple[str, ...]] = tuple(SHIPPED)

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
        return make_tracker(network, self.config, self.label)


def read_network(
    what: str,
    label: str = "",
    precision: str = "float32",
    device: str = "cpu",
    config: Constants | None = None,
    engine: str = "auto",
    redetect: str | None = None,
    constants: str = "",
) -> NetworkSpec | None:
    """The network of a file or of a short name; None where there is no such file.

    The parameters are those of `rbsf.eval.trackers.parse_tracker`. Raises ValueError where the
    engine cannot be had, and where `config` is of another kind of tracker.
    """
    path = SHIPPED.get(what, Path(what))
    if not path.is_file():
        return None
    label = label or path.stem
    path, engine = choose_engine(path, engine)
    kind = constants_of(path)
    if config not in (None, TrackerConfig()) and not isinstance(config, kind):
        raise ValueError(f"--tracker {what!r}: --constants are of another tracker; leave them out")
    chosen = with_redetect(config if isinstance(config, kind) else kind(), redetect)
    names = [constants, f"redetect {redetect}" if redetect else ""]
    named = ", ".join(name for name in names if name)
    return NetworkSpec(label, (path,), named, precision, device, chosen, engine)


def constants_kind(what: str) -> type[Constants]:
    """The class of a network's constants; that of SiamFC for all other trackers."""
    return constants_of(SHIPPED.get(what, Path(what)))


def _device_kind(device: str) -> str:
    from rbsf.train.device import choose_device  # loads PyTorch, which packed networks need not

    return choose_device(device).type
