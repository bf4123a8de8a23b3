"""The template of a packed network with a head.

The template is the weight of one of the network's convolutions; it is set when a target is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node


@dataclass(frozen=True)
class TemplateNode:
    """The place of the template in a packed network.

    It is a 1 x 1 convolution over the features; each cell of the template is one of its filters.
    """

    node: str  # the convolution
    features: str  # the node that it reads
    cells: int  # number of cells of the template, in row order
    channels: int
    scale: float  # factor from the template's features, in whole steps, to the weight

    @classmethod
    def of(cls, model: PackedModel) -> TemplateNode:
        """The template that the info of `model` names; raises ValueError if there is none."""
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
