"""From any trained network of common layers to a packed network file of `rbsf.engine.network`.

The network's eval-mode graph is traced (torch.fx) with binary convolutions as leaves and turned into nodes, in which
batch-norms are folded (`rbsf.fold_nodes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from rbsf.engine.nodes import NetworkModel, Node, write_network
from rbsf.fold_nodes import fold
from rbsf.layers import BinaryConv2d
from rbsf.node_forms import FORMS
from rbsf.weights import load_weights

IMAGE = "image"


def export_network(
    net: nn.Module, path: str | Path, model: str, input_shape: Sequence[int], info: dict[str, Any] | None = None,
    mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
) -> NetworkModel:  # fmt: skip
    """Write `net`, called `model`, as a packed network file; returns what was written.

    Arguments are those of `network_nodes`; `info` is anything JSON holds.  ValueError as there, OSError where `path`
    cannot be written.
    """
    nodes = network_nodes(net, input_shape, mean, std)
    write_network(path, model, nodes, info or {})
    return NetworkModel(model, tuple(nodes), info or {})


def pack_classifier(source: str | Path, target: str | Path) -> tuple[nn.Module, NetworkModel]:
    """Write the classifier of the weights file `source` as a packed network file; returns it in both forms.

    ValueError and OSError as `packed_classifier` and `write_network` have them.
    """
    net, packed = packed_classifier(source)
    write_network(target, packed.model, packed.nodes, packed.info)
    return net, packed


def packed_classifier(source: str | Path) -> tuple[nn.Module, NetworkModel]:
    """The classifier of the weights file `source`, and its packed form.

    Its info is that of `source`, whose `input` (size, mean and std on a scale of 0 to 1) says what images it takes, and
    what it was made from and with.  ValueError and OSError as `load_weights` and `network_nodes` have them.
    """
    net, model, info = load_weights(source)
    shape, mean, std = classifier_input(source, info)
    info |= {
        "options": net.model_options,
        "source": Path(source).name,
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        "export": {"torch": torch.__version__, "numpy": np.__version__},
    }
    return net, NetworkModel(model, tuple(network_nodes(net, shape, mean, std)), info)


def classifier_input(source: str | Path, info: dict[str, Any]) -> tuple[tuple[int, int, int], list[float], list[float]]:
    """Input shape, and mean and std in steps of the pixel, as `info` of the weights file `source` has them."""
    try:
        size, mean, std = (info["input"][key] for key in ("size", "mean", "std"))
        if not len(mean) == len(std) or not all(value > 0 for value in std):
            raise ValueError
        return (int(size), int(size), len(mean)), [255 * float(v) for v in mean], [255 * float(v) for v in std]
    except (KeyError, TypeError, ValueError):
        advice = "train it by tools/train_classifier.py, or call rbsf.export_network.export_network"
        raise ValueError(f"{source}: its info has no input (size, mean, std) of the images; {advice}") from None


def network_nodes(
    net: nn.Module, input_shape: Sequence[int], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> list[Node]:
    """Nodes for `net` in eval mode.

    `input_shape`: (H, W, C) of the uint8 images that the packed network takes; `net` takes (image - mean) / std as
    [N, C, H, W], with mean and std in steps of the pixel, one for each channel or for all.  ValueError in one line
    that names what has no packed form.
    """
    nodes = fold(_Builder(net, input_shape, mean, std).nodes)
    try:
        NetworkModel("", tuple(nodes), {})
    except ValueError as error:
        raise ValueError(f"no packed form: {error}") from None
    return nodes


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BinaryConv2d) or super().is_leaf_module(m, module_qualified_name)


class _Builder:
    """Walks the traced graph; `names` says which of our nodes holds the value of each of its nodes.

    What is computed in place changes its input for all that come later: they get the name of the result.  `memory` says
    which values share memory, by the first of them.
    """

    def __init__(self, net: nn.Module, input_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
        if net.training:
            raise ValueError("no packed form: the network is in training mode; call its eval() first")
        self.modules = dict(net.named_modules())
        height, width, channels = (int(n) for n in input_shape)
        self.nodes = [Node(IMAGE, "input", (), {"height": height, "width": width, "channels": channels})]
        middle, spread = (np.broadcast_to(np.asarray(v, np.float64), (channels,)) for v in (mean, std))
        self._add("normalise", "affine", (IMAGE,), tensors={"scale": 1 / spread, "bias": -middle / spread})
        self.names: dict[fx.Node, str] = {}
        self.memory: dict[fx.Node, fx.Node] = {}
        self.output = ""
        for node in _trace(net).nodes:
            self._visit(node)
        self.nodes = _needed(self.nodes, self.output)

    def _add(
        self, name: str, op: str, inputs: Sequence[str], attributes: dict | None = None, tensors: dict | None = None
    ) -> str:
        while any(node.name == name for node in self.nodes):  # a module that is called twice
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
            self._share_memory(node, getattr(module, "inplace", False), isinstance(module, VIEWS))
        elif node.op in ("call_function", "call_method"):
            if _target(node) not in SIZES:
                self.names[node] = self._call(node)
                self._share_memory(node, _is_in_place(node), _target(node) in VIEW_CALLS)
        else:
            raise ValueError(f"no packed form: {node.op} {node.target}")

    def _share_memory(self, node: fx.Node, in_place: bool, view: bool) -> None:
        """Note which values `node`, which is named now, shares memory with, and rename those that it has changed."""
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
                raise ValueError(f"no packed form: {node.name} works in place on {value.name}, which has another shape")

    def _inputs(self, node: fx.Node) -> list[str]:
        maps = [value for value in node.all_input_nodes if _target(value) not in SIZES]
        return [self._name(value) for value in maps or node.all_input_nodes]

    def _name(self, value: fx.Node) -> str:
        """The node that gives `value`, which has to be a map."""
        if value not in self.names:
            raise ValueError(f"no packed form: {value.name} is a part or the size of a map, which no node gives")
        return self.names[value]

    def _module(self, name: str, module: nn.Module, inputs: list[str]) -> str:
        if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return inputs[0]
        if isinstance(module, BinaryConv2d):
            inputs = [self._module(f"{name}.norm", module.norm, inputs)]
        make = next((make for kind, make in FORMS.items() if isinstance(module, kind)), None)
        if make is None:
            known = ", ".join(kind.__name__ for kind in FORMS)
            raise ValueError(f"no packed form: {name} is a {type(module).__name__}; expected one of {known}")
        try:
            op, attributes, tensors = make(module)
        except ValueError as error:
            raise ValueError(f"no packed form: {name} {error}") from None
        return self._add(name, op, inputs, attributes, tensors)

    def _call(self, node: fx.Node) -> str:
        target, inputs = _target(node), self._inputs(node)
        if target in ADDS and len(node.args) == 2 and not node.kwargs:
            terms = [self._name(value) for value in node.args if isinstance(value, fx.Node)]
            if len(terms) == 2:
                return self._add(node.name, "add", terms)
        modules = _as_modules(target, node)
        if modules is None or len(inputs) != 1:
            raise ValueError(f"no packed form: {node.name} calls {target} {_arguments(node)}, which no node does")
        for part in modules:
            inputs = [self._module(node.name, part, inputs)]
        return inputs[0]


def _trace(net: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(net)
    except Exception as error:  # whatever the network's own code does with what stands in for its input
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"no packed form: the network cannot be traced by torch.fx ({reason})") from None


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """The nodes that `output` depends on, in their order; the last one gives it.  The image is always one."""
    needed = {IMAGE, output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return [node for node in nodes if node.name in needed]


# ---- calls in a network's forward


VIEWS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)  # modules that give their input itself, or a view of it
VIEW_CALLS = ("dropout", "flatten", "view", "reshape", "contiguous", "detach")
LAST_MAY_BE_INPLACE = {"relu": 1, "relu6": 1, "hardtanh": 3, "dropout": 3}  # its place among the arguments
ADDS = ("add", "iadd", "add_")
SIZES = ("size", "getattr", "getitem")  # x.size(0), x.shape[0]: what a flattening asks for


def _target(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _is_in_place(node: fx.Node) -> bool:
    """Whether a call writes into its first argument: `relu_`, `+=`, and functions that are told to."""
    target = _target(node)
    if target.endswith("_") or target == "iadd":
        return True
    place = LAST_MAY_BE_INPLACE.get(target, len(node.args))
    return bool(node.kwargs.get("inplace", False)) or (node.op == "call_function" and any(node.args[place : place + 1]))


def _arguments(node: fx.Node) -> str:
    return f"with {(*node.args[1:], *node.kwargs.items())}"[:100]


def _as_modules(target: str, node: fx.Node) -> list[nn.Module] | None:
    """The modules that do what a call does, None for a call that is not known."""
    args, kwargs = node.args[1:], node.kwargs
    flatten = target == "flatten" and (args, kwargs) in (((1,), {}), ((), {"start_dim": 1}))
    if flatten or (target in ("view", "reshape") and len(args) == 2 and args[1] == -1 and args[0] != -1):
        return [nn.Flatten()]
    if target == "mean" and _is_global(args, kwargs):
        keep = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
        return [nn.AdaptiveAvgPool2d(1), *([] if keep else [nn.Flatten()])]
    if target in LAST_MAY_BE_INPLACE:
        args = args[: LAST_MAY_BE_INPLACE[target] - 1]
    if target in CALLS and len(args) <= 4:  # from there on F.max_pool2d's order is not MaxPool2d's
        try:
            return [CALLS[target](*args, **{k: v for k, v in kwargs.items() if k != "inplace"})]
        except TypeError:
            return None
    return None


def _is_global(args: tuple, kwargs: dict) -> bool:
    dims = kwargs.get("dim", args[0] if args else None)
    return isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]


def _refuse() -> nn.Module:
    raise TypeError("F.dropout without training=self.training drops values even in eval mode")


CALLS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardtanh_": nn.Hardtanh,
    "clamp": lambda min, max: nn.Hardtanh(min, max),  # both: a bound of one side has no node
    "clamp_": lambda min, max: nn.Hardtanh(min, max),
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "dropout": lambda p=0.5, training=True: nn.Dropout(0) if not training else _refuse(),
}
