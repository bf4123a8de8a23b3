"""Correlation of signs: a template is used as one binary filter over features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbsf.engine.bit_layout import Packed, layout
from rbsf.engine.cpu import choose_isa, native
from rbsf.engine.kernel import Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits


def correlate_signs(template: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that correlates the signs of features with those of `template` `[C, K, K]`.

    The function takes features `[N, C, H, W]` and returns float32 `[N, H - K + 1, W - K + 1]`,
    computed by XOR and popcount; sign(0) is +1. It raises ValueError for NaN and for features that
    do not fit.
    """
    channels, size, _ = template.shape
    rows = template.transpose(1, 2, 0).reshape(1, -1)
    weight = np.packbits(rows >= 0, axis=1, bitorder="little")
    window = {"kernel": size, "stride": 1, "padding": 0, "groups": 1}
    geometry = window | {"channels": channels, "border": -1}
    node = Node("template", "conv_bits", ("features",), geometry, {"weight": weight})
    isa = choose_isa()
    read = Packed(layout(channels, 1, 1), 0, -1, np.zeros(channels, bool))
    sums = Map((1, 1, 1), "whole", channels * size**2)
    kernel = None
    if isa != "numpy":
        kernel = conv_bits.packed_kernel(node, read, sums, Target(native, isa, 1))

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
