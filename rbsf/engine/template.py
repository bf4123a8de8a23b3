"""The template of a packed network with a head: the weight of one of its convolutions, set when a
target is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbsf.engine.graph import PackedModel


@dataclass(frozen=True)
class Template:
    """Where a packed network has its template: a 1 x 1 convolution over the features, each cell a
    filter.
    """

    node: str  # of the convolution
    features: str  # node that it reads
    cells: int  # of the template, row by row
    channels: int
    scale: float  # of the weight: what a step of the template's features becomes

    @classmethod
    def of(cls, model: PackedModel) -> Template:
        """That of `model`, as its info says; ValueError where there is none."""
        name, scale = model.info.get("template"), model.info.get("template_scale")
        node = next((node for node in model.nodes if node.name == name and node.op == "conv"), None)
        if (
            node is None
            or node.attributes["kernel"] != 1
            or not isinstance(scale, float)
            or not 0 < scale < 1
        ):
            raise ValueError(
                f"{model.path or 'the network'}: has no template to set; export it again"
            )
        cells, _, _, channels = node.tensors["weight"].shape
        return cls(node.name, node.inputs[0], cells, channels, scale)
