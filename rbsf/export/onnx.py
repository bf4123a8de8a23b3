"""Packed networks as ONNX graphs, for runtimes other than ours.

A network takes `image` [N, C, H, W], float32 pixels 0 to 255, and gives `features` or `logits`; the
normalisation and all batch-norms are in it.  1-bit layers are float ones here, with weights and
inputs of two values: ONNX has no others. A tracker has a second graph, its head, which takes
`template` [1, C, k, k], the features of the exemplar, and `features` [N, C, S', S'].  That of
SiamFC's form gives `response` [N, 1, S' - k + 1, S' - k + 1], the plain sums of products; that of
RB-SF 2 gives `maps`, see `rbsf.models.rbsf2.Head`, and its features are whole steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.engine.op import Source, Step, step
from rbsf.engine.ops import OPS
from rbsf.engine.template import Template

TEMPLATE_SIZE = 127  # pixels of SiamFC's exemplar
OPSET = 17
IR_VERSION = 8  # of the same age: old runtimes refuse what they do not know

Shapes = Mapping[str, Sequence[int | str]]


def network_graph(packed: PackedModel) -> onnx.ModelProto:
    """The graph of a packed network."""
    first, *nodes = packed.nodes
    output = "features" if packed.task == "tracker" else "logits"
    graph = _Graph()
    graph.add_nodes(packed, nodes, {first.name: "image"}, output)
    shape, result = packed.input_shape, packed.maps[nodes[-1].name]
    channels = result.shape[0] if result.kind == "planes" else result.shape[-1]
    if first.attributes["any_size"]:
        return graph.model(
            output, {"image": ("N", shape[2], "S", "S")}, ("N", channels, "height", "width")
        )
    return graph.model(
        output, {"image": ("N", shape[2], *shape[:2])}, ("N", channels, *result.shape[:-1])
    )


def search_graphs(packed: PackedModel) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graphs of RB-SF 2's backbone and head, of its whole network; see the module."""
    template = Template.of(packed)
    backbone = packed.up_to(template.features)
    inside = {node.name for node in backbone.nodes}
    nodes = [node for node in packed.nodes if node.name not in inside]
    graph = _Graph()
    filters = [
        step("Reshape", "x1", np.array([template.channels, -1])),
        step("Transpose", 0, perm=[1, 0]),  # [cells, C]
        step("Reshape", 1, np.array([-1, template.channels, 1, 1])),
        step("Mul", 2, np.float32(template.scale)),
        step("Conv", "x0", 3),
    ]
    products = graph.add(template.node, filters, ["features", "template"])
    others = [node for node in nodes if node.name != template.node]
    graph.add_nodes(
        packed, others, {template.features: "features", template.node: products}, "maps"
    )
    side = math.isqrt(template.cells)
    inputs: Shapes = {
        "template": (1, template.channels, side, side),
        "features": ("N", template.channels, "height", "width"),
    }
    count = packed.maps[packed.nodes[-1].name].shape[0]
    return network_graph(backbone), graph.model("maps", inputs, ("N", count, "rows", "columns"))


def head_graph(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of the correlation of two outputs of `backbone`; see the module."""
    channels = backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph = _Graph()
    graph.add("response", [step("Conv", "x0", "x1")], ["features", "template"])
    inputs: Shapes = {
        "template": (1, channels, "k", "k"),
        "features": ("N", channels, "height", "width"),
    }
    return graph.model("response", inputs, ("N", 1, "rows", "columns"))


class _Graph:
    """ONNX nodes and their constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add_nodes(
        self, packed: PackedModel, nodes: Sequence[Node], values: dict[str, str], output: str
    ) -> None:
        """ONNX nodes for `nodes` of a network, the last one's value called `output`.

        `values`: what the values of the nodes before them are called; theirs are added.
        """
        for node in nodes:
            steps = OPS[node.op].steps(node, *(packed.maps[name] for name in node.inputs))
            name = output if node is nodes[-1] else node.name
            values[node.name] = self.add(name, steps, [values[name] for name in node.inputs])

    def add(self, name: str, steps: Sequence[Step], inputs: Sequence[str]) -> str:
        """Nodes for the steps of one operation, whose last one's value is called `name`; returns
        the name.
        """
        names = [f"{name}/{number}" for number in range(len(steps) - 1)] + [name]
        for own, part in zip(names, steps, strict=True):
            sources = [
                self._source(source, f"{own}.{i}", names, inputs)
                for i, source in enumerate(part.inputs)
            ]
            self.nodes.append(
                helper.make_node(part.type, sources, [own], name=own, **part.attributes)
            )
        return name

    def _source(
        self, source: Source, name: str, steps: Sequence[str], inputs: Sequence[str]
    ) -> str:
        if isinstance(source, str):
            return inputs[int(source[1:])] if source else ""
        if isinstance(source, int):
            return steps[source]
        self.constants.append(numpy_helper.from_array(np.asarray(source, order="C"), name))
        return name

    def model(self, output: str, inputs: Shapes, shape: Sequence[int | str]) -> onnx.ModelProto:
        """The checked graph."""
        ends = [
            [
                helper.make_tensor_value_info(key, TensorProto.FLOAT, sizes)
                for key, sizes in group.items()
            ]
            for group in (inputs, {output: shape})
        ]
        graph = helper.make_graph(self.nodes, output, ends[0], ends[1], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, producer_name="rbsf", opset_imports=opsets, ir_version=IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def run_graph(path: str | Path, images: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives for images uint8 [N, H, W, C]."""
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    return onnxruntime.InferenceSession(path).run(None, {"image": pixels})[0]


def run_head(path: str | Path, template: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What a tracker's head gives, `response` or `maps`, by ONNX Runtime."""
    return onnxruntime.InferenceSession(path).run(
        None, {"template": template, "features": features}
    )[0]
