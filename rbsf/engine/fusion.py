"""Groups the operations of a network into runs that are computed as one."""

from __future__ import annotations

from rbsf.engine.fusions.base import Fusion, Neighbours, Run, Single
from rbsf.engine.fusions.rounded import Rounded
from rbsf.engine.fusions.scaled import Scaled
from rbsf.engine.fusions.steps import Steps
from rbsf.engine.fusions.to_bits import ToBits
from rbsf.engine.fusions.to_planes import ToPlanes
from rbsf.engine.fusions.whole_conv import WholeConv
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Target
from rbsf.engine.node import Node

# The first that fits is taken.
FUSIONS: tuple[type[Fusion], ...] = (ToBits, ToPlanes, Steps, Scaled, WholeConv, Rounded)


def find_runs(model: PackedModel, target: Target) -> list[Run]:
    """All nodes except the input, grouped into runs in order of execution.

    A run has the place of its last node, since everything that it reads is computed by then. With
    NumPy all runs are single operations.
    """
    around, fuse = Neighbours(model, target), target.isa != "numpy"
    ends: dict[str, Run] = {}  # by the name of the run's last node
    taken: set[str] = set()
    for node in model.nodes[1:]:
        run = _fusion_from(node, around, taken) if fuse and node.name not in taken else None
        if run:
            ends[run.output] = run
            taken.update(part.name for part in run.nodes)
    runs = []
    for node in model.nodes[1:]:
        if node.name in ends:
            runs.append(ends[node.name])
        elif node.name not in taken:
            runs.append(Single(node))
    return runs


def _fusion_from(first: Node, around: Neighbours, taken: set[str]) -> Fusion | None:
    """The fusion that begins at `first` and uses no node that is taken, if there is one."""
    for kind in FUSIONS:
        if first.op not in kind.BEGINS:
            continue
        run = kind.find(first, around)
        if run and taken.isdisjoint(node.name for node in run.nodes):
            return run
    return None
