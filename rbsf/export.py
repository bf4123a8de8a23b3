"""From a trained network to a packed file of `rbsf.engine`: the only bridge from PyTorch to the engine.

What stands between two convolutions is, for each channel, an affine map (scale, batch-norm), max-pooling where there
is one, a second affine map (the batch-norm in front of the sign), and the sign. All of it becomes one integer threshold
on the convolution's sum: the bit is 1 where the sum reaches it. Scales that are not positive are dealt with here, so
that the engine knows none: the channel's weights are negated, or, where a map is pooled before its sign is turned
round, its bits are inverted and with them the weights that read them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rbsf.engine.packed import Layer, pack_whole, write_packed
from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.models.alexnet import ConvBlock
from rbsf.node_forms import bias_of, pack_kernels, to_numpy
from rbsf.rounding import round_weights
from rbsf.weights import load_weights

FIRST_BITS = 7  # of the first layer's weights: the sum of two products with uint8 pixels fits 16 bits
INT32 = np.iinfo(np.int32)


def export_packed(
    net: nn.Module, model: str, path: str | Path, info: dict[str, Any], first_bits: int = FIRST_BITS
) -> None:
    """Write `net`, called `model`, as a packed file with `info` in it; ValueError, OSError as the parts raise them."""
    write_packed(path, model, export_layers(net, first_bits), info)


def pack_weights(source: str | Path, target: str | Path, first_bits: int = FIRST_BITS) -> nn.Module:
    """Write the 1-bit network of the weights file `source` as a packed file; returns it as packed, first layer rounded.

    The packed file's info is that of `source`, and what it was made from and with. `first_bits`: of a weight of the
    first layer, see `quantise_first`. Errors: as `export_packed` and `load_weights` have them.
    """
    net, model, info = load_weights(source)
    quantise_first(net, first_bits)
    info |= {
        "architecture": type(net).__name__,
        "source": Path(source).name,
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        "export": {"torch": torch.__version__, "numpy": np.__version__},
    }
    export_packed(net, model, target, info, first_bits)
    return net


def export_layers(net: nn.Module, first_bits: int = FIRST_BITS) -> list[Layer]:
    """Layers of the packed engine for a 1-bit SiamFC backbone (`rbsf.models.alexnet` with binary convolutions).

    Everything folds in float64. The first layer is rounded to `first_bits` a weight: see `quantise_first`. ValueError,
    naming the layer, for a network that has no packed form.
    """
    check_first_bits(first_bits)
    blocks = _blocks(net)
    layers, inverted = [], np.zeros(3, bool)
    for (name, block), following in zip(blocks, [*blocks[1:], None], strict=True):
        layer, inverted = _export(name, block, following[1] if following else None, inverted, first_bits)
        layers.append(layer)
    return layers


def check_first_bits(bits: int) -> None:
    """ValueError where the first layer's weights cannot have so many bits."""
    if not 2 <= bits <= FIRST_BITS:
        raise ValueError(f"first_bits={bits}: the first layer's weights have 2 to {FIRST_BITS} bits")


def quantise_first(net: nn.Module, bits: int = FIRST_BITS) -> None:
    """Give `net`, in place, the first layer that its packed form has.

    Its weights become whole multiples, from -63 to 63, of 1/63 of the largest of each filter; where they have fewer
    `bits` than 7, multiples up to 2^(bits-1) - 1 of a step that is chosen for each filter (`rbsf.rounding`). Then every
    sum is a whole number of steps, and the batch-norm's bias is moved by less than a step so that the threshold lies
    midway between two sums: no output changes, and float32's rounding cannot carry a sum across. ValueError as in
    `export_layers`.
    """
    check_first_bits(bits)
    (_, block), (_, following) = _blocks(net)[:2]
    conv, norm = block.conv, block.norm
    whole, step = _quantise(conv, bits)
    conv.weight.data.copy_(torch.from_numpy(whole * step[:, None, None, None]))
    if not isinstance(norm, nn.BatchNorm2d):
        return
    outer = _Affine(step, bias_of(conv)).then(_affine(norm, len(step)))
    inner = _affine(cast(BinaryConv2d, following.conv).norm, len(step))
    inverse, both = _inverse(block, inner), outer.then(inner)
    threshold, _ = _fold(outer, inner, inverse)
    middle = np.where(inverse, 1, -1) * np.abs(both.scale) * (threshold - 0.5)  # bias of a map that is 0 there
    movable = (both.scale != 0) & (threshold > INT32.min) & (threshold < INT32.max)
    moved = np.divide(middle - both.bias, inner.scale, where=movable, out=np.zeros_like(middle))
    norm.bias.data.add_(torch.from_numpy(moved))


def _quantise(conv: nn.Conv2d, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole weights [O, I, k, k] and their steps [O], both float64; the step of a filter of zeros is 1."""
    weight = to_numpy(conv.weight)
    if bits < FIRST_BITS:
        return round_weights(weight, bits)
    step = np.abs(weight).max((1, 2, 3)) / (2 ** (bits - 1) - 1)
    step[step == 0] = 1
    return np.rint(weight / step[:, None, None, None]), step


@torch.inference_mode()
def torch_outputs(net: nn.Module, crops: np.ndarray) -> list[np.ndarray]:
    """What `Engine.layer_outputs` gives for crops uint8 [N, S, S, 3], computed by the torch network in its own dtype.

    Bits uint8 [N, C, H, W] after every layer, inverted where the packed ones are; float32 after the last.
    """
    blocks = [block for _, block in _blocks(net)]
    x, outputs = torch.from_numpy(crops).permute(0, 3, 1, 2).to(next(net.parameters())), []
    for block, following in pairwise(blocks):
        x, norm = block(x), cast(BinaryConv2d, following.conv).norm
        inverse = _inverse(block, _affine(norm, x.shape[1]))
        outputs.append(((norm(x) >= 0).numpy() ^ inverse[:, None, None]).astype(np.uint8))
    return [*outputs, blocks[-1](x).float().numpy()]


@dataclass(frozen=True)
class _Affine:
    """y = scale * x + bias for each channel, float64 [C]."""

    scale: np.ndarray
    bias: np.ndarray

    def then(self, other: _Affine) -> _Affine:
        return _Affine(self.scale * other.scale, self.bias * other.scale + other.bias)


def _affine(norm: nn.Module, channels: int) -> _Affine:
    """A batch-norm in eval mode, or nothing."""
    if not isinstance(norm, nn.BatchNorm2d):
        return _Affine(np.ones(channels), np.zeros(channels))
    scale = to_numpy(norm.weight) / np.sqrt(to_numpy(norm.running_var) + norm.eps)  # type: ignore[arg-type]
    return _Affine(scale, to_numpy(norm.bias) - scale * to_numpy(norm.running_mean))  # type: ignore[arg-type]


def _export(
    name: str, block: ConvBlock, following: ConvBlock | None, inverted: np.ndarray, first_bits: int
) -> tuple[Layer, np.ndarray]:
    """The packed layer of `block`, and which of its output channels hold the inverse of their bits.

    `inverted` says the same of its input.
    """
    conv, pool = block.conv, isinstance(block.pool, nn.MaxPool2d)
    weight, scale = _signs(conv, inverted) if isinstance(conv, BinaryConv2d) else _quantise(conv, first_bits)
    outer = _Affine(scale, bias_of(conv)).then(_affine(block.norm, conv.out_channels))
    geometry = _geometry(f"{name}.conv", conv)
    if following is None:
        return _real_layer(weight, outer, geometry), np.zeros(conv.out_channels, bool)
    inner = _affine(cast(BinaryConv2d, following.conv).norm, conv.out_channels)
    inverse = _inverse(block, inner)
    threshold, negated = _fold(outer, inner, inverse)
    if inverse.any() and any(following.conv.padding):
        raise ValueError(
            f"no packed form: layer {name} is pooled before a negative batch-norm and a padded convolution"
        )
    weight[negated] *= -1
    form: Any = {"threshold": threshold, "pool": pool, **geometry}
    if isinstance(conv, BinaryConv2d):
        return Layer(kind="conv_bits", weight=pack_kernels(weight), **form), inverse
    whole = weight.transpose(0, 2, 3, 1).astype(np.int8)  # [O, k, k, I]
    if first_bits == FIRST_BITS:  # the oldest form: a byte a weight
        return Layer(kind="conv_u8", weight=np.ascontiguousarray(whole), **form), inverse
    return Layer(kind="conv_u8", weight=pack_whole(whole, first_bits), bits=first_bits, **form), inverse


def _geometry(name: str, conv: nn.Conv2d) -> dict[str, Any]:
    return {
        "name": name,
        "kernel": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": int(conv.padding[0]),
        "groups": conv.groups,
        "inputs": conv.in_channels,
        "outputs": conv.out_channels,
    }


def _real_layer(weight: np.ndarray, affine: _Affine, geometry: dict[str, Any]) -> Layer:
    scale, bias = affine.scale.astype(np.float32), affine.bias.astype(np.float32)
    return Layer(kind="conv_bits_real", weight=pack_kernels(weight), pool=False, scale=scale, bias=bias, **geometry)


def _inverse(block: ConvBlock, inner: _Affine) -> np.ndarray:
    """Which channels' bits come out inverted: where the largest value of a pool decides, and has to stay *below* a
    limit, the packed bit says that it does not.
    """
    return (inner.scale < 0) & isinstance(block.pool, nn.MaxPool2d)


def _fold(outer: _Affine, inner: _Affine, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C] of the sums, and which channels' weights to negate.

    The bit of the network is ``inner(max(outer(sums))) >= 0``, the packed one ``any(+-sums >= threshold)``, or its
    inverse.
    """
    whole = outer.then(inner)
    negated = (whole.scale < 0) ^ inverse
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = -whole.bias / np.abs(whole.scale)  # `>= limit` of the sums, negated where the scale is below 0
        threshold = np.where(inverse, np.floor(-limit) + 1, np.ceil(limit))  # inverse: not `<= -limit`
    constant = np.where((whole.bias >= 0) ^ inverse, INT32.min, INT32.max)
    threshold = np.where(whole.scale == 0, constant, np.clip(threshold, INT32.min, INT32.max))
    return threshold.astype(np.int32), negated


def _signs(conv: BinaryConv2d, inverted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signs [O, I/g, k, k] of a layer whose `inverted` inputs are the inverse of their bits, and scales [O]."""
    signs = np.where(to_numpy(conv.weight) >= 0, 1.0, -1.0)
    grouped = signs.reshape(conv.groups, -1, *signs.shape[1:])  # [g, O/g, I/g, k, k]
    flips = np.where(inverted, -1.0, 1.0).reshape(conv.groups, 1, -1, 1, 1)
    return (grouped * flips).reshape(signs.shape), to_numpy(conv.scale())


def _blocks(net: nn.Module) -> list[tuple[str, ConvBlock]]:
    """The blocks of `net` by name; ValueError where it is no chain of them that has a packed form."""
    blocks = [(name, module) for name, module in net.named_modules() if isinstance(module, ConvBlock)]
    strays = {name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)} - {f"{n}.conv" for n, _ in blocks}
    if not blocks or strays:
        raise ValueError(
            f"no packed form: {', '.join(sorted(strays)) or 'the network'} is no block of SiamFC's AlexNet"
        )
    if not binary_layers(net):
        raise ValueError("no packed form: the network has no binary convolution; train --model rbsf or xnor")
    for position, (name, block) in enumerate(blocks):
        if reason := _misfit(block, position == 0, position == len(blocks) - 1):
            raise ValueError(f"no packed form: layer {name} {reason}")
    return blocks


def _misfit(block: ConvBlock, first: bool, last: bool) -> str:
    """Why `block` cannot be packed, empty where it can."""
    conv, pool = block.conv, block.pool
    binary = isinstance(conv, BinaryConv2d)
    if first is binary:
        return "is the first and binary; it takes pixels" if first else "is not the first and has a real convolution"
    if not isinstance(block.relu, nn.Identity):
        return "has a ReLU, after which the sign of everything is +1"
    if reason := _uneven(conv):
        return reason
    if first and (conv.padding[0] or conv.groups > 1):
        return f"is the first and has padding {conv.padding} and {conv.groups} groups; it can have neither"
    if isinstance(pool, nn.MaxPool2d):
        if last:
            return "is the last and pooled; its output is real"
        if (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) != (3, 2, 0, 1, False):
            return f"is pooled by {pool}, not 3 x 3 with stride 2"
    return ""


def _uneven(conv: nn.Conv2d) -> str:
    """What keeps `conv` from being described by one number each, empty where nothing does."""
    if len({*conv.kernel_size}) > 1 or len({*conv.stride}) > 1 or len({*conv.padding}) > 1 or {*conv.dilation} != {1}:
        return f"has kernel {conv.kernel_size}, stride {conv.stride}, padding {conv.padding}, dilation {conv.dilation}"
    return ""
