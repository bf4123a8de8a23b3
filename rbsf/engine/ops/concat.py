"""concat: the channels of two maps of the same kind, one after the other."""

import numpy as np

from rbsf.engine.node import MAX_CHANNELS, Map, Node
from rbsf.engine.op import ANY, Op, step


def _result(node: Node, x: Map, y: Map) -> Map:
    if x.kind != y.kind or x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"expected maps of one kind and size, got {x.kind} {x.shape}, {y.kind} {y.shape}"
        )
    channels = x.shape[-1] + y.shape[-1]
    if channels > MAX_CHANNELS:
        raise ValueError(f"has {channels} channels, {MAX_CHANNELS} at most")
    return Map((*x.shape[:-1], channels), x.kind, max(x.largest, y.largest))


OP = Op(
    takes=(ANY, ANY),
    result=_result,
    reference=lambda node, x, y: np.concatenate([x, y], axis=-1),
    onnx=lambda node, x, y: [step("Concat", "x0", "x1", axis=1)],
    moves=True,
)
