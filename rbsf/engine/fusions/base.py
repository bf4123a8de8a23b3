"""What all runs of operations have in common, and the neighbours of a node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rbsf.engine.bit_layout import Packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Node

Need = tuple[int, int, int]  # how a convolution takes bits: groups, padding, border


def need_of(node: Node) -> Need | None:
    """How `node` takes the bits that it reads; None if it takes the map unchanged."""
    if node.op != "conv_bits":
        return None
    a = node.attributes
    return a["groups"], a["padding"], a["border"]


class Neighbours:
    """The nodes of a network, and which of them read each other's output."""

    def __init__(self, model: PackedModel, target: Target) -> None:
        self.maps, self.target = model.maps, target
        self.nodes = {node.name: node for node in model.nodes}
        self.readers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in model.nodes:
            for name in node.inputs:
                self.readers[name].append(node)

    def next(self, node: Node, op: str) -> Node | None:
        """The one reader of `node`, if it is an `op`."""
        readers = self.readers[node.name]
        return readers[0] if len(readers) == 1 and readers[0].op == op else None

    def other(self, node: Node, known: Node) -> Node:
        """The input of `node` that is not `known`."""
        return self.nodes[next(name for name in node.inputs if name != known.name)]

    def dtype(self, node: Node) -> str:
        """The dtype of a node's output, such as int16."""
        return self.maps[node.name].dtype.name


class Run(ABC):
    """Nodes that are computed together; the last one makes the output."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in order of execution."""

    @property
    def output(self) -> str:
        """The edge that the run writes."""
        return self.nodes[-1].name

    @property
    def inputs(self) -> list[tuple[str, Need | None]]:
        """The edges from outside that the run reads, in order, and how it takes their bits."""
        own = {node.name for node in self.nodes}
        reads = [(name, need_of(node)) for node in self.nodes for name in node.inputs]
        return [(name, need) for name, need in reads if name not in own]

    def written_groups(self) -> int:
        """The number of groups of channels in which the run writes bits."""
        return 1

    def flips(self, channels: int) -> np.ndarray:
        """Which of the channels the run writes with inverted bits, `[channels]` bool."""
        return np.zeros(channels, bool)


@dataclass(frozen=True)
class Single(Run):
    """One operation alone."""

    node: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `Run`."""
        return (self.node,)


class Fusion(Run):
    """Several operations that one kernel of the extension computes."""

    BEGINS: ClassVar[tuple[str, ...]]  # the operations with which it may begin

    @classmethod
    @abstractmethod
    def find(cls, first: Node, around: Neighbours) -> Fusion | None:
        """The run that begins at `first`, if there is one."""

    @abstractmethod
    def kernel(self, reads: Sequence[Packed], write: Packed | None, target: Target) -> Kernel:
        """The kernel of the run.

        `reads` has the form of each packed input, in order, and `write` that of the output; None if
        it is not packed.
        """

    @property
    def ends_in_sum(self) -> bool:
        """Whether the run adds its last input at the end, and may overwrite that input."""
        return False


def each_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """`values` `[channels]` or `[1]`, spread to one for each channel."""
    return np.ascontiguousarray(np.broadcast_to(values, channels))
