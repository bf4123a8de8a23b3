"""Converts packed files of the formats before "rbsf-graph-1" to today's nodes.

"rbsf-packed-1" and "rbsf-packed-2" held a tracker as a chain of layers. A layer is {"kind", "name",
"kernel", "stride", "padding", "groups", "inputs", "outputs" (channels), "pool" (3 x 3, stride 2)},
in "rbsf-packed-2" also "bits". Its tensors are NAME.weight, and NAME.threshold `[O]` for the sums;
the last layer has NAME.scale and NAME.bias `[O]` instead of the threshold.

"rbsf-network-1" held a classifier as nodes. Its conv_bits read a real map and made the bits itself.
It had

- B ways to make bits: threshold and flip `[B, I]`;
- T terms with a scale `[T, O]`: term t reads the bits number `bits`[t] and has the weight number
  `kernels`[t] of `[M, ...]`;
- XNOR-Net's K, if there are map_scale and map_bias `[I]`;
- a bias `[O]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.graph import by_owner, check_entry, check_none_left
from rbsf.engine.node import MAX_SIDE, Node, affine_node
from rbsf.engine.terms import Terms, nodes_of

FORMATS = ("rbsf-packed-1", "rbsf-packed-2", "rbsf-network-1")
# The task of each format; format names are without their number.
TASKS = {"rbsf-packed": "tracker", "rbsf-network": "classifier"}

GEOMETRY = ("kernel", "stride", "padding", "groups")
SIZES = dict.fromkeys((*GEOMETRY, "inputs", "outputs"), int)
LAYER = {"kind": str, "name": str, **SIZES, "pool": bool}
DIMENSIONS = {"threshold": 2, "flip": 2, "weight": 3, "scale": 2, "bias": 1}
POOL = {"kernel": 3, "stride": 2, "padding": 0, "ceil": False}


def nodes(form: str, entries: list[Any], tensors: dict[str, np.ndarray]) -> list[Node]:
    """Nodes made from the `layers` entries and tensors of a file.

    Raises ValueError for entries that are not nodes, and for tensors that belong to no node.
    """
    owned = by_owner(tensors)
    made = _chain(entries, owned) if form.startswith("rbsf-packed-") else _network(entries, owned)
    check_none_left(owned)
    return made


# ---- trackers


def _chain(layers: list[Any], owned: dict[str, dict[str, np.ndarray]]) -> list[Node]:
    for layer in layers:
        _check_layer(layer)
    if not 2 <= len(layers) <= 1000:
        raise ValueError(f"{len(layers)} layers: a packed network has 2 to 1000")
    size = _least_size(layers)
    shape = {"height": size, "width": size, "channels": layers[0]["inputs"], "any_size": True}
    made = [Node("image", "input", (), shape)]
    for number, layer in enumerate(layers):
        _check_place(layer, number, len(layers))
        made += _layer(layer, made[-1].name, owned.pop(layer["name"], {}))
    return made


def _check_layer(layer: Any) -> None:
    """Raise ValueError if `layer` is not a layer."""
    kinds = {}
    if isinstance(layer, dict):
        kinds = {key: type(value) for key, value in layer.items() if key != "bits"}
    if kinds != LAYER:
        raise ValueError(f"a layer is {str(layer)[:100]}, expected {', '.join(LAYER)}")


def _least_size(layers: list[dict[str, Any]]) -> int:
    """The side of the smallest image for which the output has a pixel."""
    size = 1
    for layer in reversed(layers):
        if layer["pool"]:
            size = 2 * size + 1
        size = max(1, (size - 1) * layer["stride"] + layer["kernel"] - 2 * layer["padding"])
        if size > MAX_SIDE:
            fault = f"takes no images of up to {MAX_SIDE} pixels a side"
            raise ValueError(f"layer {layer['name']!r}: {fault}")
    return size


def _check_place(layer: dict[str, Any], number: int, count: int) -> None:
    """Raise ValueError if `layer` cannot be layer `number` of `count`."""
    where = f"layer {layer['name']!r}"
    last = number == count - 1
    kind = "conv_bits_real" if last else "conv_bits"
    if number == 0:
        kind = "conv_u8"
    if layer["kind"] != kind:
        raise ValueError(f"{where} is {layer['kind']}, number {number + 1} must be {kind}")
    if (number and "bits" in layer) or (last and layer["pool"]):
        raise ValueError(f"{where}: only the first one has bits, and the last one no pool")


def _layer(layer: dict[str, Any], source: str, arrays: dict[str, np.ndarray]) -> list[Node]:
    """Nodes of a convolution and of the operations that turn its sums into bits or features."""
    name = layer["name"]
    last = layer["kind"] == "conv_bits_real"
    expected = ["bias", "scale", "weight"] if last else ["threshold", "weight"]
    if sorted(arrays) != expected:
        raise ValueError(f"layer {name!r}: its tensors are {sorted(arrays)}, expected {expected}")
    weight = arrays.pop("weight")
    if weight.shape[:1] != (layer["outputs"],):
        raise ValueError(f"layer {name!r}: its weight is not of {layer['outputs']} filters")
    made = [_conv(layer, source, weight)]
    if last:
        made.append(affine_node(f"{name}.scaled", name, **arrays))
        return [*made, Node(f"{name}.features", "channels_first", (f"{name}.scaled",))]
    if layer["pool"]:
        made.append(Node(f"{name}.pool", "max_pool", (name,), dict(POOL)))
    return [*made, Node(f"{name}.sign", "sign", (made[-1].name,), {}, arrays)]


def _conv(layer: dict[str, Any], source: str, weight: np.ndarray) -> Node:
    attributes = {key: layer[key] for key in GEOMETRY} | {"channels": layer["inputs"]}
    if layer["kind"] == "conv_u8":
        attributes["bits"] = layer.get("bits", 8)
        return Node(layer["name"], "conv_u8", (source,), attributes, {"weight": weight})
    attributes["border"] = -1
    return Node(layer["name"], "conv_bits", (source,), attributes, {"weight": weight})


# ---- classifiers


def _network(entries: list[Any], owned: dict[str, dict[str, np.ndarray]]) -> list[Node]:
    made: list[Node] = []
    for entry in entries:
        check_entry(entry)
        name, op, attributes = entry["name"], entry["op"], entry["attributes"]
        arrays = owned.pop(name, {})
        if op == "conv_bits":
            made += _conv_bits(name, entry["inputs"], attributes, arrays)
            continue
        if op == "input":
            attributes = attributes | {"any_size": False}
        made.append(Node(name, op, tuple(entry["inputs"]), attributes, arrays))
    return made


def _conv_bits(
    name: str, inputs: list[str], a: dict[str, Any], t: dict[str, np.ndarray]
) -> list[Node]:
    _check_terms(name, inputs, a, t)
    pairs = zip(t["threshold"], t["flip"], strict=True)
    signs = [{"threshold": threshold, "flip": flip} for threshold, flip in pairs]
    magnitude = {"scale": t["map_scale"], "bias": t["map_bias"]} if "map_scale" in t else None
    terms = Terms(
        signs, list(t["weight"]), a["bits"], a["kernels"], t["scale"], t["bias"], magnitude
    )
    geometry = {key: a[key] for key in GEOMETRY}
    geometry |= {"channels": t["threshold"].shape[1], "border": -1}
    return nodes_of(name, inputs[0], geometry, terms)


def _check_terms(name: str, inputs: list[str], a: dict[str, Any], t: dict[str, np.ndarray]) -> None:
    """Raise ValueError if the terms and tensors of a conv_bits do not fit together.

    Everything else is checked later, on the nodes.
    """
    where = f"node {name!r} (conv_bits)"
    found = {key: array.ndim for key, array in t.items() if key not in ("map_scale", "map_bias")}
    if found != DIMENSIONS or ("map_scale" in t) is not ("map_bias" in t):
        expected = f"{', '.join(DIMENSIONS)} of such dimensions"
        raise ValueError(f"{where}: its tensors are {sorted(t)}, expected {expected}")
    if set(a) != {*GEOMETRY, "bits", "kernels"} or len(inputs) != 1:
        raise ValueError(f"{where}: has attributes {sorted(a)} and {len(inputs)} inputs")
    ways = len(t["threshold"])
    for key, count in (("bits", ways), ("kernels", len(t["weight"]))):
        if not _are_numbers_below(count, a[key]):
            fault = f"{key}={str(a[key])[:50]}, expected numbers below {count}"
            raise ValueError(f"{where}: {fault}")
    if {len(a["kernels"]), len(t["scale"])} != {len(a["bits"])} or len(t["flip"]) != ways:
        raise ValueError(f"{where}: its terms, scales and flips are of different numbers")


def _are_numbers_below(count: int, numbers: Any) -> bool:
    """Whether `numbers` is a list of 1 to 64 numbers that uses exactly those below `count`."""
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= 64:
        return False
    if any(type(n) is not int for n in numbers):
        return False
    return sorted({*numbers}) == [*range(count)]
