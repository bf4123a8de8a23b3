"""round: the nearest whole number (halves round to even), clipped to +-`limit`."""

import numpy as np

from rbsf.engine.node import Map, Node, whole
from rbsf.engine.op import NUMBERS, Op, Step, step


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    limit = np.float32(node.attributes["limit"])
    return np.clip(np.rint(x), -limit, limit).astype(np.int32)


def _onnx(node: Node, x: Map) -> list[Step]:
    limit = np.float32(node.attributes["limit"])
    return [step("Round", "x0"), step("Clip", 0, -limit, limit)]


OP = Op(
    takes=(NUMBERS,),
    attributes={"limit": whole(1, (1 << 24) - 1)},
    result=lambda node, x: Map(x.shape, "whole", node.attributes["limit"]),
    reference=_reference,
    onnx=_onnx,
)
