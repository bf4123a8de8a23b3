"""Batch-norms of a packed network, folded in float64 into the nodes beside them.

Those in front of binary convolutions alone become part of their thresholds; others part of the convolution, linear
layer or batch-norm before them, where nothing else reads that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rbsf.engine.nodes import Node


def fold(nodes: list[Node]) -> list[Node]:
    """Nodes made of `rbsf.node_forms.FORMS` as a file holds them: float32, thresholds instead of batch-norms."""
    return [_finish(node) for node in _fold_back(_fold_forward(nodes))]


def _named(nodes: list[Node], name: str) -> Node:
    return next(node for node in nodes if node.name == name)


def _users(nodes: list[Node]) -> dict[str, list[Node]]:
    users: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            users[name].append(node)
    return users


def _without(nodes: list[Node], gone: Node, changed: dict[str, Node]) -> list[Node]:
    """`nodes` without `gone`, whose readers now read its input, and with those of `changed` in place of their old."""
    kept = (changed.get(node.name, node) for node in nodes if node.name != gone.name)
    return [
        replace(node, inputs=tuple(gone.inputs[0] if name == gone.name else name for name in node.inputs))
        for node in kept
    ]


def _fold_forward(nodes: list[Node]) -> list[Node]:
    """Affine nodes that only binary convolutions read become part of these; but not one that reads the pixels."""
    for name in [node.name for node in reversed(nodes[2:]) if node.op == "affine"]:
        node, users = _named(nodes, name), _users(nodes)[name]
        if users and all(user.op == "conv_bits" for user in users):
            nodes = _without(nodes, node, {user.name: _before(user, **node.tensors) for user in users})
    return nodes


def _before(conv: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """`conv` of scale * x + bias."""
    inner = conv.tensors["in_scale"]
    changed = {"in_scale": inner * scale, "in_bias": inner * bias + conv.tensors["in_bias"]}
    return replace(conv, tensors=conv.tensors | changed)


def _fold_back(nodes: list[Node]) -> list[Node]:
    """Affine nodes that alone read a convolution, a linear layer or an affine node become part of it."""
    for name in [node.name for node in nodes[1:] if node.op == "affine"]:
        node = _named(nodes, name)
        source = _named(nodes, node.inputs[0])
        if source.op in ("conv", "conv_bits", "linear", "affine") and len(_users(nodes)[source.name]) == 1:
            nodes = _without(nodes, node, {source.name: _after(source, **node.tensors)})
    return nodes


def _after(node: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """scale * node + bias."""
    tensors, factor = node.tensors, "weight" if node.op in ("conv", "linear") else "scale"
    outer = scale.reshape(-1, *[1] * (tensors[factor].ndim - 1)) if factor == "weight" else scale
    changed = {factor: tensors[factor] * outer, "bias": tensors["bias"] * scale + bias}
    return replace(node, tensors=tensors | changed)


def _finish(node: Node) -> Node:
    """`node` as the file holds it: float32, with thresholds."""
    tensors, attributes = {**node.tensors}, {**node.attributes}
    if node.op == "conv_bits":
        scale, bias = tensors.pop("in_scale"), tensors.pop("in_bias")
        whole = [_threshold(scale, bias + shift) for shift in tensors.pop("shift")]
        tensors["threshold"], tensors["flip"] = (np.stack(part) for part in zip(*whole, strict=True))
        if attributes.pop("input_scale"):
            tensors |= {"map_scale": scale, "map_bias": bias}
    with np.errstate(over="ignore"):  # an infinite value is refused later
        final = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in tensors.items()}
    return replace(node, attributes=attributes, tensors=final)


def _threshold(scale: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(threshold, flip) such that ``(x >= threshold) ^ flip`` is ``scale * x + bias >= 0``."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit = np.where(scale == 0, np.where(bias >= 0, -np.inf, np.inf), -bias / scale)
        near = limit.astype(np.float32)
    # Rising: the least float32 from the limit up.  Falling: the least above it, from which on the bit is 0.
    falling = scale < 0
    short = np.where(falling, near <= limit, near < limit)
    threshold = np.where(short & np.isfinite(near), np.nextafter(near, np.float32(np.inf)), near)
    return threshold.astype(np.float32), falling.astype(np.uint8)
