"""The template of a packed network with a head.

It is the weight of one of the network's convolutions, which is set when a target is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node


@dataclass(frozen=True)
class TemplateNode:
    """Where a packed network has its template.

    That is a 1 x 1 convolution over the features, in which each cell of the template is a filter.
    """

    node: str  # the convolution
    features: str  # the node that it reads
    cells: int  # of the template, row by row
    channels: int
    scale: float  # of the weight: what a step of the template's features becomes

    @classmethod
    def of(cls, model: PackedModel) -> TemplateNode:
        """The template of `model`, as its info says; raises ValueError where there is none."""
        scale = model.info.get("template_scale")
        node = _convolution(model, model.info.get("template"))
        if node is None or not isinstance(scale, float) or not 0 < scale < 1:
            where = model.path or "the network"
            raise ValueError(f"{where}: has no template to set; export it again")
        cells, _, _, channels = node.tensors["weight"].shape
        return cls(node.name, node.inputs[0], cells, channels, scale)


def _convolution(model: PackedModel, name: object) -> Node | None:
    """The 1 x 1 convolution of that name, if there is one."""
    for node in model.nodes:
        if node.name == name and node.op == "conv" and node.attributes["kernel"] == 1:
            return node
    return None
