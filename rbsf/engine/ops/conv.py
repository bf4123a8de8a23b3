"""conv: real convolution, padded with 0. weight float32 `[O, k, k, I/g]`, bias float32 `[O]`.

The kernel adds in the same order on every machine, by fused multiply-adds. The reference adds in
BLAS's own order. If map, weight and bias are whole multiples of some unit and all sums are exact,
neither the order nor the type of numbers matters: see `whole_weights`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import LARGEST_PIXEL, MAX_VALUES, Forms, Map, Node
from rbsf.engine.op import Op, Step, step
from rbsf.engine.ops._windows import GROUPS, WINDOW, convolve, convolved

DIGITS = 24  # binary digits of a float32: whole numbers up to 2**24 are exact
INTEGERS = ("int8", "uint8", "int16")  # dtypes of the maps that the kernel for whole numbers takes


class WholeWeights(NamedTuple):
    """A convolution's weights as whole multiples of a unit, a power of two for each filter."""

    weight: np.ndarray  # int16 [O, k, k * I]
    bias: np.ndarray  # int32 [O]
    unit: np.ndarray  # float32 [O]


def whole_weights(node: Node, x: Map, target: Target) -> WholeWeights | None:
    """Whole-number weights with which the convolution gives exactly the same results.

    Returns None if `x` is not a map of int8, uint8 or int16, if the convolution has padding or
    groups, or if a sum could have more digits than a float32.
    """
    return target.prepare((node.name, "whole"), lambda: _whole_weights(node, x))


def _whole_weights(node: Node, x: Map) -> WholeWeights | None:
    a = node.attributes
    if x.dtype.name not in INTEGERS or x.kind == "bits" or a["padding"] or a["groups"] > 1:
        return None
    weight = node.tensors["weight"].reshape(len(node.tensors["weight"]), -1)
    numbers = np.column_stack([weight, node.tensors["bias"]])
    unit = _largest_unit(numbers)
    whole = numbers / unit[:, None]
    largest = LARGEST_PIXEL if x.kind == "pixels" else x.largest
    sums = np.abs(whole) @ np.append(np.full(weight.shape[1], largest), 1)
    if sums.max() > 1 << DIGITS or np.abs(whole[:, :-1]).max() >= 1 << 15:
        return None
    rows = whole[:, :-1].reshape(len(whole), a["kernel"], -1)
    return WholeWeights(
        rows.astype(np.int16), whole[:, -1].astype(np.int32), unit.astype(np.float32)
    )


def _largest_unit(rows: np.ndarray) -> np.ndarray:
    """For each row, the largest power of two that divides all its numbers, float64 `[R]`.

    It is 1 for a row of zeros.
    """
    fraction, exponent = np.frexp(rows.astype(np.float64))
    digits = np.abs(np.ldexp(fraction, DIGITS)).astype(np.int64)
    last_digit = (digits & -digits).astype(np.float64)
    units = np.where(digits, np.ldexp(last_digit, exponent - DIGITS), np.inf).min(1)
    return np.where(np.isinf(units), 1.0, units)


def _result(node: Node, x: Map) -> Map:
    shape, groups = convolved(node, x), node.attributes["groups"]
    blocks = -(-shape[2] // groups // 16)  # blocks of 16 filters in a group
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
    """The extension's convolution; a linear layer uses it too, with each vector as a pixel."""
    a = node.attributes or {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    pad, groups, x = a["padding"], a["groups"], maps[0]
    weight, bias = target.prepare((node.name, "real"), lambda: _blocks(node, groups))
    cost = (1 + weight.shape[2] / 50) / 1000  # estimated microseconds per number of the output

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

    Unused places are zero.
    """
    weight = _in_blocks(node.tensors["weight"], groups)
    bias = _in_blocks(node.tensors["bias"], groups)
    return weight, bias.reshape(groups, -1)


def _in_blocks(rows: np.ndarray, groups: int) -> np.ndarray:
    """Rows `[O, ...]` as blocks `[groups, blocks, numbers of a row, 16]`."""
    rows = rows.reshape(groups, len(rows) // groups, -1)
    blocks = -(-rows.shape[1] // 16)
    filled = np.zeros((groups, blocks * 16, rows.shape[2]), np.float32)
    filled[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(filled.reshape(groups, blocks, 16, -1).transpose(0, 1, 3, 2))


def blocks_of_pairs(whole: WholeWeights) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[blocks, pairs of products, 16, 2]` and start values of sums `[16 * blocks]`.

    Unused places are zero. If a row of a window has an odd number of products, a zero follows it.
    """
    outputs, _, run = whole.weight.shape
    spare = -outputs % 16
    rows = np.pad(whole.weight, ((0, spare), (0, 0), (0, run % 2)))
    pairs = rows.reshape(-1, 16, rows[0].size // 2, 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pairs), np.pad(whole.bias, (0, spare))


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
