"""A convolution whose sums become bits, so that only bits move between binary layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsf.engine.bit_layout import Packed, kernel_arguments
from rbsf.engine.fusions.base import Fusion, Neighbours, need_of
from rbsf.engine.kernel import Kernel, Target, convolution
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits, conv_u8

POOLED = {"kernel": 3, "stride": 2, "padding": 0, "ceil": False}


@dataclass(frozen=True)
class ToBits(Fusion):
    """conv_u8 or conv_bits [max_pool 3 x 3, stride 2], sign.

    Only binary convolutions read the bits, all in the same way.
    """

    BEGINS = ("conv_u8", "conv_bits")

    conv: Node
    pool: Node | None
    sign: Node

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> ToBits | None:
        """See `Fusion`."""
        pool = around.next(first, "max_pool")
        if pool and pool.attributes != POOLED:
            return None
        sign = around.next(pool or first, "sign")
        if sign is None:
            return None
        needs = {need_of(reader) for reader in around.readers[sign.name]}
        if len(needs) > 1 or None in needs:
            return None
        return cls(first, pool, sign) if needs else None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return (self.conv, self.pool, self.sign) if self.pool else (self.conv, self.sign)

    def written_groups(self) -> int:
        """See `Run`."""
        groups: int = self.conv.attributes["groups"]
        return groups

    def flips(self, channels: int) -> np.ndarray:
        """See `Run`."""
        flip = self.sign.tensors.get("flip", np.zeros(channels, np.uint8))
        return flip > 0

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`; without reads, the convolution is one of pixels."""
        assert write is not None  # for the type checker
        thresholds, pool = self.sign.tensors["threshold"], self.pool is not None
        if reads:
            more = {"thresholds": thresholds, "pool": pool}
            conv = conv_bits.make_conv(self.conv, reads[0], target, "bits", write, **more)
            return convolution(conv, target)

        def of_pixels() -> object:
            rows = conv_u8.unpack_whole(self.conv).view(np.uint8)
            arguments = kernel_arguments(self.conv, rows, True, write, "bits", thresholds, pool)
            return target.native.Conv(**arguments)

        return convolution(target.prepare((self.conv.name, "pixels"), of_pixels), target)
