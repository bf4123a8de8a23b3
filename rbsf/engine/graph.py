"""A packed network: a graph of operations, checked before it takes memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rbsf.engine.node import Forms, Map, Node, affine_node, needed, spliced
from rbsf.engine.ops import OPS

MAX_NODES = 4000
# All maps of one image together may take MAP_BYTES, and MAP_BYTES_PER_BYTE more for each byte of
# the weights, up to MAX_MAP_BYTES.
MAX_MAP_BYTES = 1 << 30
MAP_BYTES = 64 << 20
MAP_BYTES_PER_BYTE = 1024
# Most bit products for one image: 500 times those of RB-SF, which takes seconds.
MAX_BIT_PRODUCTS = 1 << 40


@dataclass(frozen=True)
class PackedModel:
    """A checked packed network.

    Every node reads earlier nodes, and every array has the form that its operation requires. The
    first node is the input; the map of the last node is the output.
    """

    model: str
    task: str  # tracker or classifier
    nodes: tuple[Node, ...]
    info: dict[str, Any]
    path: Path | None = None
    maps: dict[str, Map] = field(init=False)  # the output of every node, for the input's own size

    def __post_init__(self) -> None:
        """Raises ValueError in one line that names the node."""
        try:
            object.__setattr__(self, "maps", check_nodes(self.nodes))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}" if self.path else str(error)) from None

    def maps_for(self, height: int, width: int) -> dict[str, Map]:
        """Maps for images of another size.

        Raises ValueError if the network takes no other size, or the size is too small or large.
        """
        first = self.nodes[0]
        own = self.input_shape[:2]
        if (height, width) == own:
            return self.maps
        if not first.attributes["any_size"]:
            expected = " x ".join(map(str, own))
            raise ValueError(f"images are {height} x {width}, expected {expected}")
        resized = replace(first, attributes=first.attributes | {"height": height, "width": width})
        try:
            return infer_maps((resized, *self.nodes[1:]))
        except ValueError as error:
            where = f"images of {height} x {width} pixels do not suit the network"
            raise ValueError(f"{where}: {error}") from None

    def up_to(self, name: str) -> PackedModel:
        """The part of the network that computes the map of node `name`, as real numbers."""
        end = affine_node(f"{name}.real", name, scale=np.ones(1, np.float32))
        return replace(self, nodes=(*needed(self.nodes, name), end))

    def with_weight(self, name: str, weight: np.ndarray) -> PackedModel:
        """The network with a new weight in node `name`; raises ValueError if it does not fit."""
        changed = [node.with_tensors(weight=weight) for node in self.nodes if node.name == name]
        return replace(self, nodes=tuple(spliced(self.nodes, {name: changed})))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, C) of the images; H and W are an example if the network takes any size."""
        return self.maps[self.nodes[0].name].shape


def check_nodes(nodes: Sequence[Node]) -> dict[str, Map]:
    """Maps of all nodes.

    Raises ValueError if the nodes do not form a network: unknown operations, inputs that no earlier
    node makes, attributes or arrays of wrong type or size, maps that do not fit or are too large.
    """
    if not 2 <= len(nodes) <= MAX_NODES:
        raise ValueError(f"{len(nodes)} nodes: a packed network has 2 to {MAX_NODES}")
    names: set[str] = set()
    for number, node in enumerate(nodes):
        _check_place(node, number, names)
        names.add(node.name)
    maps = infer_maps(nodes, check_values=True)
    last = nodes[-1].name
    if maps[last].kind not in ("real", "planes"):
        fault = f"is the last and gives {maps[last].kind}; a network ends in real numbers"
        raise ValueError(f"node {last!r} {fault}")
    return maps


def _check_place(node: Node, number: int, names: set[str]) -> None:
    """Raise ValueError if `node` cannot have this number and follow the nodes of `names`."""
    where = f"node {node.name!r}"
    if node.op not in OPS:
        raise ValueError(f"{where}: unknown op {node.op!r}; this version knows {', '.join(OPS)}")
    if (node.op == "input") is not (number == 0):
        fault = f"is number {number + 1} and {node.op!r}; the first, and only it, is the input"
        raise ValueError(f"{where} {fault}")
    if node.name in names:
        raise ValueError(f"two nodes are called {node.name!r}")
    for name in node.inputs:
        if name not in names:
            raise ValueError(f"{where} takes {name!r}, which no node before it makes")


def infer_maps(nodes: Sequence[Node], check_values: bool = False) -> dict[str, Map]:
    """Maps of all nodes, which must be in order of execution.

    Raises ValueError in one line that names the node.
    """
    maps: dict[str, Map] = {}
    weights = sum(array.nbytes for node in nodes for array in node.tensors.values())
    allowed = min(MAX_MAP_BYTES, MAP_BYTES + MAP_BYTES_PER_BYTE * weights)
    products = 0
    for node in nodes:
        try:
            made = _check(node, [maps[name] for name in node.inputs], check_values)
            maps[node.name] = made
            allowed -= made.bytes
            if allowed < 0:
                fault = "need too much memory for so small a network"
                raise ValueError(f"up to here the maps of one image {fault}")
            products += _bit_products(node, made)
            if products > MAX_BIT_PRODUCTS:
                fault = f"takes over {MAX_BIT_PRODUCTS:,} products of bits"
                raise ValueError(f"up to here one image {fault}")
        except ValueError as error:
            raise ValueError(f"node {node.name!r} ({node.op}): {error}") from None
    return maps


def _bit_products(node: Node, made: Map) -> int:
    """An upper limit of the bit products for the map; each value that is pooled counts 32."""
    values = prod(made.shape)
    window = node.attributes.get("kernel", 1) ** 2
    if not node.tensors:
        return 32 * window * values
    places = values // made.shape[-1]
    return 8 * places * sum(array.nbytes for array in node.tensors.values())


def _check(node: Node, inputs: list[Map], check_values: bool) -> Map:
    """The map that `node` makes; raises ValueError if anything does not fit."""
    op = OPS[node.op]
    if len(inputs) != len(op.takes):
        raise ValueError(f"expected {len(op.takes)} inputs, got {len(inputs)}")
    for x, kinds in zip(inputs, op.takes, strict=True):
        if x.kind not in kinds:
            raise ValueError(f"expected {' or '.join(kinds)}, got {x.kind}")
    if set(node.attributes) != set(op.attributes):
        found, expected = sorted(node.attributes), sorted(op.attributes)
        raise ValueError(f"has attributes {found}, expected {expected}")
    for key, good in op.attributes.items():
        good(key, node.attributes[key])
    result = op.result(node, *inputs)
    if check_values:
        _check_tensors(node, op.tensors(node, *inputs))
        if op.check_values:
            op.check_values(node)
    return result


def _check_tensors(node: Node, forms: Forms) -> None:
    found = {key: (str(array.dtype), array.shape) for key, array in node.tensors.items()}
    for key in sorted({*forms, *found}):
        if found.get(key) != forms.get(key):
            raise ValueError(f"{key} is {_text(found.get(key))}, expected {_text(forms.get(key))}")
        if not _has_numbers(key, node.tensors[key]):
            raise ValueError(f"{key} holds values that are not finite")


def _has_numbers(key: str, array: np.ndarray) -> bool:
    """Whether all values are finite; thresholds may also be infinite."""
    if array.dtype != np.float32:
        return True
    if key == "threshold":
        return not np.isnan(array).any()
    return bool(np.isfinite(array).all())


def _text(form: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{form[0]} {list(form[1])}" if form else "absent"
