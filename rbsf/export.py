"""From a trained network to a packed file of `rbsf.engine`: the only bridge from PyTorch to the engine.

What stands between two convolutions is, for each channel, an affine map (scale, batch-norm), max-pooling where there
is one, a second affine map (the batch-norm in front of the sign), and the sign. All of it becomes one integer threshold
on the convolution's sum: the bit is 1 where the sum reaches it. Scales that are not positive are dealt with here, so
that the engine knows none: the channel's weights are negated, or, where a map is pooled before its sign is turned
round, its bits are inverted and with them the weights that read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbsf.engine.packed import Layer, write_packed
from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.models.alexnet import ConvBlock

FIRST_MAX = 63  # of the first layer's weights, 7 bits: the sum of two products with uint8 pixels fits 16 bits
INT32 = np.iinfo(np.int32)


def export_packed(net: nn.Module, model: str, path: str | Path, info: dict[str, Any]) -> None:
    """Write `net`, called `model`, as a packed file with `info` in it; ValueError, OSError as the parts raise them."""
    write_packed(path, model, export_layers(net), info)


def export_layers(net: nn.Module) -> list[Layer]:
    """Layers of the packed engine for a 1-bit SiamFC backbone (`rbsf.models.alexnet` with binary convolutions).

    Everything folds in float64. The first layer is rounded to 7 bits a weight: see `quantise_first`. ValueError,
    naming the layer, for a network that has no packed form.
    """
    blocks = _blocks(net)
    layers, inverted = [], np.zeros(3, bool)
    for (name, block), following in zip(blocks, [*blocks[1:], None], strict=True):
        layer, inverted = _export(name, block, following[1] if following else None, inverted)
        layers.append(layer)
    return layers


def quantise_first(net: nn.Module) -> None:
    """Round the first convolution of `net`, in place, to the weights that its packed form has: whole multiples, from
    -63 to 63, of 1/63 of the largest of each filter.
    """
    conv = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    weight, step = _quantise(conv)
    conv.weight.data.copy_(torch.from_numpy(weight * step[:, None, None, None]))


def _quantise(conv: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """Whole weights [O, I, k, k] and their steps [O], both float64; the step of a filter of zeros is 1."""
    weight = _numpy(conv.weight)
    step = np.abs(weight).max((1, 2, 3)) / FIRST_MAX
    step[step == 0] = 1
    return np.rint(weight / step[:, None, None, None]), step


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
    scale = _numpy(norm.weight) / np.sqrt(_numpy(norm.running_var) + norm.eps)  # type: ignore[arg-type]
    return _Affine(scale, _numpy(norm.bias) - scale * _numpy(norm.running_mean))  # type: ignore[arg-type]


def _export(name: str, block: ConvBlock, following: ConvBlock | None, inverted: np.ndarray) -> tuple[Layer, np.ndarray]:
    """The packed layer of `block`, and which of its output channels hold the inverse of their bits.

    `inverted` says the same of its input.
    """
    conv, pool = block.conv, isinstance(block.pool, nn.MaxPool2d)
    weight, scale = _weights(conv, inverted)
    outer = _Affine(scale, _bias(conv)).then(_affine(block.norm, conv.out_channels))
    geometry: dict[str, Any] = {
        "name": f"{name}.conv",
        "kernel": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": int(conv.padding[0]),
        "groups": conv.groups,
        "inputs": conv.in_channels,
        "outputs": conv.out_channels,
        "pool": pool,
    }
    if following is None:
        layer = Layer(
            kind="conv_bits_real",
            weight=_pack(weight),
            scale=outer.scale.astype(np.float32),
            bias=outer.bias.astype(np.float32),
            **geometry,
        )
        return layer, np.zeros(conv.out_channels, bool)
    inner = _affine(following.conv.norm, conv.out_channels)  # type: ignore[arg-type]
    threshold, negated, inverse = _fold(outer, inner, pool)
    if inverse.any() and any(following.conv.padding):
        raise ValueError(
            f"no packed form: layer {name} is pooled before a negative batch-norm and a padded convolution"
        )
    weight[negated] *= -1
    kind, packed = ("conv_bits", _pack(weight)) if isinstance(conv, BinaryConv2d) else ("conv_u8", _whole(weight))
    return Layer(kind=kind, weight=packed, threshold=threshold, **geometry), inverse


def _fold(outer: _Affine, inner: _Affine, pool: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds [C] of the sums, which channels' weights to negate, and which bits come out inverted.

    The bit of the network is ``inner(max(outer(sums))) >= 0``, the packed one ``any(+-sums >= threshold)``.
    """
    inverse = pool & (inner.scale < 0)  # the largest value decides, and has to stay below a limit
    whole = outer.then(inner)
    negated = (whole.scale < 0) ^ inverse
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = -whole.bias / np.abs(whole.scale)  # `>= limit` of the sums, negated where the scale is below 0
        threshold = np.where(inverse, np.floor(-limit) + 1, np.ceil(limit))  # inverse: not `<= -limit`
    constant = np.where((whole.bias >= 0) ^ inverse, INT32.min, INT32.max)
    threshold = np.where(whole.scale == 0, constant, np.clip(threshold, INT32.min, INT32.max))
    return threshold.astype(np.int32), negated, inverse


def _weights(conv: nn.Conv2d, inverted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole weights [O, I/g, k, k] of a layer whose `inverted` inputs are the inverse of their bits, and scales [O]."""
    if not isinstance(conv, BinaryConv2d):
        return _quantise(conv)
    signs = np.where(_numpy(conv.weight) >= 0, 1.0, -1.0)
    grouped = signs.reshape(conv.groups, -1, *signs.shape[1:])  # [g, O/g, I/g, k, k]
    flips = np.where(inverted, -1.0, 1.0).reshape(conv.groups, 1, -1, 1, 1)
    return (grouped * flips).reshape(signs.shape), _numpy(conv.scale())


def _bias(conv: nn.Conv2d) -> np.ndarray:
    return np.zeros(conv.out_channels) if conv.bias is None else _numpy(conv.bias)


def _pack(weight: np.ndarray) -> np.ndarray:
    """Bits of signs [O, I/g, k, k], uint8 [O, bytes], channels last."""
    return np.packbits(weight.transpose(0, 2, 3, 1).reshape(len(weight), -1) > 0, axis=1, bitorder="little")


def _whole(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1).astype(np.int8))  # [O, k, k, I]


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


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
    if len({*conv.kernel_size}) > 1 or len({*conv.stride}) > 1 or len({*conv.padding}) > 1 or {*conv.dilation} != {1}:
        return f"has kernel {conv.kernel_size}, stride {conv.stride}, padding {conv.padding}, dilation {conv.dilation}"
    if first and (conv.padding[0] or conv.groups > 1):
        return f"is the first and has padding {conv.padding} and {conv.groups} groups; it can have neither"
    if isinstance(pool, nn.MaxPool2d):
        if last:
            return "is the last and pooled; its output is real"
        if (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) != (3, 2, 0, 1, False):
            return f"is pooled by {pool}, not 3 x 3 with stride 2"
    return ""
