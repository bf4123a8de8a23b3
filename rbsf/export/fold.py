"""From traced nodes to those of a packed file: batch-norms folded, whole numbers and thresholds
where they will do.

Everything folds in float64.  Batch-norms in front of binary convolutions alone become part of their
signs; others part of the convolution, linear layer or batch-norm before them, where nothing else
reads that.  A sign of a binary convolution's sums, or of the first layer's, becomes an integer
threshold for each channel.  Until the end a sign holds `scale` and `bias` [C]: its bit is that of
``scale * x + bias >= 0``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rbsf.engine.fusion import POOLED
from rbsf.engine.layout import products
from rbsf.engine.node import Node
from rbsf.engine.terms import Terms, nodes_of
from rbsf.export.modules import BINARY, TEMPLATE
from rbsf.export.trace import IMAGE, Traced
from rbsf.export.whole import lift_scales

INT32 = np.iinfo(np.int32)


def fold(traced: Traced) -> tuple[list[Node], dict[str, str]]:
    """Nodes as a file holds them, and which values they give; see `Traced`."""
    nodes, values = expanded(traced)
    nodes = with_thresholds(lift_scales(nodes))
    return [_finish(node, nodes) for node in nodes], values


def expanded(traced: Traced) -> tuple[list[Node], dict[str, str]]:
    """Nodes whose batch-norms are folded, binary convolutions in their parts."""
    values = dict(traced.values)
    nodes = _fold_back(_fold_forward(traced.nodes), values)
    return [
        part for node in nodes for part in (_parts(node) if node.op == BINARY else [node])
    ], values


def with_thresholds(nodes: list[Node]) -> list[Node]:
    """`nodes`, the signs of whole numbers reading these, with nothing real between."""
    nodes = _add_whole(nodes)
    for name in [node.name for node in nodes if node.op == "sign"]:
        nodes = _sign_of_sums(nodes, _named(nodes, name))
    return nodes


def _named(nodes: list[Node], name: str) -> Node:
    return next(node for node in nodes if node.name == name)


def _users(nodes: list[Node], name: str) -> list[Node]:
    return [node for node in nodes for source in node.inputs if source == name]


def _replaced(nodes: list[Node], *changed: Node) -> list[Node]:
    new = {node.name: node for node in changed}
    return [new.get(node.name, node) for node in nodes]


def _without(nodes: list[Node], gone: Node) -> list[Node]:
    """`nodes` without `gone`, whose readers now read its input."""
    return [
        replace(
            node,
            inputs=tuple(gone.inputs[0] if name == gone.name else name for name in node.inputs),
        )
        for node in nodes
        if node.name != gone.name
    ]


# ---- batch-norms


def _fold_forward(nodes: list[Node]) -> list[Node]:
    """Affine nodes that only binary convolutions read become part of these; but not one that reads
    the pixels.
    """
    for name in [
        node.name for node in reversed(nodes) if node.op == "affine" and node.inputs != (IMAGE,)
    ]:
        node = _named(nodes, name)
        users = _users(nodes, name)
        if users and all(user.op == BINARY for user in users):
            nodes = _without(
                _replaced(nodes, *(_before(user, **node.tensors) for user in users)), node
            )
    return nodes


def _before(conv: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """`conv` of scale * x + bias."""
    inner = conv.tensors["in_scale"]
    changed = {"in_scale": inner * scale, "in_bias": inner * bias + conv.tensors["in_bias"]}
    return replace(conv, tensors=conv.tensors | changed)


def _fold_back(nodes: list[Node], values: dict[str, str]) -> list[Node]:
    """Affine nodes that alone read a convolution, a linear layer or an affine node become part of
    it.
    """
    for name in [node.name for node in nodes if node.op == "affine"]:
        node = _named(nodes, name)
        source = _named(nodes, node.inputs[0])
        if len(node.tensors) < 2 or (
            source.op == "affine" and len(source.tensors) < 2
        ):  # the scale of whole numbers
            continue
        if (
            source.op in ("conv", BINARY, "linear", "affine")
            and len(_users(nodes, source.name)) == 1
        ):
            nodes = _without(_replaced(nodes, _after(source, **node.tensors)), node)
            values.pop(source.name, None)
            if name in values:
                values[source.name] = values.pop(name)
    return nodes


def _after(node: Node, scale: np.ndarray, bias: np.ndarray) -> Node:
    """scale * node + bias."""
    tensors, factor = node.tensors, "weight" if node.op in ("conv", "linear") else "scale"
    outer = scale.reshape(-1, *[1] * (tensors[factor].ndim - 1)) if factor == "weight" else scale
    changed = {factor: tensors[factor] * outer, "bias": tensors["bias"] * scale + bias}
    return replace(node, tensors=tensors | changed)


# ---- binary convolutions


def _parts(node: Node) -> list[Node]:
    """Signs, sums and scales of a whole binary convolution."""
    a, t = node.attributes, node.tensors
    signs = [{"scale": t["in_scale"], "bias": t["in_bias"] + shift} for shift in t["shift"]]
    magnitude = {"scale": t["in_scale"], "bias": t["in_bias"]} if a["K"] else None
    terms = Terms(
        signs, list(t["weight"]), a["bits"], a["kernels"], t["scale"], t["bias"], magnitude
    )
    geometry = {
        key: a[key] for key in ("kernel", "stride", "padding", "groups", "channels", "border")
    }
    return nodes_of(node.name, node.inputs[0], geometry, terms)


def _is_whole(nodes: list[Node], name: str) -> bool:
    """Whether a node gives whole numbers other than pixels."""
    node = _named(nodes, name)
    if node.op in ("add", "max_pool", "concat", "upsample"):
        return all(_is_whole(nodes, source) for source in node.inputs)
    return node.op in ("conv_u8", "conv_bits", "round")


def _alone(nodes: list[Node], name: str, *ops: str) -> Node | None:
    """The node of that name, if it is one of `ops` and has one reader."""
    node = _named(nodes, name)
    return node if node.op in ops and len(_users(nodes, name)) == 1 else None


def _add_whole(nodes: list[Node]) -> list[Node]:
    """Sums of two maps of whole numbers that are scaled alike: added up first, and scaled then."""
    for add in [node for node in nodes if node.op == "add"]:
        terms = [term for name in add.inputs if (term := _alone(nodes, name, "affine"))]
        if len(terms) < 2 or not all(_is_whole(nodes, term.inputs[0]) for term in terms):
            continue
        (scale, bias), (other, more) = (_scale_and_bias(term) for term in terms)
        if not np.array_equal(scale, other):
            continue
        sums = Node(f"{add.name}.sums", "add", (terms[0].inputs[0], terms[1].inputs[0]))
        scaled = Node(add.name, "affine", (sums.name,), {}, {"scale": scale, "bias": bias + more})
        gone = {term.name for term in terms}
        kept = [node for node in nodes if node.name not in gone]
        nodes = [
            part for node in kept for part in ([sums, scaled] if node.name == add.name else [node])
        ]
    return nodes


def _scale_and_bias(affine: Node) -> tuple[np.ndarray, np.ndarray]:
    """Of an affine node that has both or one of them."""
    t = affine.tensors
    ones = np.ones(len(next(iter(t.values()))))
    return t.get("scale", ones), t.get("bias", 0 * ones)


def _sign_of_sums(nodes: list[Node], sign: Node) -> list[Node]:
    """`nodes`, the sign reading whole numbers where between them is nothing but one scale and a
    pool.
    """
    pool = _alone(nodes, sign.inputs[0], "max_pool")
    pool = pool if pool and pool.attributes == POOLED else None
    affine = _alone(nodes, pool.inputs[0] if pool else sign.inputs[0], "affine")
    pixels = affine and not pool and affine.inputs == (IMAGE,)
    if not affine or not (pixels or _is_whole(nodes, affine.inputs[0])):
        return nodes
    scale, bias = _scale_and_bias(affine)
    if (
        pool and (scale < 0).any()
    ):  # the largest of negated sums is wanted: their weights are negated
        conv = _alone(nodes, affine.inputs[0], "conv_u8", "conv_bits")
        if not conv:
            return nodes
        nodes, scale = _replaced(nodes, _negated(conv, scale < 0)), np.abs(scale)
    outer = sign.tensors["scale"]
    changed = replace(
        sign, tensors={"scale": outer * scale, "bias": outer * bias + sign.tensors["bias"]}
    )
    return _without(_replaced(nodes, changed), affine)


def _negated(conv: Node, which: np.ndarray) -> Node:
    """`conv` with the weights of some filters negated."""
    weight = conv.tensors["weight"].copy()
    if conv.op == "conv_u8":
        weight[which] *= -1
        return replace(conv, tensors={"weight": weight})
    bits = np.unpackbits(weight, axis=1, count=products(conv), bitorder="little")
    bits[which] ^= 1
    return replace(conv, tensors={"weight": np.packbits(bits, axis=1, bitorder="little")})


# ---- as the file holds them


def _finish(node: Node, nodes: list[Node]) -> Node:
    """`node` as the file holds it: float32, with thresholds."""
    tensors = node.tensors
    if node.op == "sign":
        whole = node.inputs == (IMAGE,) or _is_whole(nodes, node.inputs[0])
        make = threshold_of_whole if whole else threshold_of_real
        tensors = make(tensors["scale"], tensors["bias"])
    with np.errstate(over="ignore"):  # an infinite value is refused later
        final = {
            k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in tensors.items()
        }
    return replace(node, op="conv" if node.op == TEMPLATE else node.op, tensors=final)


def threshold_of_whole(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """(threshold, flip) such that ``(x >= threshold) ^ flip`` is ``scale * x + bias >= 0`` for
    whole numbers x.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit = -bias / scale
        falling = scale < 0
        threshold = np.where(falling, np.floor(limit) + 1, np.ceil(limit))
    constant = np.where(bias >= 0, INT32.min, INT32.max)
    threshold = np.where(scale == 0, constant, np.clip(threshold, INT32.min, INT32.max))
    return _sign_tensors(threshold.astype(np.int32), falling)


def threshold_of_real(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """As `threshold_of_whole`, for every x that float32 holds."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        limit = np.where(scale == 0, np.where(bias >= 0, -np.inf, np.inf), -bias / scale)
        near = limit.astype(np.float32)
    # Rising: the least float32 from the limit up.  Falling: the least above it, from which on the
    # bit is 0.
    falling = scale < 0
    short = np.where(falling, near <= limit, near < limit)
    threshold = np.where(short & np.isfinite(near), np.nextafter(near, np.float32(np.inf)), near)
    return _sign_tensors(threshold.astype(np.float32), falling)


def _sign_tensors(threshold: np.ndarray, falling: np.ndarray) -> dict[str, np.ndarray]:
    flip = {"flip": falling.astype(np.uint8)} if falling.any() else {}
    return {"threshold": threshold, **flip}
