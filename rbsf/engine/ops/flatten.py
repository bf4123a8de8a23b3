"""flatten: a map (H, W, C) becomes a vector (C * H * W,), channels slowest; a vector stays."""

from math import prod

import numpy as np

from rbsf.engine.node import Map, Node
from rbsf.engine.op import NUMBERS, Op


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return x.reshape(len(x), -1)


OP = Op(
    takes=(NUMBERS,),
    result=lambda node, x: Map((prod(x.shape),), x.kind, x.largest),
    reference=_reference,
    onnx="Flatten",
    moves=True,
)
