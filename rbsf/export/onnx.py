"""Packed networks as ONNX graphs, for other runtimes.

A network takes `image` `[N, C, H, W]`, float32 pixels 0 to 255, and returns `features` or `logits`.
It includes the normalisation and all batch-norms. 1-bit layers become float layers, with weights
and inputs of two values, since ONNX has no 1-bit layers.

A tracker has a second graph, its head. It takes `template` `[1, C, k, k]`, the features of the
exemplar, and `features` `[N, C, S', S']`. The head of a SiamFC tracker returns `response`
`[N, 1, S' - k + 1, S' - k + 1]`, the plain sums of products. The head of RB-SF 2 returns `maps`,
see `rbsf.models.rbsf2.Head`; its features are whole steps.
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
from rbsf.engine.template import TemplateNode

OPSET = 17
IR_VERSION = 8  # as old as OPSET, since old runtimes refuse newer versions

Shapes = Mapping[str, Sequence[int | str]]  # shapes of inputs or outputs, by name


def network_graph(packed: PackedModel) -> onnx.ModelProto:
    """The graph of a packed network."""
    first, *nodes = packed.nodes
    output = "features" if packed.task == "tracker" else "logits"
    graph = _Graph()
    graph.add_nodes(packed, nodes, {first.name: "image"}, output)
    height, width, colours = packed.input_shape
    result = packed.maps[nodes[-1].name]
    *sides, channels = result.shape
    if result.kind == "planes":
        channels, *sides = result.shape
    if first.attributes["any_size"]:
        taken: Shapes = {"image": ("N", colours, "S", "S")}
        return graph.model(output, taken, ("N", channels, "height", "width"))
    taken = {"image": ("N", colours, height, width)}
    return graph.model(output, taken, ("N", channels, *sides))


def search_graphs(packed: PackedModel) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graphs of RB-SF 2's backbone and head, made from its whole network; see the module."""
    template = TemplateNode.of(packed)
    backbone = packed.up_to(template.features)
    done = {node.name for node in backbone.nodes} | {template.node}
    graph = _Graph()
    products = graph.add(template.node, _correlation(template), ["features", "template"])
    values = {template.features: "features", template.node: products}
    graph.add_nodes(
        packed, [node for node in packed.nodes if node.name not in done], values, "maps"
    )
    side = math.isqrt(template.cells)
    taken: Shapes = {
        "template": (1, template.channels, side, side),
        "features": ("N", template.channels, "height", "width"),
    }
    count = packed.maps[packed.nodes[-1].name].shape[0]
    return network_graph(backbone), graph.model("maps", taken, ("N", count, "rows", "columns"))


def _correlation(template: TemplateNode) -> list[Step]:
    """Steps that multiply the features, "x0", by each cell of the template, "x1"."""
    channels = template.channels
    return [
        step("Reshape", "x1", np.array([channels, -1])),  # [C, cells]
        step("Transpose", 0, perm=[1, 0]),  # [cells, C]
        step("Reshape", 1, np.array([-1, channels, 1, 1])),  # [cells, C, 1, 1]
        step("Mul", 2, np.float32(template.scale)),
        step("Conv", "x0", 3),
    ]


def head_graph(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that correlates two outputs of `backbone`; see the module."""
    channels = backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph = _Graph()
    graph.add("response", [step("Conv", "x0", "x1")], ["features", "template"])
    taken: Shapes = {
        "template": (1, channels, "k", "k"),
        "features": ("N", channels, "height", "width"),
    }
    return graph.model("response", taken, ("N", 1, "rows", "columns"))


class _Graph:
    """ONNX nodes and their constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add_nodes(
        self, packed: PackedModel, nodes: Sequence[Node], values: dict[str, str], output: str
    ) -> None:
        """Add ONNX nodes for `nodes` of a network; the last one's value is called `output`.

        `values` maps earlier nodes to the names of their values; the new names are added to it.
        """
        for node in nodes:
            steps = OPS[node.op].steps(node, *(packed.maps[name] for name in node.inputs))
            name = output if node is nodes[-1] else node.name
            values[node.name] = self.add(name, steps, [values[name] for name in node.inputs])

    def add(self, name: str, steps: Sequence[Step], inputs: Sequence[str]) -> str:
        """Add nodes for the steps of one operation; return `name`, the value of the last one."""
        names = [f"{name}/{number}" for number in range(len(steps) - 1)] + [name]
        for own, part in zip(names, steps, strict=True):
            sources = []
            for place, source in enumerate(part.inputs):
                sources.append(self._source(source, f"{own}.{place}", names, inputs))
            node = helper.make_node(part.type, sources, [own], name=own, **part.attributes)
            self.nodes.append(node)
        return name

    def _source(
        self, source: Source, name: str, steps: Sequence[str], inputs: Sequence[str]
    ) -> str:
        """The graph's name for an input of a `Step`; a constant is added as `name`."""
        if isinstance(source, str):
            return inputs[int(source[1:])] if source else ""
        if isinstance(source, int):
            return steps[source]
        self.constants.append(numpy_helper.from_array(np.asarray(source, order="C"), name))
        return name

    def model(self, output: str, inputs: Shapes, shape: Sequence[int | str]) -> onnx.ModelProto:
        """The checked graph, with a result called `output` of this shape."""
        taken, given = _value_infos(inputs), _value_infos({output: shape})
        graph = helper.make_graph(self.nodes, output, taken, given, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, producer_name="rbsf", opset_imports=opsets, ir_version=IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _value_infos(shapes: Shapes) -> list[onnx.ValueInfoProto]:
    float32 = TensorProto.FLOAT
    return [helper.make_tensor_value_info(name, float32, shapes[name]) for name in shapes]


def run_graph(path: str | Path, images: np.ndarray) -> np.ndarray:
    """The output of a graph in ONNX Runtime for images uint8 `[N, H, W, C]`."""
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    return onnxruntime.InferenceSession(path).run(None, {"image": pixels})[0]


def run_head(path: str | Path, template: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The output of a tracker's head, `response` or `maps`, in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"template": template, "features": features})[0]
