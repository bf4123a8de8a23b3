"""The parts of a packed network: nodes, and the maps on the edges between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import Any

import numpy as np

MAX_CHANNELS = 1 << 14
MAX_SIDE = 1 << 14
MAX_VALUES = 1 << 28  # numbers in one map of one image
LARGEST_PIXEL = 255

Shape = tuple[int, ...]
Forms = dict[str, tuple[str, Shape]]  # the dtype and the shape of each tensor, by its name
Check = Callable[[str, Any], None]  # takes an attribute's name and value; raises ValueError


@dataclass(frozen=True)
class Node:
    """One operation of a network.

    `op` names a module of `rbsf.engine.ops`; `inputs` name earlier nodes.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def reading(self, renamed: Mapping[str, str]) -> Node:
        """The node with other inputs; `renamed` maps old names to new ones."""
        inputs = [renamed.get(name, name) for name in self.inputs]
        return replace(self, inputs=tuple(inputs))

    def with_tensors(self, **changed: np.ndarray) -> Node:
        """The node with some of its tensors changed or added."""
        return replace(self, tensors=self.tensors | changed)


def affine_node(name: str, source: str, **tensors: np.ndarray) -> Node:
    """A node that computes scale * source + bias; `scale` or `bias` may be absent."""
    return Node(name, "affine", (source,), {}, tensors)


@dataclass(frozen=True)
class Map:
    """The map on an edge for one image.

    kind    values                                   arrays
    pixels  0 to 255                                 uint8
    bits    1 for +1, 0 for -1                       uint8
    whole   whole numbers from -largest to largest   int8, int16 or int32: the first that holds them
    real    real numbers                             float32
    planes  real numbers, channels first: a result   float32
    """

    shape: Shape  # (H, W, C) of a map, (C,) of a vector, (C, H, W) of planes
    kind: str
    largest: int = 0  # the largest magnitude of whole numbers

    def __post_init__(self) -> None:
        """Raise ValueError for an empty or too large map, and for sums of over 32 bits."""
        if min(self.shape) < 1 or prod(self.shape) > MAX_VALUES:
            fault = f"none, or over {MAX_VALUES:,} values"
            raise ValueError(f"its output would be {self.shape}: {fault}")
        if self.largest >= 1 << 31:
            raise ValueError(f"its sums may reach {self.largest:,}, which 32 bits do not hold")

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the map's arrays."""
        if self.kind == "whole":
            return _whole_dtype(self.largest)
        if self.kind in ("real", "planes"):
            return np.dtype(np.float32)
        return np.dtype(np.uint8)

    @property
    def bytes(self) -> int:
        """Bytes of the map's array for one image."""
        return prod(self.shape) * self.dtype.itemsize


def _whole_dtype(largest: int) -> np.dtype:
    """The smallest dtype for whole numbers from -`largest` to `largest`."""
    if largest < 1 << 7:
        return np.dtype(np.int8)
    if largest < 1 << 15:
        return np.dtype(np.int16)
    return np.dtype(np.int32)


def needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """The nodes that `output` depends on, in order; the first node, the image, is always kept."""
    names = {nodes[0].name, output}
    for node in reversed(nodes):
        if node.name in names:
            names.update(node.inputs)
    return [node for node in nodes if node.name in names]


def spliced(nodes: Sequence[Node], parts: Mapping[str, Sequence[Node]]) -> list[Node]:
    """`nodes` with some replaced; `parts` maps the name of a replaced node to the new nodes."""
    result: list[Node] = []
    for node in nodes:
        result += parts.get(node.name, [node])
    return result


# ---- checks of attributes


def whole(low: int, high: int) -> Check:
    """A check that accepts whole numbers from `low` to `high`."""

    def check(key: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{key}={str(value)[:50]}, expected {low} to {high}")

    return check


def number(key: str, value: Any) -> None:
    """Raise ValueError if `value` is not a finite number."""
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{key}={str(value)[:50]}, expected a finite number")


def flag(key: str, value: Any) -> None:
    """Raise ValueError if `value` is neither true nor false."""
    if type(value) is not bool:
        raise ValueError(f"{key}={str(value)[:50]}, expected true or false")


def border(key: str, value: Any) -> None:
    """Raise ValueError if binary convolutions cannot pad with `value`."""
    if type(value) is not int or value not in (-1, 1):
        raise ValueError(f"{key}={str(value)[:50]}, expected -1 or 1")
