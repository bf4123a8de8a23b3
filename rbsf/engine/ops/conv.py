"""conv: real convolution, padded with 0. weight float32 `[O, k, k, I/g]`, bias float32 `[O]`.

The kernel adds in one order on every machine, each step a fused multiply-add. The reference adds in
BLAS's own order.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import MAX_VALUES, Forms, Map, Node
from rbsf.engine.op import Op, Step, step
from rbsf.engine.ops._windows import GROUPS, WINDOW, convolve, convolved


def _result(node: Node, x: Map) -> Map:
    shape, groups = convolved(node, x), node.attributes["groups"]
    blocks = -(-shape[2] // groups // 16)  # of 16 filters in a group
    products = node.attributes["kernel"] ** 2 * x.shape[2]
    if blocks * 16 * products > MAX_VALUES:
        raise ValueError(f"its weights would take over {MAX_VALUES:,} values")
    return Map(shape, "real")


def _tensors(node: Node, x: Map) -> Forms:
    outputs, k = len(node.tensors["weight"]), node.attributes["kernel"]
    weight = (outputs, k, k, x.shape[2] // node.attributes["groups"])
    return {"weight": ("float32", weight), "bias": ("float32", (outputs,))}


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    pad = node.attributes["padding"]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return convolve(x, node.tensors["weight"], node.attributes) + node.tensors["bias"]


def kernel(node: Node, maps: list[Map], target: Target) -> Kernel:
    """The extension's convolution; it also serves a linear layer, whose vectors are pixels."""
    a = node.attributes or {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    pad, groups, x = a["padding"], a["groups"], maps[0]
    weight, bias = target.prepare((node.name, "real"), lambda: _blocks(node, groups))
    cost = (1 + weight.shape[2] / 50) / 1000  # microseconds for a number of the output, about

    def run(inputs: list[np.ndarray], out: np.ndarray, padded: list[np.ndarray]) -> None:
        image = inputs[0]
        if image.ndim == 2:
            image, out = image[None, None], out[None, None]
        if pad:
            padded[0][:, pad:-pad, pad:-pad] = image
            image = padded[0]
        image = np.asarray(image, np.float32)
        threads = target.share(out.size * cost)
        target.native.conv_real(
            image, weight, bias, out, a["kernel"], a["stride"], groups, threads, target.isa
        )

    if not pad:
        return Kernel(run)
    height, width, channels = x.shape
    return Kernel(run, [((height + 2 * pad, width + 2 * pad, channels), np.float32)])


def _blocks(node: Node, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[groups, blocks, products, 16]` and bias `[groups, 16 * blocks]`.

    They are filled up with zeros.
    """
    weight = _in_blocks(node.tensors["weight"], groups)
    bias = _in_blocks(node.tensors["bias"], groups)
    return weight, bias.reshape(groups, -1)


def _in_blocks(rows: np.ndarray, groups: int) -> np.ndarray:
    """Rows `[O, ...]` as `[groups, blocks, numbers of a row, 16]`."""
    rows = rows.reshape(groups, len(rows) // groups, -1)
    blocks = -(-rows.shape[1] // 16)
    filled = np.zeros((groups, blocks * 16, rows.shape[2]), np.float32)
    filled[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(filled.reshape(groups, blocks, 16, -1).transpose(0, 1, 3, 2))


def _onnx(node: Node, x: Map) -> list[Step]:
    a, weight = node.attributes, node.tensors["weight"].transpose(0, 3, 1, 2)
    window = {"strides": [a["stride"]] * 2, "pads": [a["padding"]] * 4, "group": a["groups"]}
    return [step("Conv", "x0", weight, node.tensors["bias"], **window)]


OP = Op(
    takes=(("pixels", "whole", "real"),),
    attributes=WINDOW | GROUPS,
    result=_result,
    tensors=_tensors,
    reference=_reference,
    kernel=kernel,
    onnx=_onnx,
)
