"""What a network costs, layer by layer: bits of weights, and multiplications.

They are counted as in Table 6 of the paper. A weight of a binary convolution takes 1 bit, any other
parameter 32 bits. 64 1-bit multiplications count as one real multiplication. A batch-norm that
reads a real layer or another batch-norm is folded into it. A batch-norm in front of a binary
layer's sign is folded into the sign. Both cost nothing. Any other batch-norm costs one real
multiplication for each value of its output, and so does the scale of a binary convolution. A layer
that is called twice multiplies twice. Additions, comparisons and pooling are not counted. The bits
of a binary convolution's scales and shifts are not counted either, nor those of RBConv's matrices
`C`, which only training needs.

A layer with several terms pays for all of them: the bits of every kernel, and the 1-bit
multiplications and the scale of every term. A scale that is 1 everywhere (BinaryNet) is free.
XNOR-Net's map K costs one multiplication for each of its values (the division by the size of the
window), and one for each value of the output.

RB-SF 2's 8-bit layers take 8 bits a weight. Its thresholds are free, like a batch-norm in front of
a sign. A PReLU costs one multiplication for each value, and a correlation one for each product.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d, binary_layers, distinct_signs
from rbsf.makers import Makers
from rbsf.models.rbsf2 import Correlation, Sums
from rbsf.models.whole import Shift, Slope, Stem, WholeConv

REAL_BITS, BYTE_BITS = 32, 8
BINARY_SHARE = 1 / 64  # cost relative to a real multiplication: one operation takes 64 bits
BINARY_KIND = "1-bit convolution"


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one input; `output` is the shape of its output without the batch."""

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
    """The sum of `layers`, as one layer called "total"."""
    layers = list(layers)
    return LayerCost(
        "total",
        kind="",
        output=(),
        bits=sum(layer.bits for layer in layers),
        real=sum(layer.real for layer in layers),
        binary=sum(layer.binary for layer in layers),
    )


@torch.inference_mode()
def measure(net: nn.Module, image: Tensor, repeat: int) -> dict[str, float]:
    """Milliseconds of each layer that `count` counts, by name.

    They are medians of `repeat` passes of `net` over `image` `[N, C, H, W]`, after a first pass. A
    layer's time ends when the next counted layer starts, so it includes the layers without
    parameters that follow it.
    """
    starts: list[tuple[str, float]] = []
    counted = _counted(net)
    hooks = [
        module.register_forward_pre_hook(_start_recorder(name, starts))
        for name, module in counted.items()
    ]
    spent: dict[str, list[float]] = {name: [] for name in counted}
    try:
        net.eval()(image)
        for _ in range(repeat):
            starts.clear()
            net(image)
            starts.append(("", perf_counter()))
            for (name, start), (_, end) in pairwise(starts):
                spent[name].append(1000 * (end - start))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: median(times) for name, times in spent.items()}


def _start_recorder(name: str, starts: list[tuple[str, float]]) -> Callable[..., None]:
    return lambda *_: starts.append((name, perf_counter()))


def count(net: nn.Module, shape: tuple[int, ...]) -> list[LayerCost]:
    """Costs of the layers of `net` that have parameters, in the order of a forward pass.

    The network runs once in eval mode on zeros, one input of `shape`, and is left as it was. Raises
    ValueError for a layer that cannot be counted.
    """
    _check_known(net)
    recorder = _Recorder({f"{name}.norm" for name in binary_layers(net)})
    counted = _counted(net)
    hooks = [m.register_forward_hook(recorder.hook(name)) for name, m in counted.items()]
    training = net.training
    device = next(net.parameters()).device
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape, device=device))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    if idle := counted.keys() - {layer.name for layer in recorder.found}:
        warnings.warn(
            f"not counted, since no input reaches it: {', '.join(sorted(idle))}", stacklevel=2
        )
    return recorder.found


def _counted(net: nn.Module) -> dict[str, nn.Module]:
    """The layers that are counted, by name; `Sums` stand for the convolutions that they hold."""
    found = {name: m for name, m in net.named_modules() if isinstance(m, COUNTED)}
    held = [f"{name}.conv" for name, module in found.items() if isinstance(module, Sums)]
    return {name: module for name, module in found.items() if name not in held}


def _check_known(net: nn.Module) -> None:
    """Raise ValueError for a layer with parameters whose cost is not known here."""
    for name, module in net.named_modules():
        parameters = list(module.parameters(recurse=False))
        if parameters and not isinstance(module, COUNTED):
            kind = type(module).__name__
            raise ValueError(f"layer {name} is a {kind}, whose cost is not known here")


class _Recorder:
    """Adds the cost of each layer to `found` when the layer is called."""

    def __init__(self, sign_norms: set[str]) -> None:
        self.found: list[LayerCost] = []
        self._sign_norms = sign_norms  # names of batch-norms in front of signs
        self._makers = Makers()  # layers into which a batch-norm can be folded

    def hook(self, name: str) -> Callable[..., None]:
        """A hook that adds the cost of the layer `name` after each of its calls."""

        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kind = next(kind for cls, kind in KINDS.items() if isinstance(module, cls))
            bits, real, binary = kind.cost(module, output)
            if any(layer.name == name for layer in self.found):
                bits = 0  # they were counted at its first call
            folds = name in self._sign_norms or self._makers.maker(inputs[0])
            if isinstance(module, nn.BatchNorm2d) and folds:
                real = 0
            shape = tuple(output.shape[1:])
            self.found.append(LayerCost(name, kind.name, shape, bits, real, binary))
            if kind.name != BINARY_KIND:
                self._makers.note(output, name)

        return record


class Counts(NamedTuple):
    """The cost of a layer that is not folded."""

    bits: int
    real: int  # multiplications of real numbers
    binary: int  # multiplications of bits


def _of_binary(layer: BinaryConv2d, output: Tensor) -> Counts:
    terms = layer.terms()
    kernels = distinct_signs(terms)
    scaled = sum(not bool((term.scale == 1).all()) for term in terms)
    bits = len(kernels) * kernels[0].numel()
    if layer.bias is not None:
        bits += REAL_BITS * layer.bias.numel()
    real = output.numel() * scaled
    if layer.input_scale:
        real += output.numel() + output[0, 0].numel()
    weights_per_value = kernels[0][0].numel()
    return Counts(bits, real, len(terms) * output.numel() * weights_per_value)


def _of_sums(layer: Sums, output: Tensor) -> Counts:
    """The sums of a binary layer, without a scale."""
    return _of_binary(layer.conv, output)._replace(real=0)


def _of_real(layer: nn.Conv2d | nn.Linear, output: Tensor) -> Counts:
    return Counts(_bits(layer), output.numel() * layer.weight[0].numel(), 0)


def _of_bytes(layer: WholeConv | Stem, output: Tensor) -> Counts:
    """As a real layer, with weights of 8 bits."""
    saved = (REAL_BITS - BYTE_BITS) * layer.weight.numel()
    return Counts(_bits(layer) - saved, output.numel() * layer.weight[0].numel(), 0)


def _of_channels(layer: nn.Module, output: Tensor) -> Counts:
    """A factor for each channel."""
    return Counts(_bits(layer), output.numel(), 0)


def _of_threshold(layer: Shift, output: Tensor) -> Counts:
    return Counts(_bits(layer), 0, 0)


def _of_correlation(layer: Correlation, output: Tensor) -> Counts:
    assert layer.fixed is not None  # for the type checker
    return Counts(0, output.numel() * layer.fixed.shape[1], 0)


def _bits(layer: nn.Module) -> int:
    """Bits of a layer's own parameters as real numbers."""
    return REAL_BITS * sum(parameter.numel() for parameter in layer.parameters(recurse=False))


class Kind(NamedTuple):
    """A kind of layer: its name, and the function that counts its cost."""

    name: str
    cost: Callable[[Any, Tensor], Counts]


KINDS: dict[type[nn.Module], Kind] = {  # subclasses stand before their bases
    BinaryConv2d: Kind(BINARY_KIND, _of_binary),
    Sums: Kind(BINARY_KIND, _of_sums),
    WholeConv: Kind("8-bit convolution", _of_bytes),
    Stem: Kind("8-bit convolution", _of_bytes),
    nn.Conv2d: Kind("convolution", _of_real),
    nn.Linear: Kind("linear", _of_real),
    nn.BatchNorm2d: Kind("batch-norm", _of_channels),
    Shift: Kind("threshold", _of_threshold),
    Slope: Kind("PReLU", _of_channels),
    nn.PReLU: Kind("PReLU", _of_channels),
    Correlation: Kind("correlation", _of_correlation),
}
COUNTED = tuple(KINDS)
