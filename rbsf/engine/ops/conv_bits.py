"""conv_bits: convolution of bits with bits; gives whole numbers, sums of products of -1 and +1.

`channels` is the number of input channels. The map is padded by `padding` pixels, in which every
bit is `border`. The weight, uint8 `[O, ceil(k * k * I/g / 8)]`, has a row for each filter: its bits
`[k, k, I/g]` packed by `numpy.packbits(bitorder="little")`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.bit_layout import Packed, bit_rows, kernel_arguments, products
from rbsf.engine.kernel import Kernel, Target, convolution
from rbsf.engine.node import Forms, Map, Node, border
from rbsf.engine.op import Op, Step, step
from rbsf.engine.ops._windows import CHANNELS, GROUPS, WINDOW, convolve_whole, convolved

MAX_SIGNS = 1 << 27  # limit for the weights of a node, which NumPy unpacks
# The extension's name for sums of each dtype.
SUMS = {"int8": "sums8", "int16": "sums16", "int32": "sums"}


def _result(node: Node, x: Map) -> Map:
    shape, most = convolved(node, x), products(node)
    if most >= 1 << 24 or shape[2] * most > MAX_SIGNS:
        raise ValueError(f"{shape[2]} filters of {most} weights are too many")
    return Map(shape, "whole", most)


def _signs(node: Node) -> np.ndarray:
    """The weights as int8 -1 and +1, `[O, k * k * I/g]`."""
    bits = np.unpackbits(node.tensors["weight"], axis=1, count=products(node), bitorder="little")
    return bits.view(np.int8) * np.int8(2) - np.int8(1)


def reference(node: Node, x: np.ndarray) -> np.ndarray:
    """Sums int32 `[N, H', W', O]` of bits 0 and 1, `[N, H, W, I]`."""
    pad, fill = node.attributes["padding"], node.attributes["border"]
    signs = x.astype(np.int8) * 2 - 1
    signs = np.pad(signs, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    return convolve_whole(signs, _signs(node), node.attributes, products(node))


def make_conv(
    node: Node, read: Packed, target: Target, output: str, write: Packed | None = None, **more: Any
) -> Any:
    """The extension's convolution, which reads bits in the form `read`.

    `output`, `write` and `more` are as in `kernel_arguments`.
    """

    def make() -> Any:
        rows = bit_rows(node, read)
        return target.native.Conv(**kernel_arguments(node, rows, False, write, output, **more))

    return target.prepare((node.name, output, read, write), make)


def packed_kernel(node: Node, read: Packed, out: Map, target: Target) -> Kernel:
    """The kernel that computes sums from packed bits."""
    return convolution(make_conv(node, read, target, SUMS[out.dtype.name]), target, cost(node))


def cost(node: Node) -> float:
    """Estimated microseconds per number of the output."""
    return (1 + products(node) / 600) / 1000


def _onnx(node: Node, x: Map) -> list[Step]:
    a = node.attributes
    filters = _signs(node).astype(np.float32)
    filters = filters.reshape(-1, a["kernel"], a["kernel"], a["channels"] // a["groups"])
    weight = filters.transpose(0, 3, 1, 2)
    window = {"strides": [a["stride"]] * 2, "group": a["groups"]}
    if not a["padding"]:
        return [step("Conv", "x0", weight, **window)]
    pads = np.array([0, 0, a["padding"], a["padding"]] * 2, np.int64)
    padded = step("Pad", "x0", pads, np.float32(a["border"]))
    return [padded, step("Conv", 0, weight, **window)]


def _tensors(node: Node, x: Map) -> Forms:
    outputs = len(node.tensors["weight"])
    return {"weight": ("uint8", (outputs, (products(node) + 7) // 8))}


OP = Op(
    takes=(("bits",),),
    attributes=WINDOW | GROUPS | CHANNELS | {"border": border},
    result=_result,
    tensors=_tensors,
    reference=reference,
    onnx=_onnx,
)
