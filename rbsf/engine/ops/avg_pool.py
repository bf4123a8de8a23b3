"""avg_pool: the mean of each window, float32, position after position added up.

`ceil` as in max_pool; `include_pad` counts padding in a mean, as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node, Shape, flag
from rbsf.engine.op import NUMBERS, Op, Step, step
from rbsf.engine.ops._windows import POOL, onnx_window, over_windows, pooled, window_size


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    return (
        over_windows(x, node.attributes, np.add, 0.0)
        / _window_areas(x.shape[1:3], node.attributes)[:, :, None]
    )


def _window_areas(shape: Shape, a: dict[str, Any]) -> np.ndarray:
    """What the sum of each window is divided by, float32 [H', W'], for a map of `shape` (H, W,
    ...).
    """
    return np.outer(*(_window_counts(size, a) for size in shape[:2])).astype(np.float32)


def _window_counts(size: int, a: dict[str, Any]) -> np.ndarray:
    start = np.arange(window_size(size, a)) * a["stride"] - a["padding"]
    end = np.minimum(start + a["kernel"], size + a["padding"])
    return end - start if a["include_pad"] else np.minimum(end, size) - np.maximum(start, 0)


def mean_kernel(a: dict[str, Any], areas: np.ndarray, target: Target) -> Kernel:
    """Means of windows, whose sums are divided by `areas`, by the extension."""

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        x, threads = np.asarray(inputs[0], np.float32), target.share(inputs[0].size / 4000)
        target.native.pool_map(
            x, out, a["kernel"], a["stride"], a["padding"], areas, threads, target.isa
        )

    return Kernel(run)


def _onnx(node: Node, x: Map) -> list[Step]:
    a = node.attributes
    counted = int(
        a["include_pad"] and a["padding"] > 0
    )  # a window cut at the end is divided by what is left of it
    return [step("AveragePool", "x0", **onnx_window(node), count_include_pad=counted)]


OP = Op(
    takes=(NUMBERS,),
    attributes=POOL | {"include_pad": flag},
    result=lambda node, x: Map(pooled(node, x), "real"),
    reference=_reference,
    kernel=lambda node, maps, target: mean_kernel(
        node.attributes, _window_areas(maps[0].shape, node.attributes), target
    ),
    onnx=_onnx,
)
