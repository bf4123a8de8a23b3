"""Turns a network into the nodes of its eval-mode graph, using torch.fx.

Each binary convolution is one node, and nothing is folded yet.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from rbsf.engine.node import Node, affine_node, needed
from rbsf.engine.ops import OPS
from rbsf.export import modules
from rbsf.export.images import Images
from rbsf.export.instead import advice_for
from rbsf.export.modules import BINARY, SIZES, target_of
from rbsf.export.places import calling_place, defining_place, failing_place
from rbsf.system.text import one_line

IMAGE = "image"
PLACE = "place"  # key in a traced node's `meta`: the line of the user's code that made the node


@dataclass(frozen=True)
class Traced:
    """The nodes of a network, in float64.

    `values` maps the name of a node to the name of the graph value that it computes.
    """

    nodes: list[Node]
    values: dict[str, str]
    module: fx.GraphModule  # computes the same as the network


def trace(net: nn.Module, images: Images, any_size: bool = False) -> Traced:
    """The nodes of `net`, which is in eval mode; with `any_size` the images' shape is an example.

    Raises ValueError in one line that names the part without a packed form.
    """
    if net.training:
        raise ValueError("no packed form: the network is in training mode; call its eval() first")
    height, width, channels = images.shape
    shape = {"height": height, "width": width, "channels": channels, "any_size": any_size}
    builder = _Builder(net, Node(IMAGE, "input", (), shape))
    middle = np.broadcast_to(np.asarray(images.mean, np.float64), (channels,))
    spread = np.broadcast_to(np.asarray(images.std, np.float64), (channels,))
    if middle.any() or (spread != 1).any():
        tensors = {"scale": 1 / spread, "bias": -middle / spread}
        builder.add("normalise", "affine", [IMAGE], tensors=tensors)
    return builder.build(_trace(net))


class _Proxy(fx.Proxy):
    """A value in a trace for which `x += y` changes `x` itself.

    torch.fx has no in-place operators, so Python would compute `x = x + y` instead.
    """


def _recorder(function: Callable[..., Any]) -> Callable[[_Proxy, Any], fx.Proxy]:
    """The method of `_Proxy` for one of Python's in-place operators."""

    def record(self: _Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name in modules.OPERATORS:
    setattr(_Proxy, f"__{_name}__", _recorder(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **named: Any) -> fx.Node:
        """Create a node and record the line of the user's code that it comes from."""
        node = super().create_node(*args, **named)
        node.meta[PLACE] = calling_place(_trace.__code__)
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, modules.LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _trace(net: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(net)
    except Exception as error:  # the network's own code may raise anything here
        reason = one_line(error, 150)
        fault = f"the network cannot be traced by torch.fx ({reason})"
        where = _called_at(failing_place(error))
        raise ValueError(f"no packed form: {fault}{where}") from None


def _called_at(place: str) -> str:
    return f"; called at {place}" if place else ""


class _Builder:
    """Walks through the traced graph; `names` maps its nodes to our nodes with the same value.

    An in-place operation changes its input for all later readers, so the input gets the name of the
    result. `memory` says which values share memory: it maps each to the first value in that memory.
    """

    def __init__(self, net: nn.Module, image: Node) -> None:
        self.net = net
        self.modules = dict(net.named_modules())
        self.nodes = [image]
        self.names: dict[fx.Node, str] = {}
        self.memory: dict[fx.Node, fx.Node] = {}
        self.values: dict[str, str] = {}
        self.output = ""

    def build(self, graph: fx.Graph) -> Traced:
        """All nodes that the output depends on."""
        for node in graph.nodes:
            try:
                self._visit(node)
            except ValueError as error:
                raise ValueError(f"{error}{self._where(node)}") from None
            if node in self.names:
                self.values.setdefault(self.names[node], node.name)
        nodes = _real_image(needed(self.nodes, self.output))
        return Traced(nodes, self.values, fx.GraphModule(self.net, graph))

    def _where(self, node: fx.Node) -> str:
        """The place where the user's code calls a node, or else defines the module around it."""
        if node.meta.get(PLACE):
            return _called_at(node.meta[PLACE])
        parts = str(node.target).split(".") if node.op == "call_module" else []
        for end in range(len(parts) - 1, -1, -1):
            holder = self.modules[".".join(parts[:end])]
            if place := defining_place(holder):
                return f"; it is in a {type(holder).__name__}, defined at {place}"
        return ""

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        attributes: dict | None = None,
        tensors: dict | None = None,
    ) -> str:
        """Add a node and return its name.

        The name differs from `name` if that is already used, as for a module that is called twice.
        """
        taken = {node.name for node in self.nodes}
        while name in taken:
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
            self._visit_module(node)
        elif node.op in ("call_function", "call_method"):
            self._visit_call(node)
        else:
            raise ValueError(f"no packed form: {node.op} {node.target}")

    def _visit_module(self, node: fx.Node) -> None:
        name = str(node.target)
        module = self.modules[name]
        self.names[node] = self._module(name, module, self._inputs(node))
        in_place = getattr(module, "inplace", False)
        self._share_memory(node, in_place, isinstance(module, modules.VIEWS))

    def _visit_call(self, node: fx.Node) -> None:
        if target_of(node) in SIZES:
            return
        self.names[node] = self._call(node)
        is_view = target_of(node) in modules.VIEW_CALLS
        self._share_memory(node, modules.is_in_place(node), is_view)

    def _share_memory(self, node: fx.Node, in_place: bool, is_view: bool) -> None:
        """Record which values `node` shares memory with; `node` must already have a name."""
        if not (in_place or is_view):
            return
        source = node.all_input_nodes[0]
        first = self.memory.get(source, source)
        mates = [first, *(value for value, other in self.memory.items() if other is first)]
        self.memory[node] = first
        if in_place:
            self._rename_changed(node, mates)

    def _rename_changed(self, node: fx.Node, mates: list[fx.Node]) -> None:
        """Give the values that `node` changed the name of its result."""
        before = self.names[node.all_input_nodes[0]]
        for value in mates:
            if self.names[value] == before:
                self.names[value] = self.names[node]
            elif any(node < user for user in value.users):
                fault = f"{node.name} works in place on {value.name}, which has another shape"
                raise ValueError(f"no packed form: {fault}")

    def _inputs(self, node: fx.Node) -> list[str]:
        """The names of the maps that `node` takes; sizes are skipped unless there is no map."""
        maps = [value for value in node.all_input_nodes if target_of(value) not in SIZES]
        return [self._name(value) for value in maps or node.all_input_nodes]

    def _name(self, value: fx.Node) -> str:
        """The node that computes `value`, which must be a map."""
        if value not in self.names:
            fault = f"{value.name} is a part or the size of a map, which no node gives"
            raise ValueError(f"no packed form: {fault}")
        return self.names[value]

    def _module(self, name: str, module: nn.Module, inputs: list[str]) -> str:
        """Add the nodes of a module, and return the name of the last one."""
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
        """Add the nodes of a call, and return the name of the last one."""
        inputs = self._inputs(node)
        if parts := modules.concatenated(node):
            return self._concatenate(node.name, parts)
        if terms := self._two_maps(node):
            return self.add(node.name, modules.OF_TWO[target_of(node)], terms)
        made = modules.as_modules(node)
        if made is None or len(inputs) != 1:
            arguments = f"with {(*node.args[1:], *node.kwargs.items())}"[:100]
            advice = advice_for(target_of(node))
            fault = f"{node.name} calls {target_of(node)} {arguments}, which no node does"
            if advice:
                fault += f": {advice}"
            raise ValueError(f"no packed form: {fault}")
        for module in made:
            inputs = [self._module(node.name, module, inputs)]
        return inputs[0]

    def _concatenate(self, name: str, parts: list[fx.Node]) -> str:
        last = self._name(parts[0])
        for part in parts[1:]:
            last = self.add(name, "concat", [last, self._name(part)])
        return last

    def _two_maps(self, node: fx.Node) -> list[str]:
        """The names of the two maps that a call adds or multiplies; none for any other call."""
        if target_of(node) not in modules.OF_TWO or len(node.args) != 2 or node.kwargs:
            return []
        maps = [self._name(value) for value in node.args if isinstance(value, fx.Node)]
        return maps if len(maps) == 2 else []


def _real_image(nodes: list[Node]) -> list[Node]:
    """`nodes`; if an operation reads the pixels but cannot take them, they become real numbers."""
    readers = [node for node in nodes if IMAGE in node.inputs]
    if all(_takes_pixels(reader) for reader in readers):
        return nodes
    ones = np.ones(nodes[0].attributes["channels"])
    real = affine_node(f"{IMAGE}.real", IMAGE, scale=ones, bias=0 * ones)
    moved = [node.reading({IMAGE: real.name}) for node in nodes[1:]]
    return [nodes[0], real, *moved]


def _takes_pixels(node: Node) -> bool:
    return node.op == BINARY or "pixels" in OPS[node.op].takes[0]
