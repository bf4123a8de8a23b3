"""Maps that are whole numbers of steps: their scale is taken from in front of an operation to
behind it.

So the operation works on whole numbers, and where the next one rounds to such steps again, or
compares, no scale is left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rbsf.engine.node import Node, needed
from rbsf.export.modules import TEMPLATE

# Operations of whose results a positive factor can be taken out.
HOMOGENEOUS = ("add", "concat", "avg_pool", "max_pool", "global_pool", "upsample")


def lift_scales(nodes: list[Node]) -> list[Node]:
    """`nodes` with scales of whole maps, one number each, behind what they can stand behind."""
    made: dict[str, Node] = {}
    for node in nodes:
        for part in _lifted(node, made):
            made[part.name] = part
    nodes = _without_ones(list(made.values()))
    return needed(nodes, nodes[-1].name)


def _lifted(node: Node, made: dict[str, Node]) -> list[Node]:
    sources = [made[name] for name in node.inputs]
    factors = [_factor(source) for source in sources]
    factor = factors[0] if factors else None
    if factor is None or any(other != factor for other in factors):
        return [node]
    plain = replace(node, inputs=tuple(source.inputs[0] for source in sources))
    if node.op in HOMOGENEOUS:
        inner = replace(plain, name=f"{node.name}.steps")
        return [inner, Node(node.name, "affine", (inner.name,), {}, {"scale": np.array([factor])})]
    if node.op in ("affine", "sign"):
        return [
            replace(
                plain,
                tensors=node.tensors | {"scale": node.tensors.get("scale", np.ones(1)) * factor},
            )
        ]
    if node.op in ("conv", TEMPLATE):
        return [replace(plain, tensors=node.tensors | {"weight": node.tensors["weight"] * factor})]
    return [node]


def _factor(node: Node) -> float | None:
    """The number that an affine node multiplies by; None for what does anything else."""
    alone = (
        node.op == "affine" and {*node.tensors} == {"scale"} and node.tensors["scale"].shape == (1,)
    )
    return float(node.tensors["scale"][0]) if alone and node.tensors["scale"][0] > 0 else None


def _without_ones(nodes: list[Node]) -> list[Node]:
    """`nodes` without those that multiply by 1; the last one stays."""
    same = {n.name: n.inputs[0] for n in nodes[:-1] if _factor(n) == 1}
    return [
        replace(n, inputs=tuple(same.get(name, name) for name in n.inputs))
        for n in nodes
        if n.name not in same
    ]
