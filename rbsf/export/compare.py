"""Compares a packed network with the rounded network in float64, operation by operation."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Map
from rbsf.engine.ops import reference
from rbsf.export.images import Images, made_up_images
from rbsf.export.modules import binary_part, distinct, to_numpy

# Largest relative distance from its threshold at which a bit may differ.
NEAR = 1e-5  # real values, relative to the largest; float32 may round them to the other side
NEAR_WHOLE = 1e-9  # whole numbers, relative to the channel's largest; compared in float64
CLOSE = 1e-3  # largest difference allowed for real values, relative to the largest value


@dataclass(frozen=True)
class Exported:
    """A packed network and its source, the PyTorch network, which is rounded in the same way."""

    net: nn.Module
    graph: fx.Graph  # the trace of `net`
    values: dict[str, str]  # the value of `graph` that each node computes
    packed: PackedModel
    images: Images

    def compare(self, pixels: np.ndarray | None = None) -> Agreement:
        """Compare both networks on images uint8 `[N, H, W, C]`, or on made-up ones.

        Raises the errors of `compare`.
        """
        return compare(self, made_up_images(self.packed.input_shape) if pixels is None else pixels)


@dataclass(frozen=True)
class Difference:
    """How one operation's result differs if its inputs are those of the network in float64."""

    name: str
    size: int  # number of bits or real values in the result
    bits: bool  # whether the result consists of bits
    differing: int  # bits that differ, or real values that differ by more than `CLOSE`
    near: int  # how many of the differing bits have values close to the threshold
    largest: float  # the largest difference of real values, relative to the largest value


@dataclass(frozen=True)
class Agreement:
    """How well a packed network agrees with its source network on some images."""

    differences: tuple[Difference, ...]

    def check(self) -> None:
        """Raise ValueError if the two differ by more than rounding explains."""
        for found in self.differences:
            if found.differing <= found.near:
                continue
            what = "bits" if found.bits else f"values, by {found.largest:.1g} of the largest"
            raise ValueError(
                f"the packed network differs from the rounded one in float64 at {found.name}:"
                f" {found.differing - found.near:,} of {found.size:,} {what}"
            )

    def __str__(self) -> str:
        signs = [found for found in self.differences if found.bits]
        differing = sum(found.differing for found in signs)
        near = sum(found.near for found in signs)
        size = sum(found.size for found in signs)
        largest = max((found.largest for found in self.differences if not found.bits), default=0.0)
        return (
            f"{differing:,} of {size:,} bits differ, {near:,} of them at their threshold;"
            f" real values by {largest:.1g} of the largest at most"
        )


@torch.inference_mode()
def compare(exported: Exported, pixels: np.ndarray) -> Agreement:
    """Compare a packed network with its source on images uint8 `[N, H, W, C]`.

    The engine's reference computes every operation; its inputs are the source's own values, where
    these exist. Raises ValueError if the packed network does not take images of this size, or if
    the trace does not compute the same as the source.
    """
    packed = exported.packed
    inputs = exported.images.normalised(pixels).double()
    net = deepcopy(exported.net).double()
    recorder = _Recorder(fx.GraphModule(net, exported.graph))
    if not torch.allclose(recorder.run(inputs.clone()), deepcopy(net)(inputs)):
        fault = "the network does something that torch.fx does not see"
        raise ValueError(f"no packed form: {fault}, such as writing into a part of a map")
    maps = packed.maps_for(*pixels.shape[1:3])
    known = {packed.nodes[0].name: pixels}  # inputs: the network's own values where they exist
    differences: list[Difference] = []
    for node in packed.nodes[1:]:
        sources, out = [maps[name] for name in node.inputs], maps[node.name]
        found = reference(node, sources, out, [known[name] for name in node.inputs])
        known[node.name] = found
        before = _before_sign(node.name, recorder) if node.op == "sign" else None
        expected = recorder.values.get(exported.values.get(node.name, ""))
        if before is not None:
            limit = _largest_rounding(before, sources[0])
            differences.append(_of_bits(node.name, found, before, limit))
            known[node.name] = (before >= 0).astype(np.uint8)
        elif out.kind in ("real", "planes") and expected is not None:
            expected = _in_order_of(out, expected)
            differences.append(_of_values(node.name, found, expected))
            known[node.name] = np.ascontiguousarray(expected.astype(np.float32))
    return Agreement(tuple(differences))


def _largest_rounding(before: np.ndarray, source: Map) -> np.ndarray:
    """The largest magnitude of values `[N, H, W, C]` for which rounding may change the sign."""
    if source.kind == "real":
        return NEAR * np.abs(before).max()
    return NEAR_WHOLE * np.abs(before).max((0, 1, 2))  # [C]


def _in_order_of(out: Map, values: np.ndarray) -> np.ndarray:
    """PyTorch's values `[N, C, H, W]` or `[N, C]` with their axes in the order of `out`."""
    if out.kind == "planes" or values.ndim == 2:
        return values
    return values.transpose(0, 2, 3, 1)


class _Recorder(fx.Interpreter):
    """Keeps copies of all values, and of the numbers that binary convolutions take the signs of.

    Both are float64: `values` are `[N, ...]`; `before_sign` has an array `[N, H, W, C]` for each
    way in which a module takes signs. A key of `before_sign` is the module's name, followed by a '
    for each earlier call.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, np.ndarray] = {}
        self.before_sign: dict[str, list[np.ndarray]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            self._record_signs(n)
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result.numpy().copy()
        return result

    def _record_signs(self, node: fx.Node) -> None:
        name = str(node.target)
        binary = binary_part(self.fetch_attr(name))
        if not binary:
            return
        while name in self.before_sign:
            name += "'"
        (source,) = self.fetch_args_kwargs_from_env(node)[0]
        x = binary.norm(source).numpy().transpose(0, 2, 3, 1)
        shifts, _ = distinct([to_numpy(term.shift) for term in binary.terms()])
        self.before_sign[name] = [x + shift for shift in shifts]


def _before_sign(name: str, recorder: _Recorder) -> np.ndarray | None:
    """The values `[N, H, W, C]` from which the node MODULE.sign.NUMBER takes signs, or None."""
    module, _, number = name.rpartition(".sign.")
    if module not in recorder.before_sign:
        return None
    return recorder.before_sign[module][int(number)]


def _of_bits(name: str, found: np.ndarray, before: np.ndarray, limit: np.ndarray) -> Difference:
    wrong = found != (before >= 0)
    near = wrong & (np.abs(before) <= limit)
    return Difference(name, found.size, True, int(wrong.sum()), int(near.sum()), 0.0)


def _of_values(name: str, found: np.ndarray, expected: np.ndarray) -> Difference:
    largest = max(np.abs(expected).max(), np.finfo(np.float32).tiny)
    far = np.abs(found - expected) / largest
    differing = int((far > CLOSE).sum() + np.isnan(far).sum())
    return Difference(name, found.size, False, differing, 0, float(far.max()))
