"""sign: makes bits, (x >= threshold) xor flip per channel; `flip` (0 or 1) may be absent.

Thresholds of real maps are float32 and may be infinite; those of whole numbers are int32.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Forms, Map, Node
from rbsf.engine.op import Op, Step, per_channel, step


def _flip(node: Node, channels: int) -> np.ndarray:
    return node.tensors.get("flip", np.zeros(channels, np.uint8))


def _tensors(node: Node, x: Map) -> Forms:
    channels = x.shape[-1:]
    forms: Forms = {"threshold": ("float32" if x.kind == "real" else "int32", channels)}
    if "flip" in node.tensors:
        forms["flip"] = ("uint8", channels)
    return forms


def _check_values(node: Node) -> None:
    if "flip" in node.tensors and (node.tensors["flip"] > 1).any():
        raise ValueError("flip holds values other than 0 and 1")


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    return (x >= node.tensors["threshold"]).astype(np.uint8) ^ _flip(node, x.shape[-1])


def packed_kernel(node: Node, maps: list[Map], write: Packed, target: Target) -> Kernel:
    """The kernel that writes bits in the order of `write`; the padding is already in place."""
    threshold, flip = node.tensors["threshold"], _flip(node, maps[0].shape[-1])
    flips = np.packbits(flip.reshape(write.layout.planes, -1), axis=1, bitorder="little")

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(inputs[0].size / 4000)
        target.native.pack_map(inputs[0], threshold, flips, out, write.margin, threads, target.isa)

    def run_whole(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(inputs[0].size / 8000)
        target.native.pack_whole(inputs[0], limits, flips, out, write.margin, threads, target.isa)

    def run_in_numpy(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        write.inside(out)[:] = write.pack(_reference(node, inputs[0]))

    if maps[0].kind == "real":
        return Kernel(run)
    if maps[0].dtype != np.int16:
        return Kernel(run_in_numpy, native=False)
    int16 = np.iinfo(np.int16)
    limits = np.clip(threshold.astype(np.float64) - 1, int16.min, int16.max).astype(np.int16)
    return Kernel(run_whole)


def _onnx(node: Node, x: Map) -> list[Step]:
    """ONNX nodes of the sign; ONNX's own Sign is not used because it returns 0 for 0."""
    above = per_channel(1 - 2 * _flip(node, x.shape[-1]).astype(np.float32), x)
    return [
        step("GreaterOrEqual", "x0", per_channel(node.tensors["threshold"], x)),
        step("Where", 0, above, -above),
    ]


OP = Op(
    takes=(("pixels", "whole", "real"),),
    result=lambda node, x: Map(x.shape, "bits"),
    tensors=_tensors,
    check_values=_check_values,
    reference=_reference,
    onnx=_onnx,
)
