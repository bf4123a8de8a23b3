"""What a packed network computes, in plain NumPy: the oracle of the kernels, and the engine without a compiler.

Maps are [N, H, W, C]; bits are uint8 0 or 1.  Sums are exact: BLAS adds integers below 2^24 in float32, or below 2^53
in float64, without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rbsf.engine.packed import Layer, PackedModel


def forward(model: PackedModel, crops: np.ndarray) -> np.ndarray:
    """Pixels uint8 [N, S, S, 3] to features float32 [N, C, H, W]."""
    return list(layer_outputs(model, crops))[-1]


def layer_outputs(model: PackedModel, crops: np.ndarray) -> Iterator[np.ndarray]:
    """After every layer, in turn: bits uint8 [N, C, H, W], pooled where the layer pools; float32 after the last."""
    x = crops
    for layer in model.layers:
        sums = conv_u8(x, layer) if layer.kind == "conv_u8" else conv_bits(x, layer)
        x = scaled(sums, layer) if layer.kind == "conv_bits_real" else threshold(sums, layer)
        x = pool_or(x) if layer.pool else x
        yield np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def conv_u8(pixels: np.ndarray, layer: Layer) -> np.ndarray:
    """Pixels uint8 [N, H, W, I] to sums int32 [N, H', W', O]."""
    return _convolve(pixels, layer.whole, layer, largest=255 * 127)


def conv_bits(bits: np.ndarray, layer: Layer) -> np.ndarray:
    """Bits 0 or 1 [N, H, W, I] to sums of +-1 products, int32 [N, H', W', O]."""
    pad = layer.padding
    bits = np.pad(bits, ((0, 0), (pad, pad), (pad, pad), (0, 0)))  # 0 is -1
    weight = np.unpackbits(layer.weight, axis=1, count=layer.products, bitorder="little")
    return _convolve(bits.astype(np.int8) * 2 - 1, weight.astype(np.int8) * 2 - 1, layer, largest=1)


def _convolve(x: np.ndarray, weight: np.ndarray, layer: Layer, largest: int) -> np.ndarray:
    """Integers [N, H, W, I] with rows of weights [O, k * k * I/g]; `largest` product of two."""
    exact = np.float32 if layer.products * largest < 1 << 24 else np.float64
    k, step, groups, width = layer.kernel, layer.stride, layer.groups, layer.inputs // layer.groups
    weight = weight.astype(exact).reshape(groups, layer.outputs // groups, -1)
    sums = []
    for image in x:
        windows = sliding_window_view(image, (k, k), (0, 1))[::step, ::step]  # [H', W', I, k, k]
        windows = windows.transpose(0, 1, 3, 4, 2).astype(exact)  # [H', W', k, k, I]
        parts = [
            windows[..., g * width : (g + 1) * width].reshape(*windows.shape[:2], -1) @ weight[g].T
            for g in range(groups)
        ]
        sums.append(np.concatenate(parts, 2))  # [H', W', O]
    return np.stack(sums).astype(np.int32)


def threshold(sums: np.ndarray, layer: Layer) -> np.ndarray:
    """Sums [N, H, W, O] to bits."""
    assert layer.threshold is not None  # the model is checked; this is for the type checker
    return (sums >= layer.threshold).astype(np.uint8)


def scaled(sums: np.ndarray, layer: Layer) -> np.ndarray:
    """Sums [N, H, W, O] to scale * sums + bias, float32."""
    assert layer.scale is not None  # as above
    assert layer.bias is not None
    return sums.astype(np.float32) * layer.scale + layer.bias


def pool_or(bits: np.ndarray) -> np.ndarray:
    """Max-pooling 3 x 3 with stride 2 of bits [N, H, W, C]."""
    return sliding_window_view(bits, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))
