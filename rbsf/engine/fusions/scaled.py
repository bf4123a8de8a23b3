"""A sum of scaled binary convolutions, and what follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.fusions.base import Fusion, Neighbours, each_channel
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits


class Term(NamedTuple):
    """A scaled convolution; `add` adds it to the terms before it, None for the first."""

    conv: Node
    scale: Node
    add: Node | None = None


@dataclass(frozen=True)
class Scaled(Fusion):
    """conv_bits, affine [+ further such terms] [mul by a factor per pixel] [affine] [add]."""

    BEGINS = ("conv_bits",)

    terms: tuple[Term, ...]
    product: Node | None  # with XNOR-Net's K
    bias: Node | None
    add: Node | None

    @classmethod
    def find(cls, first: Node, around: Neighbours) -> Scaled | None:
        """See `Fusion`."""
        scale = around.next(first, "affine")
        if not scale or "scale" not in scale.tensors:
            return None
        terms, product, bias, latest = [Term(first, scale)], None, None, scale
        if "bias" not in scale.tensors:
            terms += _further_terms(first, scale, around)
            latest = terms[-1].add or scale
            product = _product_by_pixel(latest, around)
            bias = _bias_alone(product or latest, around)
            latest = bias or product or latest
        add = around.next(latest, "add")
        if add and around.maps[around.other(add, latest).name].kind != "real":
            add = None
        return cls(tuple(terms), product, bias, add)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        parts = [node for term in self.terms for node in term]
        return tuple(node for node in (*parts, self.product, self.bias, self.add) if node)

    @property
    def ends_in_sum(self) -> bool:
        """See `Fusion`."""
        return self.add is not None

    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """See `Fusion`; `reads` has an entry for each term."""
        convs = [term.conv for term in self.terms]
        channels = len(convs[0].tensors["weight"])
        made = [
            conv_bits.make_conv(conv, read, target, "sums")
            for conv, read in zip(convs, reads, strict=True)
        ]
        scales = [each_channel(term.scale.tensors["scale"], channels) for term in self.terms]
        scale, bias = np.stack(scales), each_channel(self._bias(), channels)
        cost = len(convs) * conv_bits.cost(convs[0])

        def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
            bits, others = inputs[: len(made)], [*inputs[len(made) :]]
            factors = others.pop(0)[..., 0] if self.product else None
            other = others.pop(0) if self.add else None
            threads = target.share(out.size * cost)
            target.native.conv_bits(
                made, bits, scale, bias, factors, other, out, threads, target.isa
            )

        return Kernel(compute)

    def _bias(self) -> np.ndarray:
        """The bias of the first affine node or the one behind the sum; 0 if there is none."""
        for node in (self.terms[0].scale, self.bias):
            if node and "bias" in node.tensors:
                return node.tensors["bias"]
        return np.zeros(1, np.float32)


def _further_terms(first: Node, latest: Node, around: Neighbours) -> Iterator[Term]:
    """The terms that are added to the one of the convolution `first`."""
    while add := around.next(latest, "add"):
        scale = around.other(add, latest)
        if set(scale.tensors) != {"scale"} or not around.next(scale, "add"):
            return
        conv = around.nodes[scale.inputs[0]]
        alike = conv.op == "conv_bits" and conv.attributes == first.attributes
        if not alike or not around.next(conv, "affine"):
            return
        yield Term(conv, scale, add)
        latest = add


def _product_by_pixel(latest: Node, around: Neighbours) -> Node | None:
    """The product of `latest` with a mean for each pixel, if it follows."""
    product = around.next(latest, "mul")
    if product is None or product.inputs[0] != latest.name:
        return None
    height, width, _ = around.maps[latest.name].shape
    factor = around.other(product, latest)
    by_pixel = around.maps[factor.name].shape == (height, width, 1)
    return product if factor.op == "avg_pool" and by_pixel else None


def _bias_alone(latest: Node, around: Neighbours) -> Node | None:
    """The affine node that only adds a bias to `latest`, if it follows."""
    bias = around.next(latest, "affine")
    return bias if bias and set(bias.tensors) == {"bias"} else None
