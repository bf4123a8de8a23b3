"""Nodes for the binary convolution of a real map, with several terms or with XNOR-Net's K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsf.engine.node import Node, affine_node


@dataclass(frozen=True)
class Terms:
    """The sum over t of `scale[t] * conv(sign_b(x), weight_m)`, [times K,] plus `bias`.

    b is bits[t], and m is kernels[t]. K takes the mean of |magnitude(x)| over channels, then the
    mean of that over each window, padded with 0.
    """

    signs: Sequence[dict[str, np.ndarray]]  # tensors of a sign node, for each way to make bits
    weights: Sequence[np.ndarray]  # uint8, in the form of conv_bits
    bits: Sequence[int]
    kernels: Sequence[int]
    scale: np.ndarray  # [T, O]
    bias: np.ndarray  # [O]
    magnitude: dict[str, np.ndarray] | None  # tensors of an affine node; None: there is no K


def nodes_of(name: str, source: str, geometry: dict[str, Any], terms: Terms) -> list[Node]:
    """Nodes that compute `terms` of the map `source`; the last one is called `name`.

    `geometry` are attributes of conv_bits. The border may also be 0, which no kernel supports. Then
    the sums with border -1 and with border +1 are added, and their scale is halved.
    """
    made = []
    for number, tensors in enumerate(terms.signs):
        made.append(Node(f"{name}.sign.{number}", "sign", (source,), {}, tensors))
    share = 1 if geometry["border"] else 2
    alone = len(terms.scale) == 1 and terms.magnitude is None
    total = ""
    for number, (base, kernel) in enumerate(zip(terms.bits, terms.kernels, strict=True)):
        sums, weight = f"{name}.sum.{number}", {"weight": terms.weights[kernel]}
        made += _sums(sums, f"{name}.sign.{base}", geometry, weight)
        scale = terms.scale[number] / share
        if alone:  # scale and bias are one step
            return [*made, affine_node(name, sums, scale=scale, bias=terms.bias)]
        term = f"{name}.term.{number}"
        made.append(affine_node(term, sums, scale=scale))
        if total:
            made.append(Node(f"{name}.total.{number}", "add", (total, term)))
        total = made[-1].name
    if terms.magnitude is not None:
        made += _input_scale(name, source, geometry, terms.magnitude, total)
    return [*made, affine_node(name, made[-1].name, bias=terms.bias)]


def _sums(
    name: str, bits: str, geometry: dict[str, Any], weight: dict[str, np.ndarray]
) -> list[Node]:
    """The sums of one term; the last node is called `name`."""
    if geometry["border"]:
        return [Node(name, "conv_bits", (bits,), geometry, weight)]
    low, high = geometry | {"border": -1}, geometry | {"border": 1}
    return [
        Node(f"{name}.-1", "conv_bits", (bits,), low, weight),
        Node(f"{name}.+1", "conv_bits", (bits,), high, weight),
        Node(name, "add", (f"{name}.-1", f"{name}.+1")),
    ]


def _input_scale(
    name: str, source: str, geometry: dict[str, Any], magnitude: dict[str, np.ndarray], total: str
) -> list[Node]:
    """XNOR-Net's K, and the product with it."""
    window = {key: geometry[key] for key in ("kernel", "stride", "padding")}
    window |= {"ceil": False, "include_pad": True}
    return [
        affine_node(f"{name}.map", source, **magnitude),
        Node(f"{name}.magnitude", "abs_mean", (f"{name}.map",)),
        Node(f"{name}.K", "avg_pool", (f"{name}.magnitude",), window),
        Node(f"{name}.mapped", "mul", (total, f"{name}.K")),
    ]
