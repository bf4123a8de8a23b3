"""What an operation of packed networks is; docs/operations.md says how to add one."""

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

    An input is "x0" or "x1" (the operation's own), the number of an earlier step, a constant, or ""
    for none. Maps are `[N, C, H, W]` there, and bits are -1 and +1; all values are float32.
    """

    type: str
    inputs: tuple[Source, ...]
    attributes: dict[str, Any]


def step(kind: str, *inputs: Source, **attributes: Any) -> Step:
    """An ONNX node of type `kind`; see `Step`."""
    return Step(kind, inputs, attributes)


def per_channel(values: np.ndarray, x: Map) -> np.ndarray:
    """Values `[C]` as float32 of the shape in which they meet a map in ONNX."""
    return values.astype(np.float32).reshape(-1, *[1] * (len(x.shape) - 1))


def _same(node: Node, x: Map) -> Map:
    return x


def _none(node: Node, *maps: Map) -> Forms:
    return {}


@dataclass(frozen=True)
class Op:
    """One operation.

    All functions take its node first, then a map or an array `[N, ...]` for each input.
    """

    # The kinds of map that each input may be.
    takes: tuple[tuple[str, ...], ...]
    # The oracle, of arrays: plain NumPy, written without a look at the kernel.
    reference: Callable[..., np.ndarray]
    # The same as ONNX nodes, of maps; a type alone stands for one node of all inputs.
    onnx: str | Callable[..., list[Step]]
    # The output's map; raises ValueError for what does not fit.
    result: Callable[..., Map] = _same
    # The name and the check of each attribute, see `rbsf.engine.node`.
    attributes: Mapping[str, Check] = field(default_factory=dict)
    # The dtype and the shape of each tensor.
    tensors: Callable[..., Forms] = _none
    # Raises ValueError for tensors with wrong values.
    check_values: Callable[[Node], None] | None = None
    # What makes the kernel; where it is None, or gives None, the reference runs.
    kernel: Callable[[Node, list[Map], Target], Kernel | None] | None = None
    # It only moves numbers, at which NumPy is as fast as a kernel.
    moves: bool = False

    def steps(self, node: Node, *maps: Map) -> list[Step]:
        """Its ONNX nodes."""
        if isinstance(self.onnx, str):
            return [step(self.onnx, *(f"x{number}" for number in range(len(maps))))]
        return self.onnx(node, *maps)
