"""The threshold of a sign behind a scale and a bias, by hand and by trying values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rbsf.engine.fusions.to_bits import POOLED
from rbsf.engine.node import Node
from rbsf.export.fold import threshold_of_real, threshold_of_whole, with_thresholds

LOW, HIGH = -(2**31), 2**31 - 1


def bits_of(sign, x):
    """The bits `[N, C]` of values `[N]`."""
    return (x[:, None] >= sign["threshold"]) ^ (sign.get("flip", 0) > 0)


@pytest.mark.parametrize(
    ("scale", "bias", "threshold", "flip"),
    [
        (2.0, -3.0, 2, False),  # 2 x >= 3 from x = 2
        (2.0, -4.0, 2, False),  # at the threshold itself the bit is 1
        (2.0, 5.0, -2, False),
        (-2.0, 5.0, 3, True),  # -2 x + 5 >= 0 up to x = 2
        (-2.0, 4.0, 3, True),
        (0.0, 0.0, LOW, False),  # constant +1
        (0.0, -1.0, HIGH, False),
        (1e-9, -1e9, HIGH, False),
        (1e-9, 1e9, LOW, False),
        (-1e-9, 1e9, HIGH, True),
        (5e-324, 1.0, LOW, False),  # the limit is infinite
        (-5e-324, -1.0, LOW, True),
    ],
)
def test_thresholds_of_whole_numbers_are_those_by_hand(scale, bias, threshold, flip):
    got = threshold_of_whole(np.array([scale]), np.array([bias]))
    assert got["threshold"].dtype == np.int32
    assert ([*got["threshold"]], [*got.get("flip", [0])]) == ([threshold], [flip])


def test_thresholds_of_whole_numbers_hold_for_all_of_them():
    scales = np.array([-2, -1.5, -1, -0.125, -(2.0**-40), 0, 2.0**-40, 0.125, 0.75, 1, 2])
    scale, bias = (a.ravel() for a in np.meshgrid(scales, np.arange(-80, 81) / 8))
    x = np.arange(-90, 91)
    np.testing.assert_array_equal(
        bits_of(threshold_of_whole(scale, bias), x), scale * x[:, None] + bias >= 0
    )


@pytest.mark.parametrize(
    ("scale", "bias", "threshold", "flip"),
    [
        (2.0, -3.0, 1.5, False),
        (-2.0, 3.0, np.nextafter(np.float32(1.5), np.float32(2)), True),
        # Float32's 0.1 is larger than float64's.
        (
            1.0,
            -0.1,
            np.nextafter(np.float32(0.1), np.float32(0)) + np.float32(2**-27),
            False,
        ),
        (0.0, 0.0, -np.inf, False),
        (0.0, -1.0, np.inf, False),
        (1e-300, 1.0, -np.inf, False),
        (-1e-300, -1.0, -np.inf, True),
    ],
)
def test_thresholds_of_real_numbers_are_those_by_hand(scale, bias, threshold, flip):
    got = threshold_of_real(np.array([scale]), np.array([bias]))
    assert got["threshold"].dtype == np.float32
    assert ([*got["threshold"]], [*got.get("flip", [0])]) == ([threshold], [flip])


def exact_bit(scale, bias, x):
    return Fraction(scale) * Fraction(float(x)) + Fraction(bias) >= 0


@pytest.mark.parametrize("tie", [False, True])
def test_thresholds_of_real_numbers_hold_for_their_neighbours(tie):
    rng = np.random.default_rng(0)
    scale, limit = rng.normal(size=(2, 300)).astype(np.float32).astype(np.float64)
    scale *= rng.choice([1.0, 2.0**-60, 2.0**60], 300)
    scale[::50] = 0
    bias = -scale * limit if tie else -scale * limit + rng.normal(size=300) * 1e-8 * np.abs(scale)
    signs = threshold_of_real(scale, bias)
    for channel, near in enumerate(limit.astype(np.float32)):
        below, above = (np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf))
        x = np.array([below, near, above, 0, -3e38, 3e38], np.float32)
        expected = [exact_bit(scale[channel], bias[channel], value) for value in x]
        assert bits_of(signs, x)[:, channel].tolist() == expected


@pytest.mark.parametrize(
    ("outer", "weight", "threshold"),
    [
        ((1.0, 0.0), 1, 3),  # -max(x) + 2 >= 0 unless some x >= 3
        ((-1.0, 0.0), -1, 3),  # the largest of -x, with negated weights
        ((1.0, 0.5), 1, 2),  # x + 0.5 <= 2 up to x = 1
    ],
)
def test_a_sign_that_is_flipped_after_pooling_has_its_threshold(outer, weight, threshold):
    geometry = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "channels": 1, "bits": 8}
    scale, bias = np.array(outer)[:, None]
    nodes = [
        Node("image", "input"),
        Node("conv", "conv_u8", ("image",), geometry, {"weight": np.ones((1, 1, 1, 1), np.int8)}),
        Node("norm", "affine", ("conv",), {}, {"scale": scale, "bias": bias}),
        Node("pool", "max_pool", ("norm",), POOLED),
        Node("sign", "sign", ("pool",), {}, {"scale": np.array([-1.0]), "bias": np.array([2.0])}),
    ]
    _, conv, _, sign = with_thresholds(nodes)
    assert conv.tensors["weight"].item() == weight
    got = threshold_of_whole(**sign.tensors)
    assert ([*got["threshold"]], [*got["flip"]]) == ([threshold], [1])
