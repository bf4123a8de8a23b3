"""Converts a tracker's first layer to whole numbers: weights of 7 bits or fewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rbsf.engine.node import Node, affine_node, spliced
from rbsf.engine.ops.conv_u8 import pack_whole
from rbsf.export.fold import INT32, expanded, threshold_of_whole
from rbsf.export.images import Images
from rbsf.export.modules import make, to_numpy
from rbsf.export.rounding import round_weights
from rbsf.export.trace import IMAGE, Traced, trace

FIRST_BITS = 7  # with 7 bits the sum of two products with uint8 pixels fits 16 bits


def check_first_bits(bits: int) -> None:
    """Raise ValueError if the first layer's weights cannot have `bits` bits."""
    if not 2 <= bits <= FIRST_BITS:
        fault = f"the first layer's weights have 2 to {FIRST_BITS} bits"
        raise ValueError(f"first_bits={bits}: {fault}")


def round_first(traced: Traced, bits: int = FIRST_BITS) -> Traced:
    """Give the convolution in `traced` that reads the pixels whole weights and a scale.

    Raises ValueError if the pixels are not read by a convolution without padding and groups.
    """
    check_first_bits(bits)
    conv = _first(traced)
    whole, step = _quantise(conv.tensors["weight"], bits)
    geometry = {key: conv.attributes[key] for key in ("kernel", "stride", "padding", "groups")}
    geometry |= {"channels": whole.shape[3], "bits": 8}  # one byte per weight until folding is done
    weight = {"weight": whole.astype(np.int8)}
    sums = Node(f"{conv.name}.sum", "conv_u8", (IMAGE,), geometry, weight)
    scaled = affine_node(conv.name, sums.name, scale=step, bias=conv.tensors["bias"])
    return replace(traced, nodes=spliced(traced.nodes, {conv.name: [sums, scaled]}))


def pack_first(nodes: list[Node], bits: int) -> list[Node]:
    """`nodes` with the first layer's weights packed into `bits` bits each, if fewer than 7."""
    if bits == FIRST_BITS:
        return nodes
    return [_packed(node, bits) if node.op == "conv_u8" else node for node in nodes]


def _packed(conv: Node, bits: int) -> Node:
    packed = conv.with_tensors(weight=pack_whole(conv.tensors["weight"], bits))
    return replace(packed, attributes=conv.attributes | {"bits": bits})


def quantise_first(net: nn.Module, bits: int = FIRST_BITS) -> None:
    """Give `net`, in place, the first layer of its packed form.

    With 7 `bits`, the weights of a filter become whole multiples, from -63 to 63, of 1/63 of its
    largest weight. With fewer bits, they become multiples up to 2^(bits-1) - 1 of a step that is
    chosen for each filter (`rbsf.export.rounding`).

    Then every sum is a whole number of steps. The batch-norm's bias is moved by less than a step so
    that the threshold is midway between two sums: no output changes, and float32 rounding cannot
    move a sum across the threshold. Raises ValueError as `round_first`.
    """
    check_first_bits(bits)
    traced = trace(net, Images((1, 1, 3)))
    first = _first(traced)
    conv: Any = net.get_submodule(first.name)
    whole, step = _quantise(to_numpy(conv.weight).transpose(0, 2, 3, 1), bits)
    rounded = whole * step[:, None, None, None]  # [O, k, k, I]
    conv.weight.data.copy_(torch.from_numpy(rounded.transpose(0, 3, 1, 2).copy()))
    first = replace(first, tensors=make(conv)[-1].tensors)
    traced = replace(traced, nodes=spliced(traced.nodes, {first.name: [first]}))
    norm = _norm_behind(net, traced, first.name)
    signs = _signs_behind(traced, bits, first.name)
    if norm is not None and len(signs) == 1:
        _centre_threshold(norm, *signs[0])


def _centre_threshold(norm: Any, sums: dict[str, np.ndarray], sign: dict[str, np.ndarray]) -> None:
    """Move the bias of `norm` so that the threshold is midway between two sums.

    `sums` has the scale and bias of the sums, `sign` the scale and bias inside the sign that
    follows.
    """
    scale = sums["scale"] * sign["scale"]
    bias = sums["bias"] * sign["scale"] + sign["bias"]
    threshold = threshold_of_whole(scale, bias)["threshold"].astype(np.float64)
    movable = (scale != 0) & (threshold > INT32.min) & (threshold < INT32.max)
    missing = -scale * (threshold - 0.5) - bias
    moved = np.divide(missing, sign["scale"], where=movable, out=np.zeros_like(bias))
    norm.bias.data.add_(torch.from_numpy(moved))


def _first(traced: Traced) -> Node:
    """The convolution that reads the pixels."""
    readers = [node for node in traced.nodes if IMAGE in node.inputs]
    if [reader.op for reader in readers] != ["conv"]:
        found = ", ".join(f"{node.name} ({node.op})" for node in readers) or "nothing"
        raise ValueError(f"no packed form: {found} reads the pixels, expected one convolution")
    (first,) = readers
    padding, groups = first.attributes["padding"], first.attributes["groups"]
    if padding or groups > 1:
        fault = f"has padding={padding}, groups={groups}, expected 0 and 1"
        raise ValueError(f"no packed form: {first.name} is the first and {fault}")
    return first


def _quantise(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole weights `[O, k, k, I]` and their steps `[O]`, both float64.

    The step of a filter of zeros is 1.
    """
    if bits < FIRST_BITS:
        whole, step = round_weights(weight.transpose(0, 3, 1, 2), bits)
        return whole.transpose(0, 2, 3, 1), step
    step = np.abs(weight).max((1, 2, 3)) / (2 ** (bits - 1) - 1)
    step[step == 0] = 1
    return np.rint(weight / step[:, None, None, None]), step


def _norm_behind(net: nn.Module, traced: Traced, name: str) -> nn.Module | None:
    """The batch-norm that is the only reader of convolution `name`; None if there is none."""
    (conv,) = traced.module.graph.find_nodes(op="call_module", target=name)
    if [reader.op for reader in conv.users] != ["call_module"]:
        return None
    (reader,) = conv.users
    module = net.get_submodule(str(reader.target))
    return module if isinstance(module, nn.BatchNorm2d) else None


def _signs_behind(
    traced: Traced, bits: int, name: str
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Pairs: scale and bias of the first layer's sums, and scale and bias of a following sign.

    There is one pair for each sign after the first layer, or after its pool.
    """
    nodes, _ = expanded(round_first(traced, bits))
    sums = next(node for node in nodes if node.name == name)
    reader = next(node for node in nodes if name in node.inputs)
    source = reader.name if reader.op == "max_pool" else name
    signs = [node for node in nodes if node.op == "sign" and source in node.inputs]
    return [(sums.tensors, sign.tensors) for sign in signs]
