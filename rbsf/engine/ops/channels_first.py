"""channels_first: a map (H, W, C) as planes (C, H, W).

It is the last operation of a network; trackers take features in this order.
"""

from rbsf.engine.node import Map, Node
from rbsf.engine.op import REAL, Op
from rbsf.engine.ops._windows import check_map


def _result(node: Node, x: Map) -> Map:
    check_map(x)
    height, width, channels = x.shape
    return Map((channels, height, width), "planes")


# It is the identity in ONNX, where maps already have this order.
OP = Op(
    takes=(REAL,),
    result=_result,
    reference=lambda node, x: x.transpose(0, 3, 1, 2),
    onnx="Identity",
    moves=True,
)
