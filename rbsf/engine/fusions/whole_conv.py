"""A convolution of whole numbers whose sums become whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.fusions.base import Fusion, Neighbours
from rbsf.engine.fusions.rounding import Rounding
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops.conv import blocks_of_pairs, whole_weights


@dataclass(frozen=True)
class WholeConv(Fusion):
    """conv, then a `Rounding`; the convolution's sums are whole numbers."""

    BEGINS = ("conv",)

    conv: Node
    rounding: Rounding
    source: Map

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> WholeConv | None:
        """See `Fusion`."""
        rounding, source = Rounding.behind(first, around), around.maps[first.inputs[0]]
        if rounding is None or around.dtype(rounding.round) not in ("int8", "int16"):
            return None
        whole = whole_weights(first, source, around.target)
        if whole is None or not _is_exact(_scale(rounding) * whole.unit):
            return None
        return cls(first, rounding, source)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return self.conv, *self.rounding.nodes

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`."""
        whole = whole_weights(self.conv, self.source, target)
        assert whole is not None  # for the type checker
        weights, starts = target.prepare((self.conv.name, "pairs"), lambda: blocks_of_pairs(whole))
        constants = self.rounding.constants(len(whole.unit))
        constants = constants._replace(scale=constants.scale * whole.unit)
        window = self.conv.attributes["kernel"], self.conv.attributes["stride"]
        cost = (1 + whole.weight[0].size / 80) / 1000  # estimated microseconds per number

        def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
            threads = target.share(out.size * cost)
            target.native.conv_whole(
                inputs[0], weights, starts, *constants, out, *window, threads, target.isa
            )

        return Kernel(compute)


def _scale(rounding: Rounding) -> np.ndarray:
    """The scale of the sums, float64 `[C]` or `[1]`."""
    tensors = rounding.affine.tensors if rounding.affine else {}
    return tensors.get("scale", np.ones(1)).astype(np.float64)


def _is_exact(values: np.ndarray) -> bool:
    """Whether float32 can hold these float64 numbers exactly."""
    return bool((values.astype(np.float32) == values).all())
