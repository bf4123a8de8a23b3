"""Real numbers or int16 that become int8 or int16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.fusions.base import Fusion, Neighbours
from rbsf.engine.fusions.rounding import Rounding
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Node

# The dtypes of input and output that the kernel supports.
DTYPES = {("float32", "int16"), ("float32", "int8"), ("int16", "int8")}


@dataclass(frozen=True)
class Rounded(Fusion):
    """The operations of a `Rounding`."""

    BEGINS = ("affine", "prelu", "round")

    rounding: Rounding
    channels: int

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> Rounded | None:
        """See `Fusion`."""
        rounding = Rounding.beginning_at(first, around)
        source = around.maps[first.inputs[0]]
        if rounding is None or len(source.shape) != 3:
            return None
        if (source.dtype.name, around.dtype(rounding.round)) not in DTYPES:
            return None
        return cls(rounding, source.shape[-1])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return self.rounding.nodes

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`."""
        constants = self.rounding.constants(self.channels)

        def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
            threads = target.share(out.size / 5000)
            target.native.round_map(inputs[0], *constants, out, threads, target.isa)

        return Kernel(compute)
