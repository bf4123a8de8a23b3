"""From a network to the nodes of its eval-mode graph (torch.fx), binary convolutions as leaves,
nothing folded yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import fx, nn

from rbsf.engine.node import Node, needed
from rbsf.engine.ops import OPS
from rbsf.export import modules
from rbsf.export.modules import BINARY, SIZES, target_of

IMAGE = "image"


@dataclass(frozen=True)
class Traced:
    """`nodes` in float64, and which value of the graph each gives: `values` says it by the names of
    both.
    """

    nodes: list[Node]
    values: dict[str, str]
    module: fx.GraphModule  # computes the same as the network


def trace(
    net: nn.Module, input_shape: Sequence[int], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
    any_size: bool = False,
) -> Traced:  # fmt: skip
    """The nodes of `net`, which is in eval mode.

    `input_shape`: (H, W, C) of the uint8 images that the packed network takes, an example where it
    takes `any_size`; `net` takes (image - mean) / std as [N, C, H, W], with mean and std in steps
    of the pixel, one for each channel or for all.  ValueError in one line that names what has no
    packed form.
    """
    if net.training:
        raise ValueError("no packed form: the network is in training mode; call its eval() first")
    height, width, channels = (int(n) for n in input_shape)
    shape = {"height": height, "width": width, "channels": channels, "any_size": any_size}
    builder = _Builder(net, Node(IMAGE, "input", (), shape))
    middle, spread = (np.broadcast_to(np.asarray(v, np.float64), (channels,)) for v in (mean, std))
    if middle.any() or (spread != 1).any():
        builder.add(
            "normalise", "affine", [IMAGE], tensors={"scale": 1 / spread, "bias": -middle / spread}
        )
    return builder.build(_trace(net))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, modules.LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _trace(net: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(net)
    except (
        Exception
    ) as error:  # whatever the network's own code does with what stands in for its input
        reason = " ".join(str(error).split())[:150]
        raise ValueError(
            f"no packed form: the network cannot be traced by torch.fx ({reason})"
        ) from None


class _Builder:
    """Walks the traced graph; `names` says which of our nodes holds the value of each of its nodes.

    What is computed in place changes its input for all that come later: they get the name of the
    result.  `memory` says which values share memory, by the first of them.
    """

    def __init__(self, net: nn.Module, image: Node) -> None:
        self.net, self.modules = net, dict(net.named_modules())
        self.nodes = [image]
        self.names: dict[fx.Node, str] = {}
        self.memory: dict[fx.Node, fx.Node] = {}
        self.values: dict[str, str] = {}
        self.output = ""

    def build(self, graph: fx.Graph) -> Traced:
        """All nodes that the output depends on."""
        for node in graph.nodes:
            self._visit(node)
            if node in self.names:
                self.values.setdefault(self.names[node], node.name)
        nodes = _real_image(needed(self.nodes, self.output))
        return Traced(nodes, self.values, fx.GraphModule(self.net, graph))

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        attributes: dict | None = None,
        tensors: dict | None = None,
    ) -> str:
        """A new node; its name, which is another where that is taken, as by a module that is called
        twice.
        """
        while any(node.name == name for node in self.nodes):
            name += "'"
        self.nodes.append(Node(name, op, tuple(inputs), attributes or {}, tensors or {}))
        return name

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.names:
                raise ValueError(f"no packed form: the network takes a second input, {node.name}")
            self.names[node] = self.nodes[-1].name
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise ValueError("no packed form: the network's output is not one value")
            self.output = self._name(node.args[0])
        elif node.op == "call_module":
            module, inputs = self.modules[str(node.target)], self._inputs(node)
            self.names[node] = self._module(str(node.target), module, inputs)
            self._share_memory(
                node, getattr(module, "inplace", False), isinstance(module, modules.VIEWS)
            )
        elif node.op in ("call_function", "call_method"):
            if target_of(node) not in SIZES:
                self.names[node] = self._call(node)
                self._share_memory(
                    node, modules.is_in_place(node), target_of(node) in modules.VIEW_CALLS
                )
        else:
            raise ValueError(f"no packed form: {node.op} {node.target}")

    def _share_memory(self, node: fx.Node, in_place: bool, view: bool) -> None:
        """Note which values `node`, which is named now, shares memory with, and rename those that
        it has changed.
        """
        if not (in_place or view):
            return
        first = self.memory.get(node.all_input_nodes[0], node.all_input_nodes[0])
        mates = [first, *(value for value, other in self.memory.items() if other is first)]
        self.memory[node] = first
        if not in_place:
            return
        before = self.names[node.all_input_nodes[0]]
        for value in mates:
            if self.names[value] == before:
                self.names[value] = self.names[node]
            elif any(node < user for user in value.users):
                raise ValueError(
                    f"no packed form: {node.name} works in place on {value.name}, which has another shape"
                )

    def _inputs(self, node: fx.Node) -> list[str]:
        maps = [value for value in node.all_input_nodes if target_of(value) not in SIZES]
        return [self._name(value) for value in maps or node.all_input_nodes]

    def _name(self, value: fx.Node) -> str:
        """The node that gives `value`, which has to be a map."""
        if value not in self.names:
            raise ValueError(
                f"no packed form: {value.name} is a part or the size of a map, which no node gives"
            )
        return self.names[value]

    def _module(self, name: str, module: nn.Module, inputs: list[str]) -> str:
        if isinstance(module, modules.SAME):
            return inputs[0]
        if binary := modules.binary_part(module):
            inputs = [self._module(f"{name}.norm", binary.norm, inputs)]
        try:
            *before, last = modules.make(module)
        except ValueError as error:
            raise ValueError(f"no packed form: {name} {error}") from None
        for part in before:
            inputs = [self.add(f"{name}.{part.op}", part.op, inputs, part.attributes, part.tensors)]
        return self.add(name, last.op, inputs, last.attributes, last.tensors)

    def _call(self, node: fx.Node) -> str:
        target, inputs = target_of(node), self._inputs(node)
        if parts := modules.concatenated(node):
            name = self._name(parts[0])
            for part in parts[1:]:
                name = self.add(node.name, "concat", [name, self._name(part)])
            return name
        if target in modules.OF_TWO and len(node.args) == 2 and not node.kwargs:
            terms = [self._name(value) for value in node.args if isinstance(value, fx.Node)]
            if len(terms) == 2:
                return self.add(node.name, modules.OF_TWO[target], terms)
        made = modules.as_modules(node)
        if made is None or len(inputs) != 1:
            arguments = f"with {(*node.args[1:], *node.kwargs.items())}"[:100]
            raise ValueError(
                f"no packed form: {node.name} calls {target} {arguments}, which no node does"
            )
        for module in made:
            inputs = [self._module(node.name, module, inputs)]
        return inputs[0]


def _real_image(nodes: list[Node]) -> list[Node]:
    """`nodes`, with the pixels made real numbers where an operation that takes none would read
    them.
    """
    readers = [node for node in nodes if IMAGE in node.inputs]
    if all(node.op == BINARY or "pixels" in OPS[node.op].takes[0] for node in readers):
        return nodes
    ones = np.ones(nodes[0].attributes["channels"])
    real = Node(f"{IMAGE}.real", "affine", (IMAGE,), {}, {"scale": ones, "bias": 0 * ones})
    moved = [
        replace(n, inputs=tuple(real.name if i == IMAGE else i for i in n.inputs))
        for n in nodes[1:]
    ]
    return [nodes[0], real, *moved]
