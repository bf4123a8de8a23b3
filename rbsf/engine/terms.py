"""A real map's binary convolution, in several terms or with XNOR-Net's K, as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsf.engine.node import Node


@dataclass(frozen=True)
class Terms:
    """``sum over t of scale[t] * conv(sign_b(x), weight_m) [* K] + bias`` with b = bits[t] and m =
    kernels[t].

    K is the mean over each window, padded with 0, of the mean over channels of |magnitude(x)|.
    """

    signs: Sequence[dict[str, np.ndarray]]  # tensors of each way to take bits
    weights: Sequence[np.ndarray]  # uint8, as conv_bits has them
    bits: Sequence[int]
    kernels: Sequence[int]
    scale: np.ndarray  # [T, O]
    bias: np.ndarray  # [O]
    magnitude: dict[str, np.ndarray] | None  # tensors of an affine node; None: there is no K


def nodes_of(name: str, source: str, geometry: dict[str, Any], terms: Terms) -> list[Node]:
    """Nodes that compute `terms` of the map `source`; the last one is called `name`.

    `geometry` are attributes of conv_bits; its border may also be 0, which no kernel knows: the
    sums with -1 and with +1 around the map are added up then, and their scale halved.
    """
    made = [
        Node(f"{name}.sign.{b}", "sign", (source,), {}, tensors)
        for b, tensors in enumerate(terms.signs)
    ]
    total, last = "", {"bias": terms.bias}
    alone = len(terms.scale) == 1 and terms.magnitude is None
    for number, (base, kernel) in enumerate(zip(terms.bits, terms.kernels, strict=True)):
        weight, term = {"weight": terms.weights[kernel]}, f"{name}.term.{number}"
        made += _sums(f"{name}.sum.{number}", f"{name}.sign.{base}", geometry, weight)
        scale = {"scale": terms.scale[number] / (1 if geometry["border"] else 2)}
        if alone:  # in one step with the bias
            return [*made, Node(name, "affine", (made[-1].name,), {}, scale | last)]
        made.append(Node(term, "affine", (made[-1].name,), {}, scale))
        if total:
            made.append(Node(f"{name}.total.{number}", "add", (total, term)))
        total = made[-1].name
    if terms.magnitude is not None:
        made += _input_scale(name, source, geometry, terms.magnitude, total)
    return [*made, Node(name, "affine", (made[-1].name,), {}, last)]


def _sums(
    name: str, bits: str, geometry: dict[str, Any], weight: dict[str, np.ndarray]
) -> list[Node]:
    if geometry["border"]:
        return [Node(name, "conv_bits", (bits,), geometry, weight)]
    both = {f"{name}.{border:+d}": geometry | {"border": border} for border in (-1, 1)}
    return [
        *(Node(n, "conv_bits", (bits,), a, weight) for n, a in both.items()),
        Node(name, "add", tuple(both)),
    ]


def _input_scale(
    name: str, source: str, geometry: dict[str, Any], magnitude: dict[str, np.ndarray], total: str
) -> list[Node]:
    """XNOR-Net's K, and the product with it."""
    window = {key: geometry[key] for key in ("kernel", "stride", "padding")} | {
        "ceil": False,
        "include_pad": True,
    }
    return [
        Node(f"{name}.map", "affine", (source,), {}, magnitude),
        Node(f"{name}.magnitude", "abs_mean", (f"{name}.map",)),
        Node(f"{name}.K", "avg_pool", (f"{name}.magnitude",), window),
        Node(f"{name}.mapped", "mul", (total, f"{name}.K")),
    ]
