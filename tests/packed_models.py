"""Packed networks of random weights, for the tests of the engine."""

from __future__ import annotations

import numpy as np

from rbsf.engine.packed import Layer, PackedModel

# kernel, stride, padding, groups, inputs, outputs, pool
RBSF = [
    (11, 2, 0, 1, 3, 96, True),
    (5, 1, 0, 2, 96, 256, True),
    (3, 1, 0, 1, 256, 384, False),
    (3, 1, 0, 2, 384, 384, False),
    (3, 1, 0, 2, 384, 256, False),
]
ENDS = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 2**31 - 2], np.int64)


def random_layer(rng: np.random.Generator, kind: str, name: str, shape: tuple) -> Layer:
    """A layer of random weights; thresholds are within the range of its sums, at its ends, and far beyond."""
    kernel, _, _, groups, inputs, outputs, _ = shape
    products = kernel**2 * (inputs // groups)
    if kind == "conv_u8":
        weight, spread = rng.integers(-63, 64, (outputs, kernel, kernel, inputs)).astype(np.int8), 5000 * products**0.5
    else:
        bits = rng.integers(0, 2, (outputs, products), np.uint8)
        weight, spread = np.packbits(bits, axis=1, bitorder="little"), products**0.5
    if kind == "conv_bits_real":
        return Layer(kind, name, *shape, weight, None, *rng.normal(size=(2, outputs)).astype(np.float32))
    ends = np.concatenate([ENDS, [-products - 1, -products, -products + 1, products, products - 1, products + 1]])
    threshold = np.where(rng.random(outputs) < 0.3, rng.choice(ends, outputs), rng.normal(0, spread, outputs).round())
    return Layer(kind, name, *shape, weight, threshold.astype(np.int32))


def random_model(seed: int, shapes: list[tuple] = RBSF) -> PackedModel:
    """A network of layers of the given shapes."""
    rng = np.random.default_rng(seed)
    kinds = ["conv_u8", *["conv_bits"] * (len(shapes) - 2), "conv_bits_real"]
    names = [f"conv{i}" for i in range(1, len(shapes) + 1)]
    layers = [random_layer(rng, *layer) for layer in zip(kinds, names, shapes, strict=True)]
    return PackedModel("rbsf", tuple(layers), {"seed": seed})
