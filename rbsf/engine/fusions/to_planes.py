"""The end of a tracker's backbone: scaled sums of a binary as planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbsf.engine.bit_layout import Packed
from rbsf.engine.fusions.base import Fusion, Neighbours, each_channel
from rbsf.engine.kernel import Kernel, Target, convolution
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits


@dataclass(frozen=True)
class ToPlanes(Fusion):
    """conv_bits, affine with scale and bias, channels_first."""

    BEGINS = ("conv_bits",)

    conv: Node
    affine: Node
    planes: Node

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> ToPlanes | None:
        """See `Fusion`."""
        affine = around.next(first, "affine")
        if not affine or len(affine.tensors) != 2:
            return None
        planes = around.next(affine, "channels_first")
        return cls(first, affine, planes) if planes else None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return self.conv, self.affine, self.planes

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`."""
        channels = len(self.conv.tensors["weight"])
        scales = {key: each_channel(array, channels) for key, array in self.affine.tensors.items()}
        made = conv_bits.make_conv(self.conv, reads[0], target, "real", None, **scales)
        return convolution(made, target)
