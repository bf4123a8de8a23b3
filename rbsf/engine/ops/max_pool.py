"""max_pool: the largest value of each window. For bits it is +1 if any bit of the window is +1.

`ceil` allows windows that the end of the map cuts, as in PyTorch; the part of a window outside the
map is ignored.
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
    if maps[0].kind != "real":
        return None
    a = node.attributes
    kernel, stride, padding = a["kernel"], a["stride"], a["padding"]

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        x = inputs[0]
        threads = target.share(x.size / 4000)
        target.native.pool_map(x, out, kernel, stride, padding, None, threads, target.isa)

    return Kernel(run)


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
