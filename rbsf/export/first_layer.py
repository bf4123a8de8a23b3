"""A tracker's first layer in whole numbers: weights of 7 bits, or fewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rbsf.engine.node import Node
from rbsf.engine.ops.conv_u8 import pack_whole
from rbsf.export.fold import INT32, expanded, threshold_of_whole
from rbsf.export.rounding import round_weights
from rbsf.export.trace import IMAGE, Traced, trace

FIRST_BITS = 7  # the sum of two products with uint8 pixels fits 16 bits


def check_first_bits(bits: int) -> None:
    """ValueError where the first layer's weights cannot have so many bits."""
    if not 2 <= bits <= FIRST_BITS:
        raise ValueError(
            f"first_bits={bits}: the first layer's weights have 2 to {FIRST_BITS} bits"
        )


def round_first(traced: Traced, bits: int = FIRST_BITS) -> Traced:
    """The convolution that reads the pixels, as one of whole weights and a scale.

    ValueError where no convolution without padding and groups reads them.
    """
    check_first_bits(bits)
    conv = _first(traced)
    whole, step = _quantise(conv.tensors["weight"], bits)
    geometry = {key: conv.attributes[key] for key in ("kernel", "stride", "padding", "groups")}
    geometry |= {"channels": whole.shape[3], "bits": 8}  # a byte each until all is folded
    sums = Node(
        f"{conv.name}.sum", "conv_u8", (IMAGE,), geometry, {"weight": whole.astype(np.int8)}
    )
    scaled = Node(
        conv.name, "affine", (sums.name,), {}, {"scale": step, "bias": conv.tensors["bias"]}
    )
    nodes = [part for node in traced.nodes for part in ([sums, scaled] if node is conv else [node])]
    return replace(traced, nodes=nodes)


def pack_first(nodes: list[Node], bits: int) -> list[Node]:
    """`nodes` with the first layer's weights in `bits` each, if these are fewer than 7."""
    if bits == FIRST_BITS:
        return nodes
    return [
        replace(
            n,
            attributes=n.attributes | {"bits": bits},
            tensors={"weight": pack_whole(n.tensors["weight"], bits)},
        )
        if n.op == "conv_u8"
        else n
        for n in nodes
    ]


def quantise_first(net: nn.Module, bits: int = FIRST_BITS) -> None:
    """Give `net`, in place, the first layer that its packed form has.

    Its weights become whole multiples, from -63 to 63, of 1/63 of the largest of each filter; where
    they have fewer `bits` than 7, multiples up to 2^(bits-1) - 1 of a step that is chosen for each
    filter (`rbsf.export.rounding`). Then every sum is a whole number of steps, and the batch-norm's
    bias is moved by less than a step so that the threshold lies midway between two sums: no output
    changes, and float32's rounding cannot carry a sum across. ValueError as in `round_first`.
    """
    check_first_bits(bits)
    traced = trace(net, (1, 1, 3))
    name = _first(traced).name
    conv: Any = net.get_submodule(name)
    whole, step = _quantise(conv.weight.detach().cpu().double().numpy().transpose(0, 2, 3, 1), bits)
    rounded = whole * step[:, None, None, None]
    conv.weight.data.copy_(torch.from_numpy(rounded.transpose(0, 3, 1, 2).copy()))
    norm = _norm_behind(net, traced, name)
    signs = _signs_behind(net, bits, name)
    if norm is None or len(signs) != 1:
        return
    ((outer, inner),) = signs
    scale, bias = outer["scale"] * inner["scale"], outer["bias"] * inner["scale"] + inner["bias"]
    threshold = threshold_of_whole(scale, bias)["threshold"].astype(np.float64)
    movable = (scale != 0) & (threshold > INT32.min) & (threshold < INT32.max)
    moved = np.divide(
        -scale * (threshold - 0.5) - bias, inner["scale"], where=movable, out=np.zeros_like(bias)
    )
    norm.bias.data.add_(torch.from_numpy(moved))


def _first(traced: Traced) -> Node:
    """The convolution that reads the pixels."""
    readers = [node for node in traced.nodes if IMAGE in node.inputs]
    (first,) = readers if len(readers) == 1 else (None,)
    if first is None or first.op != "conv":
        found = ", ".join(f"{node.name} ({node.op})" for node in readers) or "nothing"
        raise ValueError(f"no packed form: {found} reads the pixels, expected one convolution")
    padding, groups = first.attributes["padding"], first.attributes["groups"]
    if padding or groups > 1:
        raise ValueError(
            f"no packed form: {first.name} is the first and has padding={padding}, groups={groups}, expected 0 and 1"
        )
    return first


def _quantise(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole weights [O, k, k, I] and their steps [O], both float64; the step of a filter of zeros
    is 1.
    """
    if bits < FIRST_BITS:
        whole, step = round_weights(weight.transpose(0, 3, 1, 2), bits)
        return whole.transpose(0, 2, 3, 1), step
    step = np.abs(weight).max((1, 2, 3)) / (2 ** (bits - 1) - 1)
    step[step == 0] = 1
    return np.rint(weight / step[:, None, None, None]), step


def _norm_behind(net: nn.Module, traced: Traced, name: str) -> Any:
    """The batch-norm that alone reads the convolution `name`, None where there is none."""
    (conv,) = (
        node
        for node in traced.module.graph.nodes
        if node.op == "call_module" and node.target == name
    )
    users = [net.get_submodule(str(user.target)) for user in conv.users if user.op == "call_module"]
    return (
        users[0]
        if len(users) == len(conv.users) == 1 and isinstance(users[0], nn.BatchNorm2d)
        else None
    )


def _signs_behind(
    net: nn.Module, bits: int, name: str
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """(scale and bias of the first layer's sums, scale and bias of a sign of that) for all signs
    behind it, or behind a pool of it.
    """
    nodes, _ = expanded(round_first(trace(net, (1, 1, 3)), bits))
    outer = next(node for node in nodes if node.name == name)
    reader = next(node for node in nodes if name in node.inputs)
    source = reader.name if reader.op == "max_pool" else name
    return [
        (outer.tensors, node.tensors)
        for node in nodes
        if node.op == "sign" and source in node.inputs
    ]
