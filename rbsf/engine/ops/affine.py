"""affine: scale * x + bias, in float32; product and sum are rounded separately.

Each tensor is `[C]`, or `[1]` for all channels; one of them may be absent.
"""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target, as_rows, rows_of
from rbsf.engine.node import Forms, Map, Node
from rbsf.engine.op import Op, Step, per_channel, step


def _tensors(node: Node, x: Map) -> Forms:
    shapes = {key: array.shape for key, array in node.tensors.items() if key in ("scale", "bias")}
    forms: Forms = {}
    for key, shape in shapes.items() or [("scale", ())]:
        forms[key] = ("float32", (1,) if shape == (1,) else x.shape[-1:])
    return forms


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    if "scale" in node.tensors:
        x = x * node.tensors["scale"]
    if "bias" in node.tensors:
        x = x + node.tensors["bias"]
    return x


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
    steps = []
    source: str | int = "x0"
    for key, kind in (("scale", "Mul"), ("bias", "Add")):
        if key in node.tensors:
            steps.append(step(kind, source, per_channel(node.tensors[key], x)))
            source = len(steps) - 1
    return steps


OP = Op(
    takes=(("pixels", "whole", "real"),),
    result=lambda node, x: Map(x.shape, "real"),
    tensors=_tensors,
    reference=_reference,
    kernel=_kernel,
    onnx=_onnx,
)
