"""What a packed network is made of: nodes, and the maps that run along the edges between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any

import numpy as np

MAX_CHANNELS = 1 << 14
MAX_SIDE = 1 << 14
MAX_VALUES = 1 << 28  # of one map of one image

Shape = tuple[int, ...]
Forms = dict[str, tuple[str, Shape]]  # tensor: dtype, shape
Check = Callable[[str, Any], None]  # of an attribute's name and value; raises ValueError


@dataclass(frozen=True)
class Node:
    """One operation of a network: `op` names a module of `rbsf.engine.ops`, `inputs` name earlier
    nodes.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Map:
    """What an edge carries for one image.

    kind    values                                   arrays
    pixels  0 to 255                                 uint8
    bits    1 for +1, 0 for -1                       uint8
    whole   whole numbers from -largest to largest   int8, int16 or int32: the first that holds them
    real                                             float32
    planes  real ones, channels first: a result      float32
    """

    shape: Shape  # (H, W, C) of a map, (C,) of a vector, (C, H, W) of planes
    kind: str
    largest: int = 0  # of whole numbers

    def __post_init__(self) -> None:
        """Raises ValueError for an empty or too large map, and for sums that 32 bits do not hold."""
        if min(self.shape) < 1 or prod(self.shape) > MAX_VALUES:
            raise ValueError(
                f"its output would be {self.shape}: none, or over {MAX_VALUES:,} values"
            )
        if self.largest >= 1 << 31:
            raise ValueError(f"its sums may reach {self.largest:,}, which 32 bits do not hold")

    @property
    def dtype(self) -> np.dtype:
        """Of its arrays."""
        if self.kind == "whole":
            return np.dtype(
                np.int8
                if self.largest < 1 << 7
                else np.int16
                if self.largest < 1 << 15
                else np.int32
            )
        return np.dtype(np.float32 if self.kind in ("real", "planes") else np.uint8)

    @property
    def bytes(self) -> int:
        """Of its array for one image."""
        return prod(self.shape) * self.dtype.itemsize


def needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """The nodes that `output` depends on, in their order; the last one gives it.  The image always
    stays.
    """
    names = {nodes[0].name, output}
    for node in reversed(nodes):
        if node.name in names:
            names.update(node.inputs)
    return [node for node in nodes if node.name in names]


# ---- checks of attributes


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""

    def check(key: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{key}={str(value)[:50]}, expected {low} to {high}")

    return check


def number(key: str, value: Any) -> None:
    """A finite number."""
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{key}={str(value)[:50]}, expected a finite number")


def flag(key: str, value: Any) -> None:
    """True or false."""
    if type(value) is not bool:
        raise ValueError(f"{key}={str(value)[:50]}, expected true or false")


def border(key: str, value: Any) -> None:
    """What binary convolutions pad with."""
    if type(value) is not int or value not in (-1, 1):
        raise ValueError(f"{key}={str(value)[:50]}, expected -1 or 1")
