"""conv_u8: convolution of pixels with whole weights from -63 to 63; gives whole numbers.

It has no padding and one group. With `bits` = 8 the weight is int8 `[O, k, k, I]`. With `bits` from
2 to 7 it is uint8 `[O, ceil(k * k * I * bits / 8)]`: each row holds the weights in the same order,
each weight in two's complement with `bits` bits, lowest bit first.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.bit_layout import products
from rbsf.engine.node import LARGEST_PIXEL, Forms, Map, Node, whole
from rbsf.engine.op import Op, Step, step
from rbsf.engine.ops._windows import CHANNELS, WINDOW, convolve_whole, convolved

MAX_WEIGHT = 63  # the sum of two products of a pixel and a weight fits 16 bits, which AVX2 needs
MAX_WEIGHTS = 64 << 20  # limit for all filters together


def _result(node: Node, x: Map) -> Map:
    shape = convolved(node, x)
    if shape[2] * products(node) > MAX_WEIGHTS:
        raise ValueError(f"its weights would take over {MAX_WEIGHTS >> 20} MB unpacked")
    return Map(shape, "whole", products(node) * LARGEST_PIXEL * MAX_WEIGHT)


def _tensors(node: Node, x: Map) -> Forms:
    a, outputs = node.attributes, len(node.tensors["weight"])
    if a["bits"] == 8:
        return {"weight": ("int8", (outputs, a["kernel"], a["kernel"], a["channels"]))}
    return {"weight": ("uint8", (outputs, (products(node) * a["bits"] + 7) // 8))}


def _check_values(node: Node) -> None:
    if np.abs(unpack_whole(node).astype(np.int16)).max() > MAX_WEIGHT:
        raise ValueError(f"weights beyond +-{MAX_WEIGHT}")


def pack_whole(weight: np.ndarray, bits: int) -> np.ndarray:
    """Pack int8 weights `[O, ...]` into rows with `bits` bits per weight, uint8 `[O, bytes]`.

    The weights must be within +-(2^(bits-1) - 1).
    """
    each = weight.reshape(len(weight), -1, 1).view(np.uint8)
    rows = np.unpackbits(each, axis=2, count=bits, bitorder="little")
    return np.packbits(rows.reshape(len(weight), -1), axis=1, bitorder="little")


def unpack_whole(node: Node) -> np.ndarray:
    """The weights, int8 `[O, k * k * I]`."""
    weight, bits, count = node.tensors["weight"], node.attributes["bits"], products(node)
    if bits == 8:
        return weight.reshape(len(weight), -1)
    rows = np.unpackbits(weight, axis=1, count=count * bits, bitorder="little")
    each = rows.reshape(-1, count, bits).view(np.int8)
    places = [1 << i for i in range(bits)]
    places[-1] = -places[-1]  # two's complement
    return (each * np.array(places, np.int8)).sum(2, dtype=np.int8)


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    largest = products(node) * LARGEST_PIXEL * MAX_WEIGHT
    return convolve_whole(x, unpack_whole(node), node.attributes, largest)


def _onnx(node: Node, x: Map) -> list[Step]:
    a = node.attributes
    filters = unpack_whole(node).reshape(-1, a["kernel"], a["kernel"], a["channels"])
    weight = filters.transpose(0, 3, 1, 2).astype(np.float32)
    return [step("Conv", "x0", weight, strides=[a["stride"]] * 2)]


ONE_GROUP = {"padding": whole(0, 0), "groups": whole(1, 1)}
OP = Op(
    takes=(("pixels",),),
    attributes=WINDOW | CHANNELS | ONE_GROUP | {"bits": whole(2, 8)},
    result=_result,
    tensors=_tensors,
    check_values=_check_values,
    reference=_reference,
    onnx=_onnx,
)
