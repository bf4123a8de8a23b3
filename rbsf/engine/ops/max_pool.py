"""max_pool: the largest of each window.  Of bits: +1 where any of them is.

`ceil` admits windows that are cut at the end, as in PyTorch; a window's part beyond the map is left
out.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.op import ANY, Op, Step, step
from rbsf.engine.ops._windows import POOL, onnx_window, over_windows, pooled


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    lowest = -np.inf if x.dtype == np.float32 else np.iinfo(x.dtype).min
    return over_windows(x, node.attributes, np.maximum, lowest)


def _kernel(node: Node, maps: list[Map], target: Target) -> Kernel | None:
    a = node.attributes

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(inputs[0].size / 4000)
        target.native.pool_map(
            inputs[0], out, a["kernel"], a["stride"], a["padding"], None, threads, target.isa
        )

    return Kernel(run) if maps[0].kind == "real" else None


def _onnx(node: Node, x: Map) -> list[Step]:
    return [step("MaxPool", "x0", **onnx_window(node))]


OP = Op(
    takes=(ANY,),
    attributes=POOL,
    result=lambda node, x: Map(pooled(node, x), x.kind, x.largest),
    reference=_reference,
    kernel=_kernel,
    onnx=_onnx,
)
