"""What a network costs, layer by layer: bits of weights and multiplications, counted as Table 6 of
the paper does.

A weight of a binary convolution is 1 bit and each other parameter 32. 64 1-bit multiplications
count as one real one. A batch-norm that follows a real convolution, or another batch-norm, folds
into it and costs nothing; after a binary convolution the scale and the batch-norm cost one real
multiplication for each value of its output each. Additions, comparisons and pooling are not
counted, nor are scales and shifts as bits, nor RBConv's matrices `C`, of which training alone has
use.

A method whose layers have several terms pays for each: the bits of every kernel, the 1-bit
multiplications and the scale of every term, but not a scale that is 1 everywhere (BinaryNet).
XNOR-Net's map K costs one multiplication for each of its values, by the size of the window, and one
for each value of the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d, distinct_signs

REAL_BITS = 32
COUNTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
BINARY_SHARE = 1 / 64  # of a real multiplication: a word of 64 bits is one operation


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one input: `output` is its shape without the batch."""

    name: str
    kind: str
    output: tuple[int, ...]
    bits: int
    real: int  # multiplications
    binary: int  # 1-bit multiplications

    @property
    def bytes(self) -> int:
        """Bytes of its parameters."""
        return (self.bits + 7) // 8

    @property
    def multiplications(self) -> float:
        """Real multiplications, and 1/64 of the 1-bit ones."""
        return self.real + self.binary * BINARY_SHARE


def total(layers: Iterable[LayerCost]) -> LayerCost:
    """The sum of `layers`, as one that is called "total"."""
    layers = list(layers)
    sums = {key: sum(getattr(layer, key) for layer in layers) for key in ("bits", "real", "binary")}
    return LayerCost("total", "", (), **sums)


@torch.inference_mode()
def measure(net: nn.Module, image: Tensor, repeat: int) -> dict[str, float]:
    """Milliseconds from the start of each layer that `count` counts to that of the next, by name:
    medians of `repeat` passes of `net` over `image` [N, C, H, W], after a first one. What has no
    parameters goes to the layer before it.
    """
    starts: list[tuple[str, float]] = []
    counted = {name: m for name, m in net.named_modules() if isinstance(m, COUNTED)}
    hooks = [
        m.register_forward_pre_hook(lambda *_, name=name: starts.append((name, perf_counter())))
        for name, m in counted.items()
    ]
    spent: dict[str, list[float]] = {name: [] for name in counted}
    net.eval()(image)
    for _ in range(repeat):
        starts.clear()
        net(image)
        for (name, start), (_, end) in pairwise([*starts, ("", perf_counter())]):
            spent[name].append(1000 * (end - start))
    for hook in hooks:
        hook.remove()
    return {name: median(times) for name, times in spent.items()}


def count(net: nn.Module, shape: tuple[int, ...]) -> list[LayerCost]:
    """Costs of the layers of `net` that have parameters, in the order in which one input of `shape`
    meets them.

    The network is run once, on zeros, and is left as it was. ValueError for a layer that cannot be
    counted.
    """
    found: list[LayerCost] = []
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, COUNTED):
            hooks.append(module.register_forward_hook(_recorder(name, found)))
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                f"layer {name} is a {type(module).__name__}, whose cost is not known here"
            )
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape, device=next(net.parameters()).device))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _recorder(name: str, found: list[LayerCost]) -> Any:
    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        after_binary = bool(found) and found[-1].kind == "1-bit convolution"
        found.append(
            LayerCost(
                name, _kind(module), tuple(output.shape[1:]), *_counts(module, output, after_binary)
            )
        )

    return record


def _kind(module: nn.Module) -> str:
    kinds = {BinaryConv2d: "1-bit convolution", nn.Conv2d: "convolution", nn.Linear: "linear"}
    return next((kind for cls, kind in kinds.items() if isinstance(module, cls)), "batch-norm")


def _counts(module: nn.Module, output: Tensor, after_binary: bool) -> tuple[int, int, int]:
    """Bits, real and 1-bit multiplications."""
    values = output.numel()
    if isinstance(module, BinaryConv2d):
        return _binary_counts(module, values, output[0, 0].numel())
    bits = REAL_BITS * sum(p.numel() for p in module.parameters(recurse=False))
    if isinstance(module, nn.BatchNorm2d):
        return bits, values if after_binary else 0, 0
    return bits, values * module.weight[0].numel(), 0  # type: ignore[index, operator]


def _binary_counts(layer: BinaryConv2d, values: int, pixels: int) -> tuple[int, int, int]:
    terms = layer.terms()
    kernels = distinct_signs(terms)
    scaled = sum(not bool((term.scale == 1).all()) for term in terms)
    real = values * scaled + (values + pixels) * layer.input_scale
    return len(kernels) * kernels[0].numel(), real, len(terms) * values * kernels[0][0].numel()
