"""hardtanh: values are clipped to `low` and `high`."""

import numpy as np

from rbsf.engine.node import Map, Node, number
from rbsf.engine.op import REAL, Op, step


def _result(node: Node, x: Map) -> Map:
    if node.attributes["low"] > node.attributes["high"]:
        raise ValueError(f"low={node.attributes['low']} is above high={node.attributes['high']}")
    return x


def _ends(node: Node) -> tuple[np.floating, np.floating]:
    with np.errstate(over="ignore"):  # limits beyond float32 become infinite and have no effect
        return np.float32(node.attributes["low"]), np.float32(node.attributes["high"])


OP = Op(
    takes=(REAL,),
    attributes={"low": number, "high": number},
    result=_result,
    reference=lambda node, x: np.clip(x, *_ends(node)),
    onnx=lambda node, x: [step("Clip", "x0", *_ends(node))],
)
