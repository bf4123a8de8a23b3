"""Turns traced nodes into the nodes of a packed file.

Batch-norms are folded, in float64:

- A batch-norm that only binary convolutions read becomes part of their signs.
- Any other batch-norm becomes part of the convolution, linear layer or batch-norm before it, if
  nothing else reads that.

A sign of whole numbers, such as a binary convolution's sums, gets an integer threshold for each
channel. Until the last step a sign holds `scale` and `bias` `[C]`; its bit is
`scale * x + bias >= 0`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rbsf.engine.bit_layout import products
from rbsf.engine.fusions.to_bits import POOLED
from rbsf.engine.node import Node, affine_node, spliced
from rbsf.export.modules import BINARY, TEMPLATE
from rbsf.export.terms import Terms, nodes_of
from rbsf.export.trace import IMAGE, Traced
from rbsf.export.whole import lift_scales

INT32 = np.iinfo(np.int32)
GEOMETRY = ("kernel", "stride", "padding", "groups", "channels", "border")


def fold(traced: Traced) -> tuple[list[Node], dict[str, str]]:
    """The nodes in the form of a file, and the graph values that they compute, as in `Traced`."""
    nodes, values = expanded(traced)
    nodes = with_thresholds(lift_scales(nodes))
    return [_finish(node, nodes) for node in nodes], values


def expanded(traced: Traced) -> tuple[list[Node], dict[str, str]]:
    """The nodes with batch-norms folded and binary convolutions split up, and their values."""
    values = dict(traced.values)
    nodes = _fold_back(_fold_forward(traced.nodes), values)
    parts = {node.name: _parts(node) for node in nodes if node.op == BINARY}
    return spliced(nodes, parts), values


def with_thresholds(nodes: list[Node]) -> list[Node]:
    """`nodes`, with signs of scaled whole numbers changed to read the whole numbers directly."""
    nodes = _add_before_scaling(nodes)
    for name in [node.name for node in nodes if node.op == "sign"]:
        nodes = _sign_of_sums(nodes, _named(nodes, name))
    return nodes


def _named(nodes: list[Node], name: str) -> Node:
    return next(node for node in nodes if node.name == name)


def _readers(nodes: list[Node], name: str) -> list[Node]:
    """The nodes that read `name`; a node that reads it twice is listed twice."""
    return [node for node in nodes for source in node.inputs if source == name]


def _alone(nodes: list[Node], name: str, *ops: str) -> Node | None:
    """The node of that name, if it is one of `ops` and has one reader."""
    node = _named(nodes, name)
    return node if node.op in ops and len(_readers(nodes, name)) == 1 else None


def _replaced(nodes: list[Node], *changed: Node) -> list[Node]:
    return spliced(nodes, {node.name: [node] for node in changed})


def _without(nodes: list[Node], gone: Node) -> list[Node]:
    """`nodes` without `gone`; its readers read its input instead."""
    renamed = {gone.name: gone.inputs[0]}
    return [node.reading(renamed) for node in nodes if node is not gone]


# ---- batch-norms


def _fold_forward(nodes: list[Node]) -> list[Node]:
    """Merge affine nodes into the binary convolutions after them, if nothing else reads them.

    An affine node that reads the pixels stays.
    """
    affine = [node for node in nodes if node.op == "affine" and node.inputs != (IMAGE,)]
    for name in [node.name for node in reversed(affine)]:
        node = _named(nodes, name)
        readers = _readers(nodes, name)
        if readers and all(reader.op == BINARY for reader in readers):
            changed = [_before(reader, *_scale_and_bias(node)) for reader in readers]
            nodes = _without(_replaced(nodes, *changed), node)
    return nodes


def _before(conv: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """`conv` applied to scale * x + bias, as one node."""
    inner = conv.tensors["in_scale"]
    in_bias = inner * bias + conv.tensors["in_bias"]
    return conv.with_tensors(in_scale=inner * scale, in_bias=in_bias)


def _fold_back(nodes: list[Node], values: dict[str, str]) -> list[Node]:
    """Merge an affine node into the layer or affine node before it, if it is the only reader.

    `values` is updated.
    """
    for name in [node.name for node in nodes if node.op == "affine"]:
        node = _named(nodes, name)
        source = _named(nodes, node.inputs[0])
        if not _takes_in(source, node) or len(_readers(nodes, source.name)) != 1:
            continue
        nodes = _without(_replaced(nodes, _after(source, **node.tensors)), node)
        values.pop(source.name, None)
        if name in values:
            values[source.name] = values.pop(name)
    return nodes


def _takes_in(source: Node, affine: Node) -> bool:
    """Whether `affine` may be merged into `source`; scales of whole numbers stay separate."""
    if _is_scale(source) or _is_scale(affine):
        return False
    return source.op in ("conv", BINARY, "linear", "affine")


def _is_scale(node: Node) -> bool:
    return node.op == "affine" and len(node.tensors) < 2


def _after(node: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """scale * node + bias, as one node."""
    bias = node.tensors["bias"] * scale + bias
    if node.op in ("conv", "linear"):
        weight = node.tensors["weight"]
        of_filters = scale.reshape(-1, *[1] * (weight.ndim - 1))
        return node.with_tensors(weight=weight * of_filters, bias=bias)
    return node.with_tensors(scale=node.tensors["scale"] * scale, bias=bias)


# ---- binary convolutions


def _parts(node: Node) -> list[Node]:
    """The signs, sums and scales of a complete binary convolution."""
    a, t = node.attributes, node.tensors
    signs = [{"scale": t["in_scale"], "bias": t["in_bias"] + shift} for shift in t["shift"]]
    magnitude = {"scale": t["in_scale"], "bias": t["in_bias"]} if a["K"] else None
    terms = Terms(
        signs, list(t["weight"]), a["bits"], a["kernels"], t["scale"], t["bias"], magnitude
    )
    geometry = {key: a[key] for key in GEOMETRY}
    return nodes_of(node.name, node.inputs[0], geometry, terms)


def _is_whole(nodes: list[Node], name: str) -> bool:
    """Whether a node computes whole numbers other than pixels."""
    node = _named(nodes, name)
    if node.op in ("add", "max_pool", "concat", "upsample"):
        return all(_is_whole(nodes, source) for source in node.inputs)
    return node.op in ("conv_u8", "conv_bits", "round")


def _add_before_scaling(nodes: list[Node]) -> list[Node]:
    """`nodes` in which two whole-number maps with the same scale are added before the scaling."""
    for add in [node for node in nodes if node.op == "add"]:
        nodes = _scaled_sum(nodes, add)
    return nodes


def _scaled_sum(nodes: list[Node], add: Node) -> list[Node]:
    """`nodes` with the scale moved after `add`, if both inputs scale whole numbers equally."""
    first, second = (_alone(nodes, name, "affine") for name in add.inputs)
    if not first or not second:
        return nodes
    sources = first.inputs + second.inputs
    if not all(_is_whole(nodes, source) for source in sources):
        return nodes
    scale, bias = _scale_and_bias(first)
    second_scale, second_bias = _scale_and_bias(second)
    if not np.array_equal(scale, second_scale):
        return nodes
    sums = Node(f"{add.name}.sums", "add", sources)
    scaled = affine_node(add.name, sums.name, scale=scale, bias=bias + second_bias)
    return spliced(nodes, {first.name: [], second.name: [], add.name: [sums, scaled]})


def _scale_and_bias(affine: Node) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of an affine node; an absent scale is ones, an absent bias zeros."""
    t = affine.tensors
    ones = np.ones(len(next(iter(t.values()))))
    return t.get("scale", ones), t.get("bias", 0 * ones)


def _sign_of_sums(nodes: list[Node], sign: Node) -> list[Node]:
    """`nodes` with the scale before `sign` merged into it, if it scales whole numbers."""
    affine = _scale_before(nodes, sign)
    if not affine:
        return nodes
    scale, bias = _scale_and_bias(affine)
    falling = scale < 0
    pooled = affine.name not in sign.inputs
    if pooled and falling.any():  # the pool must find the largest of the negated sums
        conv = _alone(nodes, affine.inputs[0], "conv_u8", "conv_bits")
        if not conv:
            return nodes
        nodes = _replaced(nodes, _negated(conv, falling))
        scale = np.abs(scale)
    outer = sign.tensors["scale"]
    bias = outer * bias + sign.tensors["bias"]
    changed = replace(sign, tensors={"scale": outer * scale, "bias": bias})
    return _without(_replaced(nodes, changed), affine)


def _scale_before(nodes: list[Node], sign: Node) -> Node | None:
    """The affine node of whole numbers that `sign` reads, directly or through a pool, if any."""
    pool = _alone(nodes, sign.inputs[0], "max_pool")
    if pool and pool.attributes != POOLED:
        return None
    affine = _alone(nodes, (pool or sign).inputs[0], "affine")
    if not affine:
        return None
    of_pixels = affine.inputs == (IMAGE,) and not pool
    return affine if of_pixels or _is_whole(nodes, affine.inputs[0]) else None


def _negated(conv: Node, which: np.ndarray) -> Node:
    """`conv` with the weights of some filters negated."""
    weight = conv.tensors["weight"].copy()
    if conv.op == "conv_u8":
        weight[which] *= -1
        return conv.with_tensors(weight=weight)
    bits = np.unpackbits(weight, axis=1, count=products(conv), bitorder="little")
    bits[which] ^= 1
    return conv.with_tensors(weight=np.packbits(bits, axis=1, bitorder="little"))


# ---- as the file holds them


def _finish(node: Node, nodes: list[Node]) -> Node:
    """`node` in the form of a file: in float32, with thresholds."""
    tensors = node.tensors
    if node.op == "sign":
        whole = node.inputs == (IMAGE,) or _is_whole(nodes, node.inputs[0])
        thresholds = threshold_of_whole if whole else threshold_of_real
        tensors = thresholds(tensors["scale"], tensors["bias"])
    with np.errstate(over="ignore"):  # an infinite value is refused later
        tensors = {key: _without_float64(array) for key, array in tensors.items()}
    op = "conv" if node.op == TEMPLATE else node.op
    return replace(node, op=op, tensors=tensors)


def _without_float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def threshold_of_whole(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of a sign whose bits equal `scale * x + bias >= 0` for all whole numbers x.

    The sign's bits are `(x >= threshold) ^ flip`. `threshold` is int32 `[C]`; `flip` is uint8
    `[C]`, or absent.
    """
    falling = scale < 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit = -bias / scale
        threshold = np.where(falling, np.floor(limit) + 1, np.ceil(limit))
    constant = np.where(bias >= 0, INT32.min, INT32.max)
    threshold = np.where(scale == 0, constant, np.clip(threshold, INT32.min, INT32.max))
    return _sign_tensors(threshold.astype(np.int32), falling)


def threshold_of_real(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """As `threshold_of_whole`, for every float32 number x; `threshold` is float32 `[C]`."""
    falling = scale < 0
    constant = np.where(bias >= 0, -np.inf, np.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit = np.where(scale == 0, constant, -bias / scale)
        near = limit.astype(np.float32)
    # For a positive scale, the threshold is the smallest float32 that is not below the limit. For a
    # negative scale, it is the smallest float32 above the limit, where the bit becomes 0.
    short = np.where(falling, near <= limit, near < limit)
    above = np.nextafter(near, np.float32(np.inf))
    threshold = np.where(short & np.isfinite(near), above, near)
    return _sign_tensors(threshold.astype(np.float32), falling)


def _sign_tensors(threshold: np.ndarray, falling: np.ndarray) -> dict[str, np.ndarray]:
    if not falling.any():
        return {"threshold": threshold}
    return {"threshold": threshold, "flip": falling.astype(np.uint8)}
