"""The nodes of a packed network made ready to run: C++ where NumPy would take long, NumPy in place elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsf.engine import node_reference as reference
from rbsf.engine.layout import kernel_arguments, layout
from rbsf.engine.nodes import Node, Shape

Run = Callable[[list[np.ndarray], np.ndarray, list[np.ndarray]], None]
MapForm = tuple[Shape, type]  # of one image


@dataclass(frozen=True)
class Kernel:
    """``run(inputs, output, scratch)`` computes a node; `scratch` are arrays of its own, zero at first.

    Inputs and output are float32 [N, ...], C-contiguous (an affine node's input may be uint8).
    """

    run: Run
    scratch: Sequence[MapForm] = ()

    def scratch_bytes(self) -> int:
        """Bytes of its scratch for one image."""
        return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self.scratch)


WORTH_SHARING = 50  # microseconds: waking a helper costs a good part of it


@dataclass(frozen=True)
class Target:
    """Where kernels run: the extension, an instruction set of it, and how many threads."""

    native: Any
    isa: str
    threads: int

    def share(self, microseconds: float) -> int:
        """Threads for work that takes one of them about so long."""
        return self.threads if microseconds >= WORTH_SHARING else 1


def prepare(node: Node, inputs: list[Shape], target: Target, plus: bool = False) -> Kernel:
    """The kernel of `node` for inputs of these shapes; `plus`: a conv_bits to which a last input is added.

    Raises ValueError for weights that would take too much memory in the kernels' order.
    """
    if target.isa == "numpy":
        return Kernel(lambda x, out, _: np.copyto(out, reference.compute(node, x)))
    if node.op == "conv_bits":
        return _conv_bits(node, inputs[0], target, plus)
    if node.op in ("conv", "linear"):
        return _conv(node, inputs[0], target)
    if node.op in ("max_pool", "avg_pool", "global_pool"):
        return _pool(node, inputs[0], target)
    return Kernel(_IN_PLACE[node.op](node, inputs[0]))


def _conv_bits(node: Node, x: Shape, target: Target, plus: bool) -> Kernel:
    a, t, pad = node.attributes, node.tensors, node.attributes["padding"]
    groups, outputs = a["groups"], t["weight"].shape[1]
    read, write = layout(x[2], 1, groups), layout(outputs, groups, groups)
    layers = [node.kernel(number, x[2]) for number in range(len(t["weight"]))]
    kernels = [target.native.Conv(**kernel_arguments(layer, read, write, 0, "sums")) for layer in layers]
    convs = [kernels[number] for number in a["kernels"]]
    flips = [np.packbits(flip.reshape(groups, -1), axis=1, bitorder="little") for flip in t["flip"]]
    cost = len(convs) * (1 + layers[0].products / 600) / 1000  # microseconds for an output, about

    def run(inputs: list[np.ndarray], out: np.ndarray, bits: list[np.ndarray]) -> None:
        threads = target.share(out.size * cost)
        for threshold, flip, packed in zip(t["threshold"], flips, bits, strict=True):
            target.native.pack_map(inputs[0], threshold, flip, packed, pad, threads, target.isa)
        factors = reference.input_scale(node, inputs[0])[..., 0] if "map_scale" in t else None
        other = inputs[1] if plus else None
        maps = [bits[base] for base in a["bits"]]
        target.native.conv_bits(convs, maps, t["scale"], t["bias"], factors, other, out, threads, target.isa)

    form = ((groups, x[0] + 2 * pad, x[1] + 2 * pad, read.bytes), np.uint8)
    return Kernel(run, [form] * len(flips))


def _conv(node: Node, x: Shape, target: Target) -> Kernel:
    a = node.attributes or {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}  # a linear layer
    pad, groups = a["padding"], a["groups"]
    weight, bias = _blocks(node.tensors["weight"], groups), _blocks(node.tensors["bias"], groups)[:, :, 0]
    bias = np.ascontiguousarray(bias).reshape(groups, -1)
    cost = (1 + weight.shape[2] / 50) / 1000  # as above

    def run(inputs: list[np.ndarray], out: np.ndarray, padded: list[np.ndarray]) -> None:
        image = inputs[0]
        if image.ndim == 2:  # a vector an image: pixels of one row
            image, out = image[None, None], out[None, None]
        if pad:
            padded[0][:, pad:-pad, pad:-pad] = image
            image = padded[0]
        threads = target.share(out.size * cost)
        target.native.conv_real(image, weight, bias, out, a["kernel"], a["stride"], groups, threads, target.isa)

    return Kernel(run, [((x[0] + 2 * pad, x[1] + 2 * pad, x[2]), np.float32)] if pad else [])


def _blocks(rows: np.ndarray, groups: int) -> np.ndarray:
    """Filters [O, ...] to [groups, blocks, products, 16], filled up with zeros."""
    rows = rows.reshape(groups, len(rows) // groups, -1)
    blocks = -(-rows.shape[1] // 16)
    filled = np.zeros((groups, blocks * 16, rows.shape[2]), np.float32)
    filled[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(filled.reshape(groups, blocks, 16, -1).transpose(0, 1, 3, 2))


def _pool(node: Node, x: Shape, target: Target) -> Kernel:
    if node.op == "global_pool":
        a, areas = {"kernel": max(x[:2]), "stride": 1, "padding": 0}, np.full((1, 1), x[0] * x[1], np.float32)
    else:
        a, areas = node.attributes, reference.window_areas(x, node.attributes) if node.op == "avg_pool" else None
    geometry = (a["kernel"], a["stride"], a["padding"], areas)

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        target.native.pool_map(inputs[0], out, *geometry, target.share(inputs[0].size / 4000), target.isa)

    return Kernel(run)


# ---- NumPy in place


LONGEST_ROW = 1 << 16  # numbers: from there on loops over channels are long enough, and copies take much memory


def _rows(values: np.ndarray, x: Shape) -> np.ndarray:
    """A number for each channel, repeated over a row of pixels: NumPy is slow in short loops."""
    short = len(x) == 3 and x[1] * x[2] <= LONGEST_ROW
    return np.tile(np.broadcast_to(values, x[-1:]), x[1] if short else 1)


def _as_rows(x: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The map `x` with its rows of pixels in one, if `row` has numbers for such."""
    return x if len(row) == x.shape[-1] else x.reshape(*x.shape[:2], -1)


def _affine(node: Node, x: Shape) -> Run:
    scale, bias = _rows(node.tensors["scale"], x), _rows(node.tensors["bias"], x)

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        out = _as_rows(out, scale)
        np.multiply(_as_rows(inputs[0], scale), scale, out=out)
        np.add(out, bias, out=out)

    return run


def _prelu(node: Node, x: Shape) -> Run:
    slope = _rows(node.tensors["slope"], x)

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        np.multiply(_as_rows(inputs[0], slope), slope, out=_as_rows(out, slope))
        np.copyto(out, inputs[0], where=inputs[0] >= 0)

    return run


def _hardtanh(node: Node, x: Shape) -> Run:
    low, high = np.float32(node.attributes["low"]), np.float32(node.attributes["high"])
    return lambda inputs, out, _: np.copyto(out, np.clip(inputs[0], low, high, out=out))


def _flatten(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
    x = inputs[0]
    np.copyto(out, x if x.ndim == 2 else x.transpose(0, 3, 1, 2).reshape(out.shape))


def _relu(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
    np.maximum(inputs[0], np.float32(0), out=out)


def _add(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
    np.add(inputs[0], inputs[1], out=out)


_IN_PLACE: dict[str, Callable[[Node, Shape], Run]] = {
    "affine": _affine,
    "prelu": _prelu,
    "hardtanh": _hardtanh,
    "relu": lambda node, x: _relu,
    "add": lambda node, x: _add,
    "flatten": lambda node, x: _flatten,
}
