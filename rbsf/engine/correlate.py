"""Correlation of signs: a template as one binary filter over features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbsf.engine.cpu import choose_isa, native
from rbsf.engine.kernel import Target
from rbsf.engine.layout import Packed, layout
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits


def correlate_signs(template: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function of features (N, C, H, W) that correlates their signs with those of `template` (C,
    K, K), sign(0) = +1: (N, H - K + 1, W - K + 1), float32, by XOR and popcount.  It raises
    ValueError for NaN and features that do not fit.
    """
    channels, size, _ = template.shape
    bits = np.packbits(template.transpose(1, 2, 0).reshape(1, -1) >= 0, axis=1, bitorder="little")
    geometry = {
        "kernel": size,
        "stride": 1,
        "padding": 0,
        "groups": 1,
        "channels": channels,
        "border": -1,
    }
    node = Node("template", "conv_bits", ("features",), geometry, {"weight": bits})
    isa = choose_isa()
    read = Packed(layout(channels, 1, 1), 0, -1, np.zeros(channels, bool))
    sums = Map((1, 1, 1), "whole", channels * size**2)
    kernel = (
        conv_bits.packed_kernel(node, read, sums, Target(native, isa, 1))
        if isa != "numpy"
        else None
    )

    def correlate(features: np.ndarray) -> np.ndarray:
        n, *found, height, width = features.shape
        if found != [channels] or min(height, width) < size or np.isnan(features).any():
            expected = f"(N, {channels}, H, W) from {size} x {size} up, none of them NaN"
            raise ValueError(f"features {features.shape}: expected numbers {expected}")
        bits = features.transpose(0, 2, 3, 1) >= 0
        if kernel is None:
            return conv_bits.reference(node, bits)[..., 0].astype(np.float32)
        out = np.empty((n, height - size + 1, width - size + 1, 1), sums.dtype)
        kernel.run([np.ascontiguousarray(read.pack(bits))], out, [])
        return out[..., 0].astype(np.float32)

    return correlate
