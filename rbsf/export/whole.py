"""Moves the scale of maps that are whole numbers of steps to after the operation that reads them.

Then the operation works on whole numbers. If the next operation rounds to such steps again, or
compares, no scale is left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rbsf.engine.node import Node, affine_node, needed
from rbsf.export.modules import TEMPLATE

# Operations for which a positive factor of the inputs can be moved to the result.
HOMOGENEOUS = ("add", "concat", "avg_pool", "max_pool", "global_pool", "upsample")


def lift_scales(nodes: list[Node]) -> list[Node]:
    """`nodes` with the scales of whole maps, one number each, moved towards the end."""
    made: dict[str, Node] = {}
    for node in nodes:
        for part in _lifted(node, made):
            made[part.name] = part
    nodes = _without_ones(list(made.values()))
    return needed(nodes, nodes[-1].name)


def _lifted(node: Node, made: dict[str, Node]) -> list[Node]:
    """Nodes that compute `node` with the scale of its inputs moved into it or after it."""
    sources = [made[name] for name in node.inputs]
    factor = _common_factor(sources)
    if factor is None:
        return [node]
    plain = node.reading({source.name: source.inputs[0] for source in sources})
    if node.op in HOMOGENEOUS:
        inner = replace(plain, name=f"{node.name}.steps")
        return [inner, affine_node(node.name, inner.name, scale=np.array([factor]))]
    if node.op in ("affine", "sign"):
        scale = node.tensors.get("scale", np.ones(1))
        return [plain.with_tensors(scale=scale * factor)]
    if node.op in ("conv", TEMPLATE):
        return [plain.with_tensors(weight=node.tensors["weight"] * factor)]
    return [node]


def _common_factor(sources: list[Node]) -> float | None:
    """The number that all `sources` multiply by; None if there is no such number."""
    factors = {_factor(source) for source in sources}
    return factors.pop() if len(factors) == 1 else None


def _factor(node: Node) -> float | None:
    """The number that an affine node multiplies by; None if the node does anything else."""
    if node.op != "affine" or {*node.tensors} != {"scale"}:
        return None
    scale = node.tensors["scale"]
    return float(scale[0]) if scale.shape == (1,) and scale[0] > 0 else None


def _without_ones(nodes: list[Node]) -> list[Node]:
    """`nodes` without those that multiply by 1; the last node always stays."""
    same = {node.name: node.inputs[0] for node in nodes[:-1] if _factor(node) == 1}
    return [node.reading(same) for node in nodes if node.name not in same]
