"""avg_pool: the mean of each window, float32; positions are added one after another.

`ceil` is as in max_pool. With `include_pad`, padding counts as zeros in the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node, Shape, flag
from rbsf.engine.op import NUMBERS, Op, Step, step
from rbsf.engine.ops._windows import POOL, onnx_window, over_windows, pooled, window_size


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    sums = over_windows(x, node.attributes, np.add, 0.0)
    return sums / _window_areas(x.shape[1:3], node.attributes)[:, :, None]


def _window_areas(shape: Shape, a: dict[str, Any]) -> np.ndarray:
    """The divisor of each window's sum, float32 `[H', W']`; `shape` of the map is (H, W, ...)."""
    rows, columns = _window_counts(shape[0], a), _window_counts(shape[1], a)
    return np.outer(rows, columns).astype(np.float32)


def _window_counts(size: int, a: dict[str, Any]) -> np.ndarray:
    """How many rows (or columns) of each window count."""
    start = np.arange(window_size(size, a)) * a["stride"] - a["padding"]
    end = np.minimum(start + a["kernel"], size + a["padding"])
    if a["include_pad"]:
        return end - start
    return np.minimum(end, size) - np.maximum(start, 0)


def mean_kernel(a: dict[str, Any], areas: np.ndarray, target: Target) -> Kernel:
    """The extension's kernel for means of windows; it divides their sums by `areas`."""
    kernel, stride, padding = a["kernel"], a["stride"], a["padding"]

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        x = inputs[0]
        x = x if x.dtype == np.int16 else np.asarray(x, np.float32)
        threads = target.share(x.size / 4000)
        target.native.pool_map(x, out, kernel, stride, padding, areas, threads, target.isa)

    return Kernel(run)


def _onnx(node: Node, x: Map) -> list[Step]:
    a = node.attributes
    # If the end cuts a window, its sum is divided by the number of positions that remain.
    counted = int(a["include_pad"] and a["padding"] > 0)
    return [step("AveragePool", "x0", **onnx_window(node), count_include_pad=counted)]


def _kernel(node: Node, maps: list[Map], target: Target) -> Kernel:
    return mean_kernel(node.attributes, _window_areas(maps[0].shape, node.attributes), target)


OP = Op(
    takes=(NUMBERS,),
    attributes=POOL | {"include_pad": flag},
    result=lambda node, x: Map(pooled(node, x), "real"),
    reference=_reference,
    kernel=_kernel,
    onnx=_onnx,
)
