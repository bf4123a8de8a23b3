"""Operations that turn sums into whole numbers, as several fusions do at their end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rbsf.engine.fusions.base import Neighbours, each_channel
from rbsf.engine.node import Node


class Constants(NamedTuple):
    """What a kernel multiplies by and adds, in this order."""

    scale: np.ndarray  # [channels]
    bias: np.ndarray  # [channels]
    slope: np.ndarray  # [channels], of negative numbers
    factor: float
    limit: float  # the result is rounded and clipped to -limit ... limit


@dataclass(frozen=True)
class Rounding:
    """[affine] [prelu] [affine of one number] round."""

    affine: Node | None
    prelu: Node | None
    factor: Node | None
    round: Node

    @classmethod
    def behind(cls, node: Node, around: Neighbours) -> Rounding | None:
        """The rounding of a node's output, if it is rounded."""
        affine = around.next(node, "affine")
        return cls._from(affine, affine or node, around)

    @classmethod
    def beginning_at(cls, first: Node, around: Neighbours) -> Rounding | None:
        """The rounding whose first operation is `first`."""
        if first.op == "round":
            return cls(None, None, None, first)
        if first.op == "affine":
            return cls._from(first, first, around)
        return cls._behind_prelu(None, first, first, around)

    @classmethod
    def _from(cls, affine: Node | None, latest: Node, around: Neighbours) -> Rounding | None:
        prelu = around.next(latest, "prelu")
        return cls._behind_prelu(affine, prelu, prelu or latest, around)

    @classmethod
    def _behind_prelu(
        cls, affine: Node | None, prelu: Node | None, latest: Node, around: Neighbours
    ) -> Rounding | None:
        factor = around.next(latest, "affine")
        if factor and not is_factor(factor):
            factor = None
        last = around.next(factor or latest, "round")
        return cls(affine, prelu, factor, last) if last else None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The operations that are there, in order."""
        parts = (self.affine, self.prelu, self.factor, self.round)
        return tuple(node for node in parts if node)

    def constants(self, channels: int) -> Constants:
        """The numbers of all operations; those that are absent change nothing."""
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        affine = self.affine.tensors if self.affine else {}
        slope = self.prelu.tensors["slope"] if self.prelu else one
        return Constants(
            each_channel(affine.get("scale", one), channels),
            each_channel(affine.get("bias", zero), channels),
            each_channel(slope, channels),
            float(self.factor.tensors["scale"][0]) if self.factor else 1.0,
            float(self.round.attributes["limit"]),
        )


def is_factor(node: Node) -> bool:
    """Whether an affine node only multiplies all channels by one number."""
    return {*node.tensors} == {"scale"} and node.tensors["scale"].shape == (1,)
