"""The packed network file: any feed-forward network as a list of nodes, binary weights as one bit each.

A safetensors file.  Metadata, all strings: `format` "rbsf-network-1"; `model`, `info`, `sha256` as in
`rbsf.engine.packed`; `layers`, a JSON list of nodes in order of execution, each {"name", "op", "inputs", "attributes"}.
`inputs` names earlier nodes.  The first node is the input, the last one's map is the network's output.  Maps are
float32 [N, H, W, C], vectors [N, C]; only the input is uint8.  Tensors of a node NAME are float32 unless said:

    op           attributes                            tensors NAME.*
    input        height, width, channels
    affine                                             scale, bias [C]
    conv         kernel, stride, padding, groups       weight [O, k, k, I/g], bias [O]; padded with 0
    conv_bits    kernel, stride, padding, groups,      threshold [B, I], flip uint8 [B, I], scale [T, O], bias [O],
                 bits, kernels                         weight uint8 [M, O, ceil(k * k * I / g / 8)]; or also
                                                       map_scale, map_bias [I]
    linear                                             weight [O, I], bias [O]
    relu
    prelu                                              slope [C] or [1]
    hardtanh     low, high
    add          (two inputs of one shape)
    max_pool     kernel, stride, padding, ceil
    avg_pool     kernel, stride, padding, ceil, include_pad
    global_pool  (mean of each channel, [1, 1, C])
    flatten      (to [C * H * W], channels slowest; a vector stays)

conv_bits: B ways to take bits, bit = (x >= threshold) xor flip, 1 for +1; padded borders are 0, which is -1.  T terms:
`bits`[t] says which of the B term t reads, `kernels`[t] which of the M kernels it has, whose rows of weights are
`numpy.packbits(bitorder="little")` of [k, k, I / g].  With sums s_t of +-1 products the output is
sum_t(scale_t * s_t) [* K] + bias in float32, each step rounded.  K, of XNOR-Net, is there where map_scale is: the mean
over each window, padded with 0, of mean_c |map_scale * x + map_bias|.
Pooling is as in PyTorch: `ceil` admits windows cut at the end, `include_pad` counts padding in a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from rbsf.engine.packed import LIMITS, MAX_CHANNELS, Layer, read_file, write_file

FORMAT = "rbsf-network-1"
MAX_NODES = 4000
MAX_TERMS = 64
MAX_VALUES = 1 << 28  # of a map, its windows, or unpacked weights: 1 GiB of float32
MAX_SIGNS = 1 << 27  # of a node's binary weights: NumPy unpacks them

Shape = tuple[int, ...]  # of one image: (H, W, C), or (C,)
Forms = dict[str, tuple[str, Shape]]  # tensor -> dtype, shape


@dataclass(frozen=True)
class Node:
    """One step of a network; see the module."""

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def kernel(self, number: int, inputs: int) -> Layer:
        """Kernel `number` of a conv_bits of `inputs` channels as a layer of the chain engine."""
        weight, a = self.tensors["weight"][number], self.attributes
        geometry = (a["kernel"], a["stride"], a["padding"], a["groups"], inputs, len(weight), False)
        return Layer("conv_bits", f"{self.name}.{number}", *geometry, weight)


@dataclass(frozen=True)
class NetworkModel:
    """A packed network, checked: nodes follow on one another and every array is as the format says."""

    model: str
    nodes: tuple[Node, ...]
    info: dict[str, Any]
    path: Path | None = None
    shapes: dict[str, Shape] = field(init=False)  # of every node's output

    def __post_init__(self) -> None:
        """Raises ValueError in one line that names the node."""
        try:
            object.__setattr__(self, "shapes", check_nodes(self.nodes))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}" if self.path else str(error)) from None


def check_nodes(nodes: Sequence[Node]) -> dict[str, Shape]:
    """Output shapes of all nodes.  ValueError for nodes that are no network: unknown ops, inputs that no earlier node
    makes, attributes or arrays of wrong type or size, shapes that do not fit, maps too large for memory.
    """
    if not 2 <= len(nodes) <= MAX_NODES:
        raise ValueError(f"{len(nodes)} nodes: a packed network has 2 to {MAX_NODES}")
    shapes: dict[str, Shape] = {}
    for number, node in enumerate(nodes):
        where = f"node {node.name!r}"
        if node.op not in OPS:
            raise ValueError(f"{where}: unknown op {node.op!r}; this version knows {', '.join(OPS)}")
        if (node.op == "input") is not (number == 0):
            raise ValueError(f"{where} is number {number + 1} and {node.op!r}; the first, and only it, is the input")
        if node.name in shapes:
            raise ValueError(f"two nodes are called {node.name!r}")
        if missing := [name for name in node.inputs if name not in shapes]:
            raise ValueError(f"{where} takes {missing[0]!r}, which no node before it makes")
        try:
            shapes[node.name] = _check(node, [shapes[name] for name in node.inputs])
        except ValueError as error:
            raise ValueError(f"{where} ({node.op}): {error}") from None
    return shapes


def _check(node: Node, inputs: list[Shape]) -> Shape:
    op = OPS[node.op]
    if len(inputs) != op.inputs:
        raise ValueError(f"takes {op.inputs} inputs, {len(inputs)} are given")
    if set(node.attributes) != set(op.attributes):
        raise ValueError(f"has attributes {sorted(node.attributes)}, expected {sorted(op.attributes)}")
    for key, good in op.attributes.items():
        good(key, node.attributes[key])
    if op.map and len(inputs[0]) != 3:
        raise ValueError(f"takes a map (H, W, C), {inputs[0]} comes")
    shape, forms = op.form(node, *inputs)
    if min(shape) < 1 or prod(shape) > MAX_VALUES:
        raise ValueError(f"from {inputs}: its output would be {shape}, none or over {MAX_VALUES:,} values")
    _check_arrays(node, forms)
    return shape


def _check_arrays(node: Node, forms: Forms) -> None:
    found = {key: (str(array.dtype), array.shape) for key, array in node.tensors.items()}
    for key in sorted({*forms, *found}):
        if found.get(key) != forms.get(key):
            raise ValueError(f"{key} is {_text(found.get(key))}, expected {_text(forms.get(key))}")
        array = node.tensors[key]
        if array.dtype != np.float32:
            continue
        if np.isnan(array).any() or (key != "threshold" and not np.isfinite(array).all()):
            raise ValueError(f"{key} holds values that are not finite")


def _text(form: tuple[str, Shape] | None) -> str:
    return f"{form[0]} {list(form[1])}" if form else "absent"


# ---- attributes


def _whole(low: int, high: int) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{key}={str(value)[:50]}, expected {low} to {high}")

    return check


def _number(key: str, value: Any) -> None:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{key}={str(value)[:50]}, expected a finite number")


def _flag(key: str, value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{key}={str(value)[:50]}, expected true or false")


def _numbering(key: str, value: Any) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TERMS or any(type(v) is not int for v in value):
        raise ValueError(f"{key}={str(value)[:50]}, expected 1 to {MAX_TERMS} whole numbers")
    if sorted({*value}) != [*range(len({*value}))]:
        raise ValueError(f"{key}={str(value)[:50]}: every number from 0 up to the largest is needed")


# ---- shapes


def window_size(size: int, attributes: dict[str, Any]) -> int:
    """Height or width of the output of a convolution or a pool for that of the input, as PyTorch counts it."""
    kernel, stride, padding = (attributes[key] for key in ("kernel", "stride", "padding"))
    free = size + 2 * padding - kernel
    if not attributes.get("ceil"):
        return free // stride + 1
    out = -(-free // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out  # the last window begins inside


def _input(node: Node) -> tuple[Shape, Forms]:
    return tuple(node.attributes[key] for key in ("height", "width", "channels")), {}


def _affine(node: Node, x: Shape) -> tuple[Shape, Forms]:
    return x, {"scale": ("float32", x[-1:]), "bias": ("float32", x[-1:])}


def _prelu(node: Node, x: Shape) -> tuple[Shape, Forms]:
    slope = node.tensors.get("slope")
    return x, {"slope": ("float32", (1,) if slope is not None and slope.shape == (1,) else x[-1:])}


def _same(node: Node, x: Shape, *others: Shape) -> tuple[Shape, Forms]:
    if any(other != x for other in others):
        raise ValueError(f"takes maps of one shape, {', '.join(map(str, (x, *others)))} come")
    return x, {}


def _hardtanh(node: Node, x: Shape) -> tuple[Shape, Forms]:
    if node.attributes["low"] > node.attributes["high"]:
        raise ValueError(f"low={node.attributes['low']} is above high={node.attributes['high']}")
    return x, {}


def _outputs(node: Node, axis: int) -> int:
    weight = node.tensors.get("weight")
    if weight is None or weight.ndim <= axis or not 1 <= weight.shape[axis] <= MAX_CHANNELS:
        raise ValueError(f"weight is {None if weight is None else list(weight.shape)}: 1 to {MAX_CHANNELS} filters")
    return weight.shape[axis]


def _windows(node: Node, x: Shape, outputs: int) -> tuple[int, int, int]:
    """Height and width of a convolution's output, and products of each of its values."""
    a = node.attributes
    if x[2] % a["groups"] or outputs % a["groups"]:
        raise ValueError(f"{x[2]} to {outputs} channels do not split into {a['groups']} groups")
    height, width = (window_size(size, a) for size in x[:2])
    products = a["kernel"] ** 2 * (x[2] // a["groups"])
    if max(height, 0) * max(width, 0) * products * a["groups"] > MAX_VALUES:
        raise ValueError(f"from {x}: its windows would take over {MAX_VALUES:,} values")
    return height, width, products


def _conv(node: Node, x: Shape) -> tuple[Shape, Forms]:
    outputs, k, groups = _outputs(node, 0), node.attributes["kernel"], node.attributes["groups"]
    height, width, products = _windows(node, x, outputs)
    if groups * -(-outputs // groups // 16) * 16 * products > MAX_VALUES:
        raise ValueError(f"its weights would take over {MAX_VALUES:,} values")
    return (height, width, outputs), {
        "weight": ("float32", (outputs, k, k, x[2] // groups)),
        "bias": ("float32", (outputs,)),
    }


def _conv_bits(node: Node, x: Shape) -> tuple[Shape, Forms]:
    outputs, bits, numbers = _outputs(node, 1), node.attributes["bits"], node.attributes["kernels"]
    height, width, products = _windows(node, x, outputs)
    bases, terms, kernels = 1 + max(bits), len(bits), 1 + max(numbers)
    if len(numbers) != terms:
        raise ValueError(f"bits are of {terms} terms and kernels of {len(numbers)}")
    if products >= 1 << 24 or kernels * outputs * products > MAX_SIGNS:
        raise ValueError(f"{kernels} kernels of {outputs} filters of {products} weights are too many")
    forms: Forms = {
        "threshold": ("float32", (bases, x[2])),
        "flip": ("uint8", (bases, x[2])),
        "weight": ("uint8", (kernels, outputs, (products + 7) // 8)),
        "scale": ("float32", (terms, outputs)),
        "bias": ("float32", (outputs,)),
    }
    if "map_scale" in node.tensors:
        forms |= {"map_scale": ("float32", x[2:]), "map_bias": ("float32", x[2:])}
    if "flip" in node.tensors and (node.tensors["flip"] > 1).any():
        raise ValueError("flip holds values other than 0 and 1")
    return (height, width, outputs), forms


def _linear(node: Node, x: Shape) -> tuple[Shape, Forms]:
    if len(x) != 1:
        raise ValueError(f"takes a vector, {x} comes; flatten the map first")
    outputs = _outputs(node, 0)
    return (outputs,), {"weight": ("float32", (outputs, *x)), "bias": ("float32", (outputs,))}


def _pool(node: Node, x: Shape) -> tuple[Shape, Forms]:
    if 2 * node.attributes["padding"] > node.attributes["kernel"]:
        raise ValueError(f"padding={node.attributes['padding']} is over half of kernel={node.attributes['kernel']}")
    return (*(window_size(size, node.attributes) for size in x[:2]), x[2]), {}


def _global_pool(node: Node, x: Shape) -> tuple[Shape, Forms]:
    return (1, 1, x[2]), {}


def _flatten(node: Node, x: Shape) -> tuple[Shape, Forms]:
    return (prod(x),), {}


@dataclass(frozen=True)
class _Op:
    """`form` gives the output's shape and the tensors that a node of this op must have; `map`: it takes maps only."""

    form: Callable[..., tuple[Shape, Forms]]
    attributes: dict[str, Callable[[str, Any], None]] = field(default_factory=dict)
    inputs: int = 1
    map: bool = False


_WINDOW = {key: _whole(*LIMITS[key]) for key in ("kernel", "stride", "padding")}
_POOL = {"kernel": _whole(1, 255), "stride": _whole(1, 255), "padding": _whole(0, 127), "ceil": _flag}
_CONV = _WINDOW | {"groups": _whole(*LIMITS["groups"])}
_SIDE = _whole(1, 1 << 14)

OPS = {
    "input": _Op(_input, {"height": _SIDE, "width": _SIDE, "channels": _whole(1, MAX_CHANNELS)}, 0),
    "affine": _Op(_affine),
    "conv": _Op(_conv, _CONV, map=True),
    "conv_bits": _Op(_conv_bits, _CONV | {"bits": _numbering, "kernels": _numbering}, map=True),
    "linear": _Op(_linear),
    "relu": _Op(_same),
    "prelu": _Op(_prelu),
    "hardtanh": _Op(_hardtanh, {"low": _number, "high": _number}),
    "add": _Op(_same, inputs=2),
    "max_pool": _Op(_pool, _POOL, map=True),
    "avg_pool": _Op(_pool, _POOL | {"include_pad": _flag}, map=True),
    "global_pool": _Op(_global_pool, map=True),
    "flatten": _Op(_flatten),
}


# ---- files


def write_network(path: str | Path, model: str, nodes: Sequence[Node], info: dict[str, Any]) -> None:
    """Write a packed network file.  ValueError for nodes that are no network, OSError where it cannot be written.

    `info`: anything JSON holds, see `rbsf.engine.packed.write_packed`.
    """
    check_nodes(nodes)
    entries = [{"name": n.name, "op": n.op, "inputs": list(n.inputs), "attributes": n.attributes} for n in nodes]
    tensors = {f"{node.name}.{key}": array for node in nodes for key, array in node.tensors.items()}
    write_file(path, FORMAT, model, entries, tensors, info)


def read_network(path: str | Path) -> NetworkModel:
    """Read and check a packed network file; raises as `rbsf.engine.packed.read_packed` does."""
    path = Path(path)
    model, entries, tensors, info = read_file(path, FORMAT)
    try:
        owned = _by_node(entries, tensors)
        nodes = tuple(_node(entry, owned) for entry in entries)
        if owned:
            raise ValueError(f"holds tensors of no node: {', '.join(sorted(owned))[:100]}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return NetworkModel(model, nodes, info, path)


def _by_node(entries: list[Any], tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Tensors by the name of their node, the part before the last dot."""
    owned: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        node, _, key = name.rpartition(".")
        owned.setdefault(node, {})[key] = array
    return owned


def _node(entry: Any, owned: dict[str, dict[str, np.ndarray]]) -> Node:
    """The node of one entry, its tensors taken out of `owned`; they are checked later."""
    expected = {"name": str, "op": str, "inputs": list, "attributes": dict}
    if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != expected:
        raise ValueError(f"a node is {str(entry)[:100]}, expected name, op, inputs, attributes")
    if not all(isinstance(name, str) for name in entry["inputs"]):
        raise ValueError(f"node {entry['name'][:100]!r}: inputs are {str(entry['inputs'])[:100]}, expected names")
    tensors = owned.pop(entry["name"], {})
    return Node(entry["name"], entry["op"], tuple(entry["inputs"]), entry["attributes"], tensors)
