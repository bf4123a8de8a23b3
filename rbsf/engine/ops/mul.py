"""mul: the product of two maps of the same shape, in float32.

Either of them may instead have one number per channel (1, 1, C) or per pixel (H, W, 1).
"""

from math import prod

from rbsf.engine.node import Map, Node
from rbsf.engine.op import NUMBERS, Op
from rbsf.engine.ops._windows import check_map


def _result(node: Node, x: Map, y: Map) -> Map:
    large, small = (x, y) if prod(x.shape) >= prod(y.shape) else (y, x)
    if small.shape != large.shape:
        check_map(large)
        height, width, channels = large.shape
        if small.shape not in ((1, 1, channels), (height, width, 1)):
            wanted = f"a map {large.shape} and one like it, (1, 1, C) or (H, W, 1)"
            raise ValueError(f"expected {wanted}; got {small.shape}")
    return Map(large.shape, "real")


OP = Op(takes=(NUMBERS, NUMBERS), result=_result, reference=lambda node, x, y: x * y, onnx="Mul")
