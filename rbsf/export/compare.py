"""How far a packed network agrees with the rounded network in float64, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from rbsf.engine.graph import PackedModel
from rbsf.engine.ops import reference
from rbsf.export.modules import binary_part, distinct, to_numpy
from rbsf.layers import BinaryConv2d

NEAR = 1e-5  # of a threshold, relative to the largest value: there float32 may round to the other side ...
NEAR_WHOLE = 1e-9  # ... and where whole numbers are compared, float64, relative to the largest of the channel
CLOSE = 1e-3  # that real values may differ by, relative to the largest


@dataclass(frozen=True)
class Difference:
    """How one operation's result differs, where its inputs are those of the network in float64."""

    name: str
    size: int  # numbers or bits
    bits: bool
    differing: int  # bits that differ; of real values those that differ by more than `CLOSE`
    near: int  # bits among them whose values lie at the threshold
    largest: float  # difference of real values, relative to the largest of them


@dataclass(frozen=True)
class Agreement:
    """How a packed network agrees with the one that it was made from, on some images."""

    differences: tuple[Difference, ...]

    def check(self) -> None:
        """Raises ValueError where they differ by more than rounding explains."""
        for found in self.differences:
            if found.differing > found.near:
                what = "bits" if found.bits else f"values, by {found.largest:.1g} of the largest"
                raise ValueError(
                    f"the packed network differs from the rounded one in float64 at {found.name}:"
                    f" {found.differing - found.near:,} of {found.size:,} {what}"
                )

    def __str__(self) -> str:
        signs = [found for found in self.differences if found.bits]
        differing, size, near = (
            sum(getattr(d, key) for d in signs) for key in ("differing", "size", "near")
        )
        largest = max((found.largest for found in self.differences if not found.bits), default=0.0)
        return (
            f"{differing:,} of {size:,} bits differ, {near:,} of them at their threshold;"
            f" real values by {largest:.1g} of the largest at most"
        )


@torch.inference_mode()
def compare(
    net: nn.Module, graph: fx.Graph, values: dict[str, str], packed: PackedModel, images: np.ndarray,
    mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
) -> Agreement:  # fmt: skip
    """Compare on `images` uint8 [N, H, W, C]; mean and std as in `rbsf.export.trace.trace`.
    Errors: see `maps_for`.

    `graph` is the trace of `net`; `values` says which of its values the nodes of `packed` give.
    Every operation is computed by the engine's reference from inputs that are the network's own, as
    far as it has them.
    """
    recorder = _Recorder(fx.GraphModule(deepcopy(net).double(), graph))
    recorder.run(normalised(images, mean, std).double())
    differences: list[Difference] = []
    found = {packed.nodes[0].name: images}
    all_maps = packed.maps_for(*images.shape[1:3])
    for node in packed.nodes[1:]:
        maps, out = [all_maps[name] for name in node.inputs], all_maps[node.name]
        found[node.name] = reference(node, maps, out, [found[name] for name in node.inputs])
        before = _before_sign(node.name, recorder) if node.op == "sign" else None
        if before is not None:
            largest = (
                np.abs(before).max() if maps[0].kind == "real" else np.abs(before).max((0, 1, 2))
            )
            limit = largest * (NEAR if maps[0].kind == "real" else NEAR_WHOLE)
            differences.append(_of_bits(node.name, found[node.name], before, limit))
            found[node.name] = (before >= 0).astype(np.uint8)
        elif out.kind in ("real", "planes") and values.get(node.name) in recorder.values:
            expected = recorder.values[values[node.name]]
            expected = (
                expected
                if out.kind == "planes" or expected.ndim == 2
                else expected.transpose(0, 2, 3, 1)
            )
            differences.append(_of_values(node.name, found[node.name], expected))
            found[node.name] = np.ascontiguousarray(expected.astype(np.float32))
    return Agreement(tuple(differences))


def normalised(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What a network takes, float32 [N, C, H, W], for images uint8 [N, H, W, C]."""
    middle, spread = (
        np.broadcast_to(np.asarray(v, np.float32), images.shape[-1:]) for v in (mean, std)
    )
    return torch.from_numpy((images - middle) / spread).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def torch_logits(
    net: nn.Module,
    images: np.ndarray,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> np.ndarray:
    """Logits float32 [N, classes] of `net`, in its own dtype, for images uint8 [N, H, W, C]."""
    return net(normalised(images, mean, std).to(next(net.parameters()).dtype)).float().numpy()


def made_up_images(shape: Sequence[int], count: int = 2) -> np.ndarray:
    """Images uint8 [count, H, W, C] to compare on: soft shapes and some noise, the same ones each
    time.
    """
    rng, (height, width, channels) = np.random.default_rng(0), shape
    coarse = rng.integers(0, 256, (count, -(-height // 8), -(-width // 8), channels))
    soft = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(soft + rng.normal(0, 12, soft.shape), 0, 255).astype(np.uint8)


class _Recorder(fx.Interpreter):
    """Keeps a copy of every value, float64 [N, ...], and of what binary convolutions take the signs
    of.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, np.ndarray] = {}
        self.before_sign: dict[
            str, list[np.ndarray]
        ] = {}  # by module, with a ' for each earlier call; [N, H, W, C]

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and (binary := binary_part(self.fetch_attr(str(n.target)))):
            (x,) = self.fetch_args_kwargs_from_env(n)[0]
            self._record_signs(str(n.target), binary, binary.norm(x))
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result.numpy().copy()
        return result

    def _record_signs(self, name: str, module: BinaryConv2d, x: Tensor) -> None:
        while name in self.before_sign:
            name += "'"
        shifts = distinct([to_numpy(term.shift) for term in module.terms()])[0]
        self.before_sign[name] = [x.numpy().transpose(0, 2, 3, 1) + shift for shift in shifts]


def _before_sign(name: str, recorder: _Recorder) -> np.ndarray | None:
    """The values [N, H, W, C] whose signs the node NAME.sign.NUMBER gives."""
    module, _, number = name.rpartition(".sign.")
    return recorder.before_sign[module][int(number)] if module in recorder.before_sign else None


def _of_bits(name: str, found: np.ndarray, before: np.ndarray, limit: np.ndarray) -> Difference:
    wrong = found != (before >= 0)
    near = wrong & (np.abs(before) <= limit)
    return Difference(name, found.size, True, int(wrong.sum()), int(near.sum()), 0.0)


def _of_values(name: str, found: np.ndarray, expected: np.ndarray) -> Difference:
    far = np.abs(found - expected) / max(np.abs(expected).max(), np.finfo(np.float32).tiny)
    return Difference(
        name, found.size, False, int((far > CLOSE).sum() + np.isnan(far).sum()), 0, float(far.max())
    )
