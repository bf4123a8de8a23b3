"""A tracker's backbone and its correlation head as two ONNX graphs, for runtimes other than ours.

Backbone: `image` [N, 3, S, S], float32 RGB 0..255, to `features` [N, C, S', S'].  Head: `template` [1, C, k, k], the
features of the exemplar, and `features` to `response` [N, 1, S' - k + 1, S' - k + 1], the plain sums of products.
1-bit layers are float ones here, with weights of two values: ONNX has no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.layers import BinaryConv2d
from rbsf.models.alexnet import ConvBlock

TEMPLATE_SIZE = 127  # pixels of SiamFC's exemplar
OPSET = 17
IR_VERSION = 8  # of the same age: old runtimes refuse what they do not know

Shapes = Mapping[str, Sequence[int | str]]


class Graph:
    """A chain of nodes with their constants."""

    def __init__(self, value: str) -> None:
        self.value = value  # name of the latest result
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: np.ndarray | Tensor) -> str:
        """Hold `array` under `name`; returns the name."""
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> None:
        """A node whose one output is called as itself, and is now the latest `value`."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.value = name

    def model(self, name: str, inputs: Shapes, outputs: Shapes) -> onnx.ModelProto:
        """The checked graph, whose output is the latest node's."""
        self.nodes[-1].output[0] = next(iter(outputs))
        ends = [
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in group.items()]
            for group in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, name, ends[0], ends[1], list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="rbsf", opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def backbone_graph(net: nn.Module) -> onnx.ModelProto:
    """The graph of `rbsf.models.alexnet.AlexNet`, real or 1-bit. ValueError for another network."""
    blocks = [(name, module) for name, module in net.named_modules() if isinstance(module, ConvBlock)]
    if not blocks:
        raise ValueError("no ONNX form: the network is no AlexNet of SiamFC")
    graph = Graph("image")
    for name, block in blocks:
        _add_block(graph, name, block)
    channels = blocks[-1][1].conv.out_channels
    inputs: Shapes = {"image": ("N", 3, "S", "S")}
    return graph.model("backbone", inputs, {"features": ("N", channels, "height", "width")})


def head_graph(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of the correlation of two outputs of `backbone`; see the module."""
    channels = backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph = Graph("features")
    graph.add("Conv", "response", ["features", "template"])
    inputs: Shapes = {"template": (1, channels, "k", "k"), "features": ("N", channels, "height", "width")}
    return graph.model("head", inputs, {"response": ("N", 1, "rows", "columns")})


@torch.inference_mode()
def check_graphs(net: nn.Module, backbone: Path, head: Path, crops: np.ndarray) -> dict[str, tuple[float, float]]:
    """Run both graphs in ONNX Runtime and the same in PyTorch, on crops uint8 [N, S, S, 3].

    The template is the middle of the first crop. Returns {output: (largest difference, largest value)}.
    """
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    middle = (pixels.shape[-1] - TEMPLATE_SIZE) // 2
    exemplar = pixels[:1, :, middle : middle + TEMPLATE_SIZE, middle : middle + TEMPLATE_SIZE]
    features, template = net(pixels), net(exemplar)
    response = F.conv2d(features, template)
    (found,) = onnxruntime.InferenceSession(backbone).run(None, {"image": pixels.numpy()})
    inputs = {"template": template.numpy(), "features": features.numpy()}
    (answer,) = onnxruntime.InferenceSession(head).run(None, inputs)
    pairs = {"features": (found, features.numpy()), "response": (answer, response.numpy())}
    return {name: (float(np.abs(a - b).max()), float(np.abs(b).max())) for name, (a, b) in pairs.items()}


def _add_block(graph: Graph, name: str, block: ConvBlock) -> None:
    conv = block.conv
    if isinstance(conv, BinaryConv2d):
        _add_sign(graph, f"{name}.conv", conv)
    weight = conv.kernel() if isinstance(conv, BinaryConv2d) else conv.weight
    constants = [graph.constant(f"{name}.weight", weight)]
    if conv.bias is not None:
        constants.append(graph.constant(f"{name}.bias", conv.bias))
    pads = [0] * 4 if isinstance(conv, BinaryConv2d) else [int(p) for p in conv.padding] * 2
    shape = {"strides": conv.stride, "dilations": conv.dilation, "group": conv.groups, "pads": pads}
    graph.add("Conv", f"{name}.conv", [graph.value, *constants], **shape)
    _add_norm(graph, f"{name}.norm", block.norm)
    if isinstance(block.relu, nn.ReLU):
        graph.add("Relu", f"{name}.relu", [graph.value])
    if isinstance(block.pool, nn.MaxPool2d):
        graph.add("MaxPool", f"{name}.pool", [graph.value], kernel_shape=[3, 3], strides=[2, 2])


def _add_norm(graph: Graph, name: str, norm: nn.Module) -> None:
    if isinstance(norm, nn.BatchNorm2d):
        values = {"weight": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "variance": norm.running_var}
        constants = [graph.constant(f"{name}.{key}", value) for key, value in values.items()]  # type: ignore[arg-type]
        graph.add("BatchNormalization", name, [graph.value, *constants], epsilon=norm.eps)


def _add_sign(graph: Graph, name: str, conv: BinaryConv2d) -> None:
    """Batch-norm, sign with sign(0) = +1, which ONNX's own has not, and a border of -1."""
    _add_norm(graph, f"{name}.in", conv.norm)
    zero, one, minus = (
        graph.constant(key, np.array(v, np.float32)) for key, v in (("zero", 0), ("one", 1), ("minus", -1))
    )
    graph.add("GreaterOrEqual", f"{name}.bit", [graph.value, zero])
    graph.add("Where", f"{name}.sign", [graph.value, one, minus])
    if any(conv.padding):
        pads = np.array([0, 0, *conv.padding] * 2, np.int64)
        graph.add("Pad", f"{name}.pad", [graph.value, graph.constant(f"{name}.pads", pads), minus])
