"""A binary layer of whole numbers with its shortcut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.fusions.base import Fusion, Neighbours
from rbsf.engine.fusions.rounding import Rounding
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits


@dataclass(frozen=True)
class Steps(Fusion):
    """conv_bits, a whole `Rounding`, add; all sums are int16."""

    BEGINS = ("conv_bits",)

    conv: Node
    rounding: Rounding
    add: Node

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> Steps | None:
        """See `Fusion`."""
        rounding = Rounding.behind(first, around)
        if rounding is None or len(rounding.nodes) != 4:
            return None
        add = around.next(rounding.round, "add")
        if add is None:
            return None
        summed = (add, around.other(add, rounding.round))
        return cls(first, rounding, add) if {*map(around.dtype, summed)} == {"int16"} else None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return self.conv, *self.rounding.nodes, self.add

    @property
    def ends_in_sum(self) -> bool:
        """See `Fusion`."""
        return True

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`."""
        made = conv_bits.make_conv(self.conv, reads[0], target, "sums")
        cost = conv_bits.cost(self.conv)
        constants = self.rounding.constants(len(self.conv.tensors["weight"]))

        def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
            bits, other = inputs
            threads = target.share(out.size * cost)
            target.native.conv_steps(made, bits, *constants, other, out, threads, target.isa)

        return Kernel(compute)
