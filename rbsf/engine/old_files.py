"""Packed files of the formats before "rbsf-graph-1", as nodes of today.

"rbsf-packed-1" and -2 held a tracker as a chain of layers, each {"kind", "name", "kernel",
"stride", "padding", "groups", "inputs", "outputs" (channels), "pool" (3 x 3, stride 2)}, in -2 also
"bits"; tensors NAME.weight, and NAME.threshold [O] of the sums, or NAME.scale and NAME.bias [O] of
the last layer.

"rbsf-network-1" held a classifier as nodes, in which conv_bits took bits of a real map itself: B
ways to take them (threshold, flip [B, I]), T terms, of which `bits`[t] and `kernels`[t] say what
each reads and by which weight [M, ...] (scale [T, O]), then XNOR-Net's K where there are map_scale
and map_bias [I], then bias [O].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.graph import by_owner, check_entry
from rbsf.engine.node import MAX_SIDE, Node
from rbsf.engine.terms import Terms, nodes_of

FORMATS = ("rbsf-packed-1", "rbsf-packed-2", "rbsf-network-1")
TASKS = {"rbsf-packed": "tracker", "rbsf-network": "classifier"}  # by a format, without its number

GEOMETRY = ("kernel", "stride", "padding", "groups")
LAYER = {
    "kind": str,
    "name": str,
    **dict.fromkeys((*GEOMETRY, "inputs", "outputs"), int),
    "pool": bool,
}
DIMENSIONS = {"threshold": 2, "flip": 2, "weight": 3, "scale": 2, "bias": 1}
POOL = {"kernel": 3, "stride": 2, "padding": 0, "ceil": False}


def nodes(form: str, entries: list[Any], tensors: dict[str, np.ndarray]) -> list[Node]:
    """Nodes of a file's `layers` and tensors; ValueError for entries that are none, and for tensors
    that none owns.
    """
    owned = by_owner(tensors)
    made = _chain(entries, owned) if form.startswith("rbsf-packed-") else _network(entries, owned)
    if owned:
        raise ValueError(f"holds tensors of no node: {', '.join(sorted(owned))[:100]}")
    return made


# ---- trackers


def _chain(layers: list[Any], owned: dict[str, dict[str, np.ndarray]]) -> list[Node]:
    for layer in layers:
        kinds = (
            {k: type(v) for k, v in layer.items() if k != "bits"} if isinstance(layer, dict) else {}
        )
        if kinds != LAYER:
            raise ValueError(f"a layer is {str(layer)[:100]}, expected {', '.join(LAYER)}")
    if not 2 <= len(layers) <= 1000:
        raise ValueError(f"{len(layers)} layers: a packed network has 2 to 1000")
    size = 1
    for layer in reversed(layers):  # the least input that gives a pixel
        size = (2 * size + 1) if layer["pool"] else size
        size = max(1, (size - 1) * layer["stride"] + layer["kernel"] - 2 * layer["padding"])
        if size > MAX_SIDE:
            raise ValueError(
                f"layer {layer['name']!r}: takes no images of up to {MAX_SIDE} pixels a side"
            )
    shape = {"height": size, "width": size, "channels": layers[0]["inputs"], "any_size": True}
    made = [Node("image", "input", (), shape)]
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        kind = "conv_bits_real" if last else "conv_bits" if number else "conv_u8"
        if layer["kind"] != kind:
            raise ValueError(
                f"layer {layer['name']!r} is {layer['kind']}, number {number + 1} must be {kind}"
            )
        if (number and "bits" in layer) or (last and layer["pool"]):
            raise ValueError(
                f"layer {layer['name']!r}: only the first one has bits, and the last one no pool"
            )
        made += _layer(layer, made[-1].name, owned.pop(layer["name"], {}), last)
    return made


def _layer(
    layer: dict[str, Any], source: str, arrays: dict[str, np.ndarray], last: bool
) -> list[Node]:
    """A convolution, and what makes bits, or features, of its sums."""
    name, expected = layer["name"], {"weight", "scale", "bias"} if last else {"weight", "threshold"}
    if set(arrays) != expected:
        raise ValueError(
            f"layer {name!r}: its tensors are {sorted(arrays)}, expected {sorted(expected)}"
        )
    weight = {"weight": arrays.pop("weight")}
    attributes = {key: layer[key] for key in GEOMETRY} | {"channels": layer["inputs"]}
    first = layer["kind"] == "conv_u8"
    attributes |= {"bits": layer.get("bits", 8)} if first else {"border": -1}
    if weight["weight"].shape[:1] != (layer["outputs"],):
        raise ValueError(f"layer {name!r}: its weight is not of {layer['outputs']} filters")
    made = [Node(name, "conv_u8" if first else "conv_bits", (source,), attributes, weight)]
    if last:
        made.append(Node(f"{name}.scaled", "affine", (name,), {}, arrays))
        return [*made, Node(f"{name}.features", "channels_first", (f"{name}.scaled",))]
    if layer["pool"]:
        made.append(Node(f"{name}.pool", "max_pool", (name,), dict(POOL)))
    return [*made, Node(f"{name}.sign", "sign", (made[-1].name,), {}, arrays)]


# ---- classifiers


def _network(entries: list[Any], owned: dict[str, dict[str, np.ndarray]]) -> list[Node]:
    made: list[Node] = []
    for entry in entries:
        check_entry(entry)
        name, op, inputs, attributes = (
            entry[key] for key in ("name", "op", "inputs", "attributes")
        )
        arrays = owned.pop(name, {})
        if op == "conv_bits":
            made += _conv_bits(name, inputs, attributes, arrays)
            continue
        attributes = attributes | ({"any_size": False} if op == "input" else {})
        made.append(Node(name, op, tuple(inputs), attributes, arrays))
    return made


def _conv_bits(
    name: str, inputs: list[str], a: dict[str, Any], t: dict[str, np.ndarray]
) -> list[Node]:
    _check_terms(name, inputs, a, t)
    signs = [
        {"threshold": threshold, "flip": flip}
        for threshold, flip in zip(t["threshold"], t["flip"], strict=True)
    ]
    magnitude = {"scale": t["map_scale"], "bias": t["map_bias"]} if "map_scale" in t else None
    terms = Terms(
        signs, list(t["weight"]), a["bits"], a["kernels"], t["scale"], t["bias"], magnitude
    )
    geometry = {key: a[key] for key in GEOMETRY} | {
        "channels": t["threshold"].shape[1],
        "border": -1,
    }
    return nodes_of(name, inputs[0], geometry, terms)


def _check_terms(name: str, inputs: list[str], a: dict[str, Any], t: dict[str, np.ndarray]) -> None:
    """Raises ValueError where terms and tensors of a conv_bits do not go together; the rest is
    checked as nodes.
    """
    where = f"node {name!r} (conv_bits)"
    found = {key: array.ndim for key, array in t.items() if key not in ("map_scale", "map_bias")}
    if found != DIMENSIONS or ("map_scale" in t) is not ("map_bias" in t):
        raise ValueError(
            f"{where}: its tensors are {sorted(t)}, expected {', '.join(DIMENSIONS)} of such dimensions"
        )
    if set(a) != {*GEOMETRY, "bits", "kernels"} or len(inputs) != 1:
        raise ValueError(f"{where}: has attributes {sorted(a)} and {len(inputs)} inputs")
    for key, count in (("bits", len(t["threshold"])), ("kernels", len(t["weight"]))):
        numbers = a[key]
        known = (
            isinstance(numbers, list)
            and 1 <= len(numbers) <= 64
            and all(type(n) is int for n in numbers)
        )
        if not known or sorted({*numbers}) != [*range(count)]:
            raise ValueError(f"{where}: {key}={str(numbers)[:50]}, expected numbers below {count}")
    if not len(a["bits"]) == len(a["kernels"]) == len(t["scale"]) or len(t["flip"]) != len(
        t["threshold"]
    ):
        raise ValueError(f"{where}: its terms, scales and flips are of different numbers")
