"""Operations prepared to run in the C++ extension or in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from rbsf.engine.node import Shape

Run = Callable[[list[np.ndarray], np.ndarray, list[np.ndarray]], None]

WORTH_SHARING = 50  # microseconds; waking a helper thread costs a good part of this
# For longer rows, loops over channels are long enough, and copies would take much memory.
LONGEST_ROW = 1 << 16


@dataclass(frozen=True)
class Kernel:
    """`run(inputs, output, scratch)` computes an operation.

    `scratch` are the kernel's own arrays, zero at first. Inputs and output are C-contiguous
    `[N, ...]`, as the maps of the edges say; bits that a convolution reads are in the order of
    `layout`.
    """

    run: Run
    scratch: Sequence[tuple[Shape, type]] = ()  # shape and dtype of each array for one image
    native: bool = True  # False: NumPy computes it

    def scratch_bytes(self) -> int:
        """Bytes of the scratch arrays for one image."""
        return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.scratch)


@dataclass(frozen=True)
class Target:
    """Where kernels run: the extension, its instruction set, and the number of threads."""

    native: Any
    isa: str
    threads: int
    # Weights in the kernels' order, for all sizes of input. A key begins with the name of a node.
    prepared: dict[tuple[Hashable, ...], Any] = field(default_factory=dict)

    def share(self, microseconds: float) -> int:
        """How many threads to use for work that takes one thread about `microseconds`."""
        return self.threads if microseconds >= WORTH_SHARING else 1

    def prepare(self, key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
        """The result of `make`, computed once for each `key`."""
        if key not in self.prepared:
            self.prepared[key] = make()
        return self.prepared[key]

    def without(self, name: str) -> Target:
        """The same target, without the prepared values of the node called `name`."""
        others = {key: made for key, made in self.prepared.items() if key[0] != name}
        return replace(self, prepared=others)


def convolution(conv: object, target: Target, cost: float = math.inf) -> Kernel:
    """A kernel that runs one convolution of the extension.

    `cost`: estimated microseconds per number of the output.
    """

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(out.size * cost)
        target.native.conv(conv, inputs[0], out, threads, target.isa)

    return Kernel(compute)


def rows_of(values: np.ndarray, shape: Shape) -> np.ndarray:
    """One number per channel, repeated over a row of pixels, as NumPy is slow in short loops."""
    is_short = len(shape) == 3 and shape[1] * shape[2] <= LONGEST_ROW
    pixels = shape[1] if is_short else 1
    return np.tile(np.broadcast_to(values, shape[-1:]), pixels)


def as_rows(x: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The map `x` with each row of pixels as one axis, if `row` covers all of them."""
    return x if len(row) == x.shape[-1] else x.reshape(*x.shape[:2], -1)
