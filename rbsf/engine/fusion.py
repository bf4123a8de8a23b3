"""Fuses operations that are computed as one, so that only bits move between binary layers.

The kinds of runs are listed below; parts in brackets may be absent.

- to bits: conv_u8 or conv_bits [max_pool 3 x 3, stride 2], sign. Only binary convolutions read the
  bits.
- to planes: conv_bits, affine, channels_first. This is the end of a tracker's backbone.
- steps: conv_bits, affine, prelu, affine of one number, round, add. This is a layer with its
  shortcut, int16.
- rounded: [affine] [prelu] [affine of one number] round. Reals or int16 become int8 or int16.
- whole conv: conv of whole numbers, then the operations of `rounded`. The sums are whole numbers.
- scaled: conv_bits, affine [+ further such terms] [mul by a factor per pixel] [affine] [add].
- single: any operation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Target
from rbsf.engine.node import Node
from rbsf.engine.ops.conv import whole_weights

POOLED = {"kernel": 3, "stride": 2, "padding": 0, "ceil": False}

BEFORE_ROUND = ("affine", "prelu", "affine", "round")
# The dtypes of input and output that the kernel of `rounded` supports.
ROUNDED = (("float32", "int16"), ("float32", "int8"), ("int16", "int8"))

Need = tuple[int, int, int]  # how a convolution takes bits: groups, padding, border


@dataclass(frozen=True)
class Run:
    """Nodes that are computed as one; the last one makes the output."""

    kind: str
    nodes: tuple[Node, ...]

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


def need_of(node: Node) -> Need | None:
    """How `node` takes the bits that it reads; None if it takes the map unchanged."""
    if node.op != "conv_bits":
        return None
    a = node.attributes
    return a["groups"], a["padding"], a["border"]


def find_runs(model: PackedModel, target: Target) -> list[Run]:
    """All nodes except the input, grouped into runs in order of execution.

    A run has the place of its last node, since everything that it reads is computed by then. With
    NumPy all runs are single operations.
    """
    finder, fuse = _Finder(model, target), target.isa != "numpy"
    ends: dict[str, Run] = {}  # by the name of the run's last node
    taken: set[str] = set()
    for node in model.nodes[1:]:
        run = finder.run_from(node, taken) if fuse and node.name not in taken else None
        if run:
            ends[run.output] = run
            taken.update(part.name for part in run.nodes)
    runs = []
    for node in model.nodes[1:]:
        if node.name in ends:
            runs.append(ends[node.name])
        elif node.name not in taken:
            runs.append(Run("single", (node,)))
    return runs


def is_factor(node: Node) -> bool:
    """Whether an affine node only multiplies all channels by one number."""
    return {*node.tensors} == {"scale"} and node.tensors["scale"].shape == (1,)


def scale_of(node: Node) -> np.ndarray:
    """The scale of an affine node, float64 `[C]` or `[1]`; 1 for any other node."""
    return node.tensors.get("scale", np.ones(1)).astype(np.float64)


def _is_exact(values: np.ndarray) -> bool:
    """Whether float32 can hold these float64 numbers exactly."""
    return bool((values.astype(np.float32) == values).all())


class _Finder:
    """Finds runs; for each kind a method returns the nodes of the run that begins at a node."""

    def __init__(self, model: PackedModel, target: Target) -> None:
        self.maps, self.target = model.maps, target
        self.nodes = {node.name: node for node in model.nodes}
        self.readers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in model.nodes:
            for name in node.inputs:
                self.readers[name].append(node)

    def run_from(self, first: Node, taken: set[str]) -> Run | None:
        """The run that begins at `first`, if there is one."""
        rounded = {"rounded": self._rounded}
        makers: dict[str, Mapping[str, Callable[[Node], list[Node]]]] = {
            "conv_u8": {"to bits": self._to_bits},
            "conv_bits": {
                "to bits": self._to_bits,
                "to planes": self._to_planes,
                "steps": self._steps,
                "scaled": self._scaled,
            },
            "conv": {"whole conv": self._whole_conv},
            "affine": rounded,
            "prelu": rounded,
            "round": rounded,
        }
        for kind, make in makers.get(first.op, {}).items():
            nodes = make(first)
            if nodes and not any(node.name in taken for node in nodes):
                return Run(kind, tuple(nodes))
        return None

    def _next(self, node: Node, op: str) -> Node | None:
        """The one reader of `node`, if it is an `op`."""
        readers = self.readers[node.name]
        return readers[0] if len(readers) == 1 and readers[0].op == op else None

    def _other(self, node: Node, known: Node) -> Node:
        """The input of `node` that is not `known`."""
        return self.nodes[next(name for name in node.inputs if name != known.name)]

    def _to_bits(self, conv: Node) -> list[Node]:
        pool = self._next(conv, "max_pool")
        if pool and pool.attributes != POOLED:
            return []
        nodes = [conv, pool] if pool else [conv]
        sign = self._next(nodes[-1], "sign")
        return [*nodes, sign] if sign and self._is_packed_alike(sign) else []

    def _is_packed_alike(self, sign: Node) -> bool:
        """Whether only binary convolutions read the bits, all in the same way."""
        needs = {need_of(reader) for reader in self.readers[sign.name]}
        return len(needs) == 1 and None not in needs

    def _to_planes(self, conv: Node) -> list[Node]:
        affine = self._next(conv, "affine")
        if not affine or len(affine.tensors) != 2:
            return []
        planes = self._next(affine, "channels_first")
        return [conv, affine, planes] if planes else []

    def _steps(self, conv: Node) -> list[Node]:
        nodes = [conv]
        for op in ("affine", "prelu", "affine", "round", "add"):
            following = self._next(nodes[-1], op)
            if not following:
                return []
            nodes.append(following)
        add = nodes[-1]
        shortcut = self._other(add, nodes[-2])
        dtypes = {self.maps[node.name].dtype.name for node in (add, shortcut)}
        return nodes if dtypes == {"int16"} and is_factor(nodes[3]) else []

    def _rounded(self, first: Node) -> list[Node]:
        nodes = self._until_round(first, BEFORE_ROUND.index(first.op) + 1)
        source, out = self.maps[first.inputs[0]], self.maps[nodes[-1].name]
        if nodes[-1].op != "round" or len(source.shape) != 3:
            return []
        return nodes if (source.dtype.name, out.dtype.name) in ROUNDED else []

    def _whole_conv(self, conv: Node) -> list[Node]:
        nodes = self._until_round(conv, 0)
        out = self.maps[nodes[-1].name].dtype.name
        if nodes[-1].op != "round" or out not in ("int8", "int16"):
            return []
        whole = whole_weights(conv, self.maps[conv.inputs[0]], self.target)
        return nodes if whole and _is_exact(scale_of(nodes[1]) * whole.unit) else []

    def _until_round(self, first: Node, start: int) -> list[Node]:
        """`first` and the operations of BEFORE_ROUND, from `start` on, that follow it."""
        nodes = [first]
        for place, op in enumerate(BEFORE_ROUND[start:], start):
            following = self._next(nodes[-1], op)
            if following and (op != "affine" or place == 0 or is_factor(following)):
                nodes.append(following)
        return nodes

    def _scaled(self, conv: Node) -> list[Node]:
        first = self._next(conv, "affine")
        if not first or "scale" not in first.tensors:
            return []
        nodes = [conv, first]
        if "bias" not in first.tensors:
            for part in self._terms(conv, first):
                nodes += part
            nodes += self._factor_and_bias(nodes[-1])
        add = self._next(nodes[-1], "add")
        if add and self.maps[self._other(add, nodes[-1]).name].kind == "real":
            nodes.append(add)
        return nodes

    def _terms(self, conv: Node, latest: Node) -> Iterator[list[Node]]:
        """Further terms of a sum, each as its convolution, scale and addition."""
        while add := self._next(latest, "add"):
            scale = self._other(add, latest)
            if set(scale.tensors) != {"scale"} or not self._next(scale, "add"):
                return
            source = self.nodes[scale.inputs[0]]
            if not self._is_term_like(source, conv):
                return
            yield [source, scale, add]
            latest = add

    def _is_term_like(self, source: Node, conv: Node) -> bool:
        """Whether `source` is a convolution of the same geometry, read only by its scale."""
        if source.op != "conv_bits" or source.attributes != conv.attributes:
            return False
        return self._next(source, "affine") is not None

    def _factor_and_bias(self, latest: Node) -> list[Node]:
        """The product with XNOR-Net's K and the bias, if they follow `latest`."""
        nodes = []
        product = self._next(latest, "mul")
        if product and self._is_by_pixel(product, latest):
            nodes.append(product)
        bias = self._next(nodes[-1] if nodes else latest, "affine")
        if bias and set(bias.tensors) == {"bias"}:
            nodes.append(bias)
        return nodes

    def _is_by_pixel(self, product: Node, latest: Node) -> bool:
        """Whether `product` multiplies `latest` by a mean for each pixel."""
        if product.inputs[0] != latest.name or self._other(product, latest).op != "avg_pool":
            return False
        height, width, _ = self.maps[latest.name].shape
        return self.maps[product.inputs[1]].shape == (height, width, 1)
