"""prelu: values below 0 are multiplied by `slope`, float32 `[C]` or `[1]`."""

import numpy as np

from rbsf.engine.node import Forms, Map, Node
from rbsf.engine.op import REAL, Op, per_channel, step


def _tensors(node: Node, x: Map) -> Forms:
    slope = node.tensors.get("slope")
    return {
        "slope": ("float32", (1,) if slope is not None and slope.shape == (1,) else x.shape[-1:])
    }


OP = Op(
    takes=(REAL,),
    tensors=_tensors,
    reference=lambda node, x: np.where(x >= 0, x, x * node.tensors["slope"]),
    onnx=lambda node, x: [step("PRelu", "x0", per_channel(node.tensors["slope"], x))],
)
