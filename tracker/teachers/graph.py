"""Reads ONNX files as PyTorch modules, which run in batches and on any device.

A graph can also be stored as a safetensors file, which can be read without ONNX; its nodes are JSON
in the metadata `nodes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.system.files import write_atomically
from rbsf.system.text import one_line

FORMAT = "rbsf-teacher-1"


@dataclass(frozen=True)
class Operation:
    """A node of an ONNX graph; inputs and output are the names of values."""

    type: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class OnnxGraph(nn.Module):
    """A graph for single images, as a module that takes any number of images.

    Each input is `[N, ...]`. The graph's constants are buffers, so that they move to a device and
    are not trained.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        operations: Sequence[Operation],
        values: dict[str, Tensor],
    ) -> None:
        """Raises ValueError that names the operations that are not supported."""
        super().__init__()
        if unknown := sorted({operation.type for operation in operations} - OPS.keys()):
            raise ValueError(
                f"operations {', '.join(unknown)} are not known; there are {', '.join(OPS)}"
            )
        self.inputs, self.outputs, self.operations = (
            tuple(inputs),
            tuple(outputs),
            tuple(operations),
        )
        self.names = {name: f"value{number}" for number, name in enumerate(values)}
        for name, value in values.items():
            self.register_buffer(self.names[name], value, persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, `[N, ...]` each."""
        return torch.vmap(self._run_one)(*inputs)

    def _run_one(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = {name: getattr(self, buffer) for name, buffer in self.names.items()} | {"": None}
        values |= {name: value[None] for name, value in zip(self.inputs, inputs, strict=True)}
        for operation in self.operations:
            arguments = [values[name] for name in operation.inputs]
            values[operation.output] = OPS[operation.type](*arguments, **operation.attributes)
        return tuple(values[name][0] for name in self.outputs)


def read_onnx(path: str | Path) -> OnnxGraph:
    """The graph of an ONNX file.

    Raises FileNotFoundError for a missing file, ModuleNotFoundError if ONNX is not installed,
    ValueError for a file that is not ONNX and for operations that are not supported.
    """
    import onnx
    from onnx import numpy_helper

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX file {path}")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # the parser may raise any error on a damaged file
        raise ValueError(f"{path}: no ONNX file ({one_line(error, 100)})") from None
    values = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    operations = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            values[node.output[0]] = torch.from_numpy(
                numpy_helper.to_array(attributes["value"]).copy()
            )
        else:
            operations.append(
                Operation(node.op_type, tuple(node.input), node.output[0], attributes)
            )
    inputs = [value.name for value in graph.input if value.name not in values]
    try:
        return OnnxGraph(inputs, [value.name for value in graph.output], operations, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_graph(graph: OnnxGraph, path: str | Path) -> None:
    """Write a graph as safetensors; raises OSError if `path` cannot be written."""
    nodes = {
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "operations": [asdict(o) for o in graph.operations],
    }
    tensors = {name: getattr(graph, buffer).contiguous() for name, buffer in graph.names.items()}
    write_atomically(path, save(tensors, {"format": FORMAT, "nodes": json.dumps(nodes)}))


def read_graph(path: str | Path) -> OnnxGraph:
    """A graph of `write_graph`, or of an ONNX file; errors are those of `read_onnx`."""
    path = Path(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise ValueError(f"no format {FORMAT}")
        nodes = json.loads(metadata["nodes"])
        operations = [Operation(**{**o, "inputs": tuple(o["inputs"])}) for o in nodes["operations"]]
        return OnnxGraph(nodes["inputs"], nodes["outputs"], operations, values)
    except Exception as error:  # a damaged file may raise any error
        raise ValueError(f"{path}: no graph of a teacher ({one_line(error, 150)})") from None


# ---- operations as ONNX defines them, on tensors [1, ...]


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **a: Any) -> Tensor:
    top, left, bottom, right = a.get("pads", [0] * 4)
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, a.get("group", 1))


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    for start, end, axis, step in zip(
        *(v.tolist() for v in (starts, ends, axes, steps)), strict=True
    ):
        size = x.shape[axis]
        first, last = (min(max(n + size if n < 0 else n, 0), size) for n in (start, end))
        x = x.index_select(axis, torch.arange(first, last, step, device=x.device))
    return x


def _gemm(
    x: Tensor, weight: Tensor, bias: Tensor, alpha: float = 1, beta: float = 1, transB: int = 0
) -> Tensor:
    return alpha * x @ (weight.T if transB else weight) + beta * bias


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(low, high)


OPS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "Exp": torch.exp,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Relu": torch.relu,
    "Reshape": lambda x, shape, allowzero=0: x.reshape(shape.tolist()),
    "Sigmoid": torch.sigmoid,
    "Transpose": lambda x, perm: x.permute(perm),
}
OPS["Slice"] = _slice
