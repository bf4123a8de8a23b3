"""input: the images, uint8 `[N, H, W, C]`.

If `any_size` is true, images of other heights and widths are allowed too, and height and width are
an example.
"""

import numpy as np

from rbsf.engine.node import MAX_CHANNELS, MAX_SIDE, Map, Node, flag, whole
from rbsf.engine.op import Op


def _result(node: Node) -> Map:
    a = node.attributes
    return Map((a["height"], a["width"], a["channels"]), "pixels")


def _reference(node: Node) -> np.ndarray:
    raise ValueError("the images are given, not computed")


SIDE = whole(1, MAX_SIDE)
OP = Op(
    takes=(),
    attributes={
        "height": SIDE,
        "width": SIDE,
        "channels": whole(1, MAX_CHANNELS),
        "any_size": flag,
    },
    result=_result,
    reference=_reference,
    onnx=lambda node: [],
)
