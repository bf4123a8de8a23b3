"""The engine's extension refuses what `Engine` never passes to it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from engines import needs_kernels, pixels
from packed_models import random_conv, random_sign

from rbsf.engine.bit_layout import Packed, kernel_arguments, layout
from rbsf.engine.cpu import native
from rbsf.engine.kernel import Target
from rbsf.engine.ops import conv_bits
from rbsf.engine.ops.conv_u8 import unpack_whole


def two_convs() -> tuple[list[Any], list[np.ndarray]]:
    """A first layer that pools, a second one with real sums, and arrays that suit them."""
    rng = np.random.default_rng(0)
    first = random_conv(rng, "a", "image", (3, 2, 0, 1, 3, 20, True), of_pixels=True)
    second = random_conv(rng, "b", "bits", (3, 1, 1, 2, 20, 10, False))
    bits = Packed(layout(20, 1, 2), 1, second.attributes["border"], np.zeros(20, bool))
    rows = unpack_whole(first).view(np.uint8)
    more = {"thresholds": random_sign(rng, first, "a").tensors["threshold"]}
    real = {"scale": np.ones(10, np.float32), "bias": np.zeros(10, np.float32)}
    convs = [
        native.Conv(**kernel_arguments(first, rows, True, bits, "bits", **more, pool=True)),
        conv_bits.make_conv(second, bits, Target(native, "scalar", 1), "real", None, **real),
    ]
    features = np.zeros((2, 10, 7, 6), np.float32)
    return convs, [pixels(2, 31, 27, 3), bits.array(2, (7, 6, 20)), features]


def run_both(
    convs: list[Any], maps: list[np.ndarray], threads: int = 1, isa: str = "scalar"
) -> None:
    for conv, (source, target) in zip(convs, pairwise(maps), strict=True):
        native.conv(conv, source, target, threads, isa)


@needs_kernels
def test_kernels_check_their_arrays() -> None:
    convs, good = two_convs()
    crops, maps, features = good
    read_only = features.copy()
    read_only.flags.writeable = False
    bad = [
        [crops[:, :26], maps, features],
        [crops[:, :6], maps, features],
        [crops.astype(np.int8), maps, features],
        [crops, maps[..., ::-1], features],
        [crops, maps[:, :, :, :7], features],
        [crops, maps[:, 0], features],
        [crops, maps.view(np.int8), features],
        [crops, maps, features.astype(np.float64)],
        [crops, maps, features[:, :9]],
        [crops, maps, features.transpose(0, 2, 3, 1)],
        [crops, maps[:1], features],
        [np.concatenate([crops, crops]), maps, features],
        [crops[0], maps, features],
        [crops, maps, read_only],
    ]
    run_both(convs, good)
    for arrays in bad:
        with pytest.raises(ValueError):
            run_both(convs, arrays)
    for threads, isa in ((0, "scalar"), (10**6, "scalar"), (1, "none")):
        with pytest.raises(ValueError):
            run_both(convs, good, threads, isa)


@needs_kernels
@pytest.mark.parametrize(
    ("output", "channels", "kind"),
    [("sums8", 14, np.int8), ("sums16", 200, np.int16), ("sums", 200, np.int32)],
)
def test_kernels_check_where_they_write_sums(output: str, channels: int, kind: type) -> None:
    conv = random_conv(np.random.default_rng(0), "a", "x", (3, 1, 0, 1, channels, 5, False))
    read = Packed(layout(channels, 1, 1), 0, -1, np.zeros(channels, bool))
    made = conv_bits.make_conv(conv, read, Target(native, "scalar", 1), output)
    bits = read.pack(np.random.default_rng(1).integers(0, 2, (2, 6, 5, channels), np.uint8))
    bits, out = np.ascontiguousarray(bits), np.zeros((2, 4, 3, 5), kind)
    read_only = out.copy()
    read_only.flags.writeable = False
    others = [
        out.astype(other)
        for other in (np.int8, np.int16, np.int32, np.uint8, np.float32)
        if other != kind
    ]
    native.conv(made, bits, out, 1, "scalar")
    assert out.any()
    for wrong in (
        *others,
        read_only,
        out[:1],
        out[:, :3],
        out[..., :4],
        out[:, ::-1],
        out.transpose(0, 3, 1, 2),
    ):
        with pytest.raises(ValueError, match="output is"):
            native.conv(made, bits, wrong, 1, "scalar")


@needs_kernels
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "sum"}, "output is bits, real, sums, sums16 or sums8"),
        ({"output": "sums8"}, "sums do not fit 8 bits"),
        ({"output": "sums16", "products": 1 << 15}, "sums do not fit 16 bits"),
        ({"kernel": 0}, "a number of the geometry is out of range"),
        ({"stride": 0}, "a number of the geometry is out of range"),
        ({"bytes": 0}, "a number of the geometry is out of range"),
        ({"products": 0}, "a number of the geometry is out of range"),
        ({"outputs": 1 << 40}, "a number of the geometry is out of range"),
        ({"kernel": 1025}, "the kernel is too large"),
        ({"margin": 1 << 40}, "a number of the output map is out of range"),
        ({"group_blocks": []}, "a number of the geometry is out of range"),
        ({"group_blocks": [3, 0]}, "a group's number of blocks is out of range"),
        ({"group_blocks": [1, 2]}, "blocks do not fit the outputs"),
        ({"outputs": 23}, "outputs do not split into the groups"),
        ({"pixels": True}, "pixels go to bits, in one group"),
        ({"pool": True}, "only bits are pooled"),
        ({"scale": np.ones(24, np.float32)}, "scale and bias go with a real output"),
        ({"output": "real"}, "scale and bias go with a real output"),
        (
            {"output": "real", "scale": np.ones(24, np.float32)},
            "scale and bias go with a real output",
        ),
        (
            {"output": "real", "scale": np.ones(24), "bias": np.ones(24, np.float32)},
            "scale is float64",
        ),
        (
            {"output": "real", "scale": np.ones(24, np.float32), "bias": np.ones(23, np.float32)},
            "bias is float32",
        ),
        ({"weights": np.zeros((32, 17), np.uint8)}, "weights is uint8"),
        ({"weights": np.zeros((32, 18), np.int8)}, "weights is int8"),
        ({"thresholds": np.zeros(31, np.int32)}, "thresholds is int32"),
        ({"thresholds": np.zeros(32, np.int64)}, "thresholds is int64"),
        ({"output": "bits", "places": np.zeros((3, 2), np.int32)}, "places is int32"),
        ({"output": "bits", "places": np.zeros((4, 2), np.int64)}, "places is int64"),
        (
            {"output": "bits", "places": np.full((4, 2), 2, np.int32)},
            "a place is outside of the map",
        ),
        (
            {"output": "bits", "places": np.full((4, 2), -1, np.int32)},
            "a place is outside of the map",
        ),
    ],
)
def test_kernels_check_what_a_convolution_is(changes: dict[str, Any], message: str) -> None:
    """24 filters of 15 channels in two groups have 135 products and two blocks of 8 each."""
    conv = random_conv(np.random.default_rng(0), "a", "x", (3, 1, 0, 2, 30, 24, False))
    read = Packed(layout(30, 1, 2), 0, -1, np.zeros(30, bool))
    good = kernel_arguments(conv, conv_bits.bit_rows(conv, read), False, None, "sums16")
    native.Conv(**good)
    with pytest.raises(ValueError, match=message):
        native.Conv(**(good | changes))


@needs_kernels
def test_sums_fit_up_to_the_last_one() -> None:
    for channels, output in ((127, "sums8"), ((1 << 14) - 1, "sums16")):
        conv = random_conv(np.random.default_rng(0), "a", "x", (1, 1, 0, 1, channels, 1, False))
        read = Packed(layout(channels, 1, 1), 0, -1, np.zeros(channels, bool))
        good = kernel_arguments(conv, conv_bits.bit_rows(conv, read), False, None, output)
        native.Conv(**good)
        with pytest.raises(ValueError, match="sums do not fit"):
            native.Conv(**good | {"products": 128 if output == "sums8" else 1 << 15})
