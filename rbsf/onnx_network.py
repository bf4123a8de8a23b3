"""A classifier as one ONNX graph: `image` [N, C, H, W], float32 pixels 0..255, to `logits` [N, classes].

It is made of the nodes of its packed form, so the normalisation and all batch-norms are in it.  1-bit layers are float
ones here, with signs as inputs and weights of two values: ONNX has no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from rbsf.engine.nodes import NetworkModel, Node, Shape
from rbsf.onnx_export import Graph


def network_graph(network: NetworkModel) -> onnx.ModelProto:
    """The graph of a network in its packed form."""
    first, *nodes = network.nodes
    graph = Graph("image")
    values = {first.name: "image"}
    for node in nodes:
        inputs = [values[name] for name in node.inputs]
        OPS[node.op](graph, node, inputs, network.shapes[node.inputs[0]])
        values[node.name] = graph.value
    height, width, channels = network.shapes[first.name]
    output = network.shapes[nodes[-1].name]
    return graph.model(
        "network", {"image": ("N", channels, height, width)}, {"logits": ("N", *output[-1:], *output[:-1])}
    )


def run_graph(path: str | Path, images: np.ndarray) -> np.ndarray:
    """Logits of images uint8 [N, H, W, C], by ONNX Runtime."""
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    return onnxruntime.InferenceSession(path).run(None, {"image": pixels})[0]


def _channels(graph: Graph, node: Node, key: str, x: Shape, values: np.ndarray | None = None) -> str:
    """A number for each channel, in the shape in which it meets a map."""
    values = node.tensors[key] if values is None else values
    return graph.constant(f"{node.name}.{key}", values.reshape(-1, *[1] * (len(x) - 1)))


def _affine(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    graph.add("Mul", f"{node.name}.scaled", [inputs[0], _channels(graph, node, "scale", x)])
    graph.add("Add", node.name, [graph.value, _channels(graph, node, "bias", x)])


def _conv(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    a = node.attributes
    weight = graph.constant(f"{node.name}.weight", node.tensors["weight"].transpose(0, 3, 1, 2).copy())
    bias = graph.constant(f"{node.name}.bias", node.tensors["bias"])
    shape = {"strides": [a["stride"]] * 2, "pads": [a["padding"]] * 4, "group": a["groups"]}
    graph.add("Conv", node.name, [inputs[0], weight, bias], **shape)


def _conv_bits(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    signs = [_signs(graph, node, base, inputs[0]) for base in range(len(node.tensors["threshold"]))]
    a, total = node.attributes, ""
    for t, (base, kernel, scale) in enumerate(zip(a["bits"], a["kernels"], node.tensors["scale"], strict=True)):
        weight = graph.constant(f"{node.name}.weight.{t}", _kernel(node, kernel, x) * scale[:, None, None, None])
        shape = {"strides": [a["stride"]] * 2, "pads": [0] * 4, "group": a["groups"]}
        graph.add("Conv", f"{node.name}.term.{t}", [signs[base], weight], **shape)
        if total:
            graph.add("Add", f"{node.name}.sum.{t}", [total, graph.value])
        total = graph.value
    if "map_scale" in node.tensors:
        graph.add("Mul", f"{node.name}.mapped", [total, _input_scale(graph, node, inputs[0], x)])
    graph.add("Add", node.name, [graph.value, _channels(graph, node, "bias", x)])


def _kernel(node: Node, number: int, x: Shape) -> np.ndarray:
    """Signs float32 [O, I/g, k, k]."""
    layer = node.kernel(number, x[2])
    bits = np.unpackbits(layer.weight, axis=1, count=layer.products, bitorder="little").astype(np.float32)
    return (bits * 2 - 1).reshape(len(bits), layer.kernel, layer.kernel, -1).transpose(0, 3, 1, 2)


def _signs(graph: Graph, node: Node, base: int, x: str) -> str:
    """-1 and +1 for the bits of a base, in a border of -1."""
    name, pad = f"{node.name}.{base}", node.attributes["padding"]
    above = (1 - 2 * node.tensors["flip"][base].astype(np.float32)).reshape(-1, 1, 1)
    threshold = graph.constant(f"{name}.threshold", node.tensors["threshold"][base].reshape(-1, 1, 1))
    graph.add("GreaterOrEqual", f"{name}.bit", [x, threshold])
    ends = [graph.constant(f"{name}.above", above), graph.constant(f"{name}.below", -above)]
    graph.add("Where", f"{name}.sign", [graph.value, *ends])
    if pad:
        pads = graph.constant(f"{name}.pads", np.array([0, 0, pad, pad] * 2, np.int64))
        graph.add("Pad", f"{name}.pad", [graph.value, pads, graph.constant("minus", np.array(-1, np.float32))])
    return graph.value


def _input_scale(graph: Graph, node: Node, x: str, shape: Shape) -> str:
    a, name = node.attributes, f"{node.name}.map"
    graph.add("Mul", f"{name}.scaled", [x, _channels(graph, node, "map_scale", shape)])
    graph.add("Add", f"{name}.shifted", [graph.value, _channels(graph, node, "map_bias", shape)])
    graph.add("Abs", f"{name}.abs", [graph.value])
    graph.add("ReduceMean", f"{name}.mean", [graph.value], axes=[1])
    window = {"kernel_shape": [a["kernel"]] * 2, "strides": [a["stride"]] * 2, "pads": [a["padding"]] * 4}
    graph.add("AveragePool", name, [graph.value], count_include_pad=1, **window)
    return graph.value


def _pool(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    a = node.attributes
    window: dict[str, Any] = {"kernel_shape": [a["kernel"]] * 2, "strides": [a["stride"]] * 2}
    window |= {"pads": [a["padding"]] * 4, "ceil_mode": int(a["ceil"])}
    if node.op == "avg_pool":  # a window cut at the end is divided by what is left of it
        window["count_include_pad"] = int(a["include_pad"] and a["padding"] > 0)
    graph.add("MaxPool" if node.op == "max_pool" else "AveragePool", node.name, inputs, **window)


def _linear(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    arrays = [graph.constant(f"{node.name}.{key}", node.tensors[key]) for key in ("weight", "bias")]
    graph.add("Gemm", node.name, [inputs[0], *arrays], transB=1)


def _hardtanh(graph: Graph, node: Node, inputs: Sequence[str], x: Shape) -> None:
    ends = [graph.constant(f"{node.name}.{key}", np.array(node.attributes[key], np.float32)) for key in ("low", "high")]
    graph.add("Clip", node.name, [inputs[0], *ends])


def _plain(kind: str) -> Callable[[Graph, Node, Sequence[str], Shape], None]:
    return lambda graph, node, inputs, x: graph.add(kind, node.name, inputs)


OPS: dict[str, Callable[[Graph, Node, Sequence[str], Shape], None]] = {
    "affine": _affine,
    "conv": _conv,
    "conv_bits": _conv_bits,
    "linear": _linear,
    "relu": _plain("Relu"),
    "prelu": lambda graph, node, inputs, x: graph.add(
        "PRelu", node.name, [inputs[0], _channels(graph, node, "slope", x)]
    ),
    "hardtanh": _hardtanh,
    "add": _plain("Add"),
    "max_pool": _pool,
    "avg_pool": _pool,
    "global_pool": _plain("GlobalAveragePool"),
    "flatten": _plain("Flatten"),
}
