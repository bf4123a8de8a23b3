"""add: the sum of two maps of the same shape.

The sum of two maps of whole numbers is whole; any other sum is float32.
"""

import numpy as np

from rbsf.engine.node import Map, Node
from rbsf.engine.op import NUMBERS, Op


def _result(node: Node, x: Map, y: Map) -> Map:
    if x.shape != y.shape:
        raise ValueError(f"expected maps of one shape, got {x.shape}, {y.shape}")
    if {x.kind, y.kind} == {"whole"}:
        return Map(x.shape, "whole", x.largest + y.largest)
    return Map(x.shape, "real")


def _reference(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x + y if x.dtype == np.float32 else np.add(x, y, dtype=np.int32)


OP = Op(takes=(NUMBERS, NUMBERS), result=_result, reference=_reference, onnx="Add")
