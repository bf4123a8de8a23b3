"""affine: scale * x + bias, in float32, each step rounded.

Both tensors are [C], or [1] for all channels; one of them may be absent.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target, as_rows, rows_of
from rbsf.engine.node import Forms, Map, Node
from rbsf.engine.op import Op, Step, per_channel, step


def _tensors(node: Node, x: Map) -> Forms:
    found = {
        key: array.shape for key, array in node.tensors.items() if key in ("scale", "bias")
    } or {"scale": ()}
    return {
        key: ("float32", (1,) if shape == (1,) else x.shape[-1:]) for key, shape in found.items()
    }


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    x = x * node.tensors["scale"] if "scale" in node.tensors else x
    return x + node.tensors["bias"] if "bias" in node.tensors else x


def _kernel(node: Node, maps: list[Map], target: Target) -> Kernel:
    rows = {key: rows_of(values, maps[0].shape) for key, values in node.tensors.items()}

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        x = inputs[0]
        if "scale" in rows:
            row = rows["scale"]
            x = np.multiply(as_rows(x, row), row, out=as_rows(out, row), dtype=np.float32)
        if "bias" in rows:
            row = rows["bias"]
            np.add(as_rows(x, row), row, out=as_rows(out, row), dtype=np.float32)

    return Kernel(run, native=False)


def _onnx(node: Node, x: Map) -> list[Step]:
    types = {"scale": "Mul", "bias": "Add"}
    values = [
        (types[key], per_channel(node.tensors[key], x)) for key in types if key in node.tensors
    ]
    return [
        step(kind, number - 1 if number else "x0", array)
        for number, (kind, array) in enumerate(values)
    ]


OP = Op(
    takes=(("pixels", "whole", "real"),),
    result=lambda node, x: Map(x.shape, "real"),
    tensors=_tensors,
    reference=_reference,
    kernel=_kernel,
    onnx=_onnx,
)
