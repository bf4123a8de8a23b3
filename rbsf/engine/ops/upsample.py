"""upsample: repeats every pixel `factor` times in height and width (nearest neighbour)."""

import numpy as np

from rbsf.engine.node import Map, Node, whole
from rbsf.engine.op import ANY, Op, Step, step
from rbsf.engine.ops._windows import check_map


def _result(node: Node, x: Map) -> Map:
    check_map(x)
    factor = node.attributes["factor"]
    height, width, channels = x.shape
    return Map((height * factor, width * factor, channels), x.kind, x.largest)


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    factor = node.attributes["factor"]
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


def _onnx(node: Node, x: Map) -> list[Step]:
    factor = node.attributes["factor"]
    scales = np.array([1, 1, factor, factor], np.float32)
    modes = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    return [step("Resize", "x0", "", scales, **modes)]


OP = Op(
    takes=(ANY,),
    attributes={"factor": whole(2, 16)},
    result=_result,
    reference=_reference,
    onnx=_onnx,
)
