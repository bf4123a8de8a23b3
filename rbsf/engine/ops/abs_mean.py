"""abs_mean: the mean of the magnitude over all channels, float32 (H, W, 1).

XNOR-Net's K is computed from it.
"""

import numpy as np

from rbsf.engine.node import Map, Node
from rbsf.engine.op import NUMBERS, Op, step
from rbsf.engine.ops._windows import check_map


def _result(node: Node, x: Map) -> Map:
    check_map(x)
    return Map((*x.shape[:2], 1), "real")


OP = Op(
    takes=(NUMBERS,),
    result=_result,
    reference=lambda node, x: np.abs(x).mean(-1, keepdims=True),
    onnx=lambda node, x: [step("Abs", "x0"), step("ReduceMean", 0, axes=[1])],
)
