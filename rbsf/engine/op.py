"""Defines an operation of packed networks; docs/operations.md explains how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Check, Forms, Map, Node

# Kinds of map that an input may be.
REAL, NUMBERS = ("real",), ("whole", "real")
ANY = ("bits", "whole", "real")

Source = str | int | np.ndarray | np.floating


class Step(NamedTuple):
    """One ONNX node.

    An input is "x0" or "x1" (an input of the operation), the number of an earlier step, a constant,
    or "" for none. In ONNX maps are `[N, C, H, W]`, bits are -1 and +1, and all values are float32.
    """

    type: str
    inputs: tuple[Source, ...]
    attributes: dict[str, Any]


def step(kind: str, *inputs: Source, **attributes: Any) -> Step:
    """An ONNX node of type `kind`; see `Step`."""
    return Step(kind, inputs, attributes)


def per_channel(values: np.ndarray, x: Map) -> np.ndarray:
    """Values `[C]` as float32, in the shape that combines with the map `x` in ONNX."""
    return values.astype(np.float32).reshape(-1, *[1] * (len(x.shape) - 1))


def _same(node: Node, x: Map) -> Map:
    return x


def _none(node: Node, *maps: Map) -> Forms:
    return {}


@dataclass(frozen=True)
class Op:
    """One operation.

    All functions take the node first, then a map or an array `[N, ...]` for each input.
    """

    # The kinds of map that each input may be.
    takes: tuple[tuple[str, ...], ...]
    # The reference that kernels are tested against; takes arrays. Plain NumPy, written
    # independently of the kernel.
    reference: Callable[..., np.ndarray]
    # The same as ONNX nodes; takes maps. A string is the type of a single node with all inputs.
    onnx: str | Callable[..., list[Step]]
    # The output's map; raises ValueError if inputs do not fit.
    result: Callable[..., Map] = _same
    # The name of each attribute and its check, see `rbsf.engine.node`.
    attributes: Mapping[str, Check] = field(default_factory=dict)
    # The dtype and the shape of each tensor.
    tensors: Callable[..., Forms] = _none
    # Raises ValueError for tensors with wrong values.
    check_values: Callable[[Node], None] | None = None
    # Makes the kernel; if this is None or returns None, the reference runs.
    kernel: Callable[[Node, list[Map], Target], Kernel | None] | None = None
    # True if the operation only moves numbers; NumPy is as fast as a kernel for that.
    moves: bool = False

    def steps(self, node: Node, *maps: Map) -> list[Step]:
        """The ONNX nodes of the operation."""
        if isinstance(self.onnx, str):
            return [step(self.onnx, *(f"x{number}" for number in range(len(maps))))]
        return self.onnx(node, *maps)
