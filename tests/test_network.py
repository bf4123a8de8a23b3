"""Packed networks: kernels equal the NumPy oracle, and bad input is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from engines import ISAS, THREADS, assert_threads_agree, needs_kernels, pixels, run_python
from random_networks import Maker, random_network, small_network

from rbsf.engine import kernel, run
from rbsf.engine.bit_layout import Packed, layout
from rbsf.engine.cpu import native
from rbsf.engine.fusion import FUSIONS, find_runs
from rbsf.engine.fusions.base import Single
from rbsf.engine.fusions.to_planes import ToPlanes
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits, reference
from rbsf.engine.run import Engine

GRAPHS = int(os.environ.get("RBSF_GRAPHS", "300"))
EPS = 2.0**-24  # relative error of rounding to float32


def assert_as_the_oracle(model: PackedModel, batch: np.ndarray, threads: int) -> None:
    """The oracle makes the same of the maps that each node got from the kernels.

    All is equal to the last bit but real sums, which BLAS adds in another order: n products and a
    bias differ from the exact sum by at most n + 1 roundings of sum |x w|, in both.
    """
    kernels = [Engine(model, threads, isa).outputs(batch) for isa in ISAS[:-1]]
    for found in kernels[1:]:
        for name, array in kernels[0].items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    maps = {"image": batch}
    for node in model.nodes[1:]:
        inputs = [maps[name] for name in node.inputs]
        expected = oracle(model, node, inputs)
        found = kernels[0].get(node.name, expected)  # nodes inside a run have no map
        assert found.dtype == model.maps[node.name].dtype
        if node.op in ("conv", "linear"):
            magnitudes = {key: np.abs(array) for key, array in node.tensors.items()}
            positive = Node(node.name, node.op, node.inputs, node.attributes, magnitudes)
            largest = oracle(model, positive, [abs(inputs[0] * np.float32(1))])
            tolerance = 2 * (node.tensors["weight"][0].size + 1) * EPS * 1.01
            assert (np.abs(found - expected) <= tolerance * largest).all(), node.name
        else:
            np.testing.assert_array_equal(
                found, expected, err_msg=f"{node.name} of {[n.op for n in model.nodes]}"
            )
        maps[node.name] = found


def oracle(model: PackedModel, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    return reference(
        node, [model.maps[name] for name in node.inputs], model.maps[node.name], inputs
    )


@needs_kernels
@pytest.mark.parametrize("part", range(4))
def test_any_network_is_as_the_oracle(part: int) -> None:
    """RBSF_GRAPHS is the number of random networks."""
    for seed in range(part, GRAPHS, 4):
        model = random_network(seed)
        assert_as_the_oracle(
            model, pixels(1 + seed % 3, *model.input_shape, seed=seed), 1 + seed % THREADS
        )


@needs_kernels
def test_random_networks_have_every_run() -> None:
    runs = [find_runs(random_network(seed), Target(native, ISAS[0], 1)) for seed in range(60)]
    kinds = {type(run) for found in runs for run in found}
    assert kinds == {Single, *FUSIONS} - {ToPlanes}


def test_sums_are_those_worked_out_by_hand() -> None:
    """One pixel of two channels of value 3 lies in a border.

    Thresholds are 2 and 5, and the second is flipped: both bits are 1. Weights are -1 but for the
    middle (+, +). That gives 2 in the middle, and 16 products that are +1 in a border of -1, and -1
    in a border of +1.
    """
    weight = np.packbits([[0] * 8 + [1, 1] + [0] * 8], axis=-1, bitorder="little")
    thresholds = {"threshold": np.int32([2, 5]), "flip": np.uint8([0, 1])}
    image = Node("image", "input", (), {"height": 1, "width": 1, "channels": 2, "any_size": False})
    bits = Node("bits", "sign", ("image",), {}, thresholds)
    for border, expected in ((-1, 18 * 0.5 + 0.25), (1, -14 * 0.5 + 0.25)):
        geometry = {"kernel": 3, "stride": 1, "padding": 1, "groups": 1, "channels": 2}
        geometry["border"] = border
        conv = Node("conv", "conv_bits", ("bits",), geometry, {"weight": weight})
        scaling = {"scale": np.float32([0.5]), "bias": np.float32([0.25])}
        affine = Node("end", "affine", ("conv",), {}, scaling)
        model = PackedModel("", "classifier", (image, bits, conv, affine), {})
        for isa in ISAS:
            found = Engine(model, isa=isa)(np.full((1, 1, 1, 2), 3, np.uint8))
            assert found.tolist() == [[[[expected]]]]


def test_sums_have_the_least_type_that_holds_them() -> None:
    assert Map((1,), "whole", 127).dtype == np.int8
    assert Map((1,), "whole", 128).dtype == np.int16
    assert Map((1,), "whole", 32768).dtype == np.int32


def test_a_sum_of_two_convolutions_stays_whole() -> None:
    make = Maker(0, (6, 6, 8))
    make.add("sign", "image", tensors={"threshold": np.full(8, 128, np.int32)})
    bits = make.last
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "channels": 8, "border": -1}
    names = [
        make.add("conv_bits", bits, tensors={"weight": np.full((3, 1), 255, np.uint8)}, **window)
        for _ in "ab"
    ]
    total = make.add("add", *names)
    assert (make.maps[total].kind, make.maps[total].largest) == ("whole", 16)
    make.add("affine", tensors={"scale": np.ones(3, np.float32)})
    found = Engine(make.model())(np.full((1, 6, 6, 8), 200, np.uint8))
    assert (found == 16).all()


def test_many_images_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in ISAS:
        engine = Engine(small_network(), isa=isa)
        monkeypatch.setattr(run, "CHUNK_BYTES", 3 * engine._plan(12, 10).bytes)
        batch = pixels(7, 12, 10, 3)
        together = engine(batch)
        assert together.shape == (7, 5)
        alone = np.concatenate([engine(batch[i : i + 1]).copy() for i in range(7)])
        tolerance = 1e-5 if isa == "numpy" else 0  # BLAS adds in another order for other sizes
        np.testing.assert_allclose(together, alone, rtol=tolerance, atol=tolerance)


def test_several_python_threads_may_call_at_once() -> None:
    inputs = [pixels(1 + i % 2, 12, 10, 3, seed=i) for i in range(4)]
    assert_threads_agree([Engine(small_network(), THREADS)], inputs, turns=50)


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
def test_seconds_are_given_for_every_node(isa: str) -> None:
    spent = Engine(small_network(), isa=isa).node_seconds(pixels(1, 12, 10, 3))
    assert len(spent) == (15 if isa == "numpy" else 11), "kernels scale and add where they convolve"
    assert min(spent.values()) > 0


@needs_kernels
def test_operations_without_a_kernel_are_named() -> None:
    make = Maker(0, (8, 8, 3))
    make.affine()
    make.add("upsample", factor=2)
    make.add("max_pool", kernel=2, stride=2, padding=0, ceil=False)
    assert Engine(make.model(), isa=ISAS[0]).in_numpy == ["affine", "upsample"]


# ---- what a user can do wrong


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            np.zeros((1, 12, 10, 3)),
            r"images are float64 \(1, 12, 10, 3\), expected a uint8 array \(N, H, W, 3\)",
        ),
        (np.full((1, 12, 10, 3), np.nan, np.float32), "float32"),
        (np.zeros((12, 10, 3), np.uint8), "expected a uint8 array"),
        (np.zeros((1, 10, 12, 3), np.uint8), "images are 10 x 12, expected 12 x 10"),
        (np.zeros((1, 3, 12, 10), np.uint8), "expected a uint8 array"),
        (np.zeros((0, 12, 10, 3), np.uint8), "are none or not C-contiguous"),
        (np.zeros((2, 12, 10, 3), np.uint8)[::-1], "numpy.ascontiguousarray makes them so"),
        ([[1]], "images are list"),
        (None, "images are NoneType"),
    ],
)
def test_bad_images_are_refused(batch: object, message: str) -> None:
    for isa in {ISAS[0], "numpy"}:
        with pytest.raises(ValueError, match=message):
            Engine(small_network(), isa=isa)(batch)  # type: ignore[arg-type]


def test_images_too_small_for_a_network_of_any_size_are_refused() -> None:
    make = Maker(0, (12, 12, 3), any_size=True)
    make.conv(4, 5, 1, 0, 1)
    engine = Engine(make.model())
    assert engine(pixels(2, 30, 20, 3)).shape == (2, 26, 16, 4)
    message = r"images of 4 x 9 pixels do not suit the network: node 'conv\.1'"
    with pytest.raises(ValueError, match=message):
        engine(pixels(1, 4, 9, 3))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="threads=0"):
        Engine(small_network(), 0)
    with pytest.raises(ValueError, match="isa='sse': this machine has auto, "):
        Engine(small_network(), isa="sse")


def test_long_rows_take_no_copies_of_their_factors() -> None:
    make = Maker(0, (2, 10_000, 8))
    make.affine()
    model, inputs = make.head(1), pixels(1, 2, 10_000, 8)
    np.testing.assert_allclose(Engine(model)(inputs), Engine(model, isa="numpy")(inputs), rtol=1e-3)
    assert len(kernel.rows_of(np.ones(8, np.float32), (2, 10_000, 8))) == 8
    assert len(kernel.rows_of(np.ones(8, np.float32), (2, 100, 8))) == 800


@needs_kernels
def test_kernels_check_their_arrays() -> None:
    """Arrays that `Engine` never passes are refused all the same."""
    x, bits = np.zeros((1, 6, 6, 16), np.float32), np.zeros((1, 1, 8, 8, 2), np.uint8)
    t, f = np.zeros(16, np.float32), np.zeros((1, 2), np.uint8)
    out = np.zeros((1, 6, 6, 8), np.float32)
    w, b = np.zeros((1, 1, 144, 16), np.float32), np.zeros((1, 16), np.float32)
    small = np.zeros((1, 3, 3, 16), np.float32)
    ones, sums = np.ones(8, np.float32), np.zeros((1, 4, 4, 8), np.int16)
    pairs, starts = np.zeros((1, 72, 16, 2), np.int16), np.zeros(16, np.int32)
    of_whole = (pairs, starts, ones, ones, ones, 1.0, 127.0, sums)
    good = {
        "pack_map": (x, t, f, bits, 1, 1, "scalar"),
        "conv_real": (x, w, b, np.zeros((1, 4, 4, 8), np.float32), 3, 1, 1, 1, "scalar"),
        "pool_map": (x, small, 2, 2, 0, None, 1, "scalar"),
        "pack_whole": (x.astype(np.int16), t.astype(np.int16), f, bits, 1, 1, "scalar"),
        "conv_whole": (x.astype(np.int8), *of_whole, 3, 1, 1, "scalar"),
    }
    bad_packing = {
        2: (f[:, :1],),
        3: (bits[..., :1], bits.astype(np.int8)),
        4: (0, 2, 1 << 40),
        5: (0, 10**6),
        6: ("none",),
    }
    whole, thresholds = x[..., :8].astype(np.int16), t[:8].astype(np.int16)
    wrong_maps = (x[:, :5], x[..., :8], x.astype(float), x[0], x[:, ::-1])
    bad = {
        "pack_whole": {0: (x, whole), 1: (t, thresholds), **bad_packing},
        "pack_map": {0: wrong_maps, 1: (t[:8],), **bad_packing},
        "conv_real": {
            0: (x[:, :2], x[..., :8]),
            1: (w[:, :, :143],),
            2: (b[:, :8],),
            3: (out, small[..., :8]),
            4: (0, 2, 1 << 62),
            5: (0, 3),
            6: (0, 2, 3),
        },
        "conv_whole": {
            0: (x, whole[:, :2], whole[..., :4]),
            1: (pairs[:, :71], pairs.astype(np.int8)),
            2: (starts[:8],),
            3: (ones[:4],),
            7: (-1.0, 1e6),
            8: (sums[..., :4], sums[:, :3], sums.astype(np.int32)),
            9: (0, 2, 7, 1 << 62),
            10: (0, 2),
            11: (0,),
            12: ("none",),
        },
        "pool_map": {
            0: (x[:, :1], x[..., :8]),
            1: (out, np.zeros((1, 9, 9, 16), np.float32)),
            2: (0,),
            3: (0, 9),
            4: (2, 9),
            5: (np.zeros((2, 3), np.float32),),
        },
    }  # by function and number of the argument
    for name, arguments in good.items():
        getattr(native, name)(*arguments)
        for place, values in bad[name].items():
            for value in values:
                with pytest.raises((ValueError, TypeError)):
                    getattr(native, name)(*arguments[:place], value, *arguments[place + 1 :])


def test_without_the_extension_numpy_runs_with_a_warning() -> None:
    code = (
        "import sys; sys.modules['rbsf.engine._native'] = None\n"
        "import warnings, numpy as np\n"
        "from rbsf.engine.run import Engine\n"
        "from random_networks import small_network\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    engine = Engine(small_network())\n"
        "assert engine.isa == 'numpy' and len(caught) == 1\n"
        "assert 'compiler' in str(caught[0].message)\n"
        "assert engine(np.zeros((2, 12, 10, 3), np.uint8)).shape == (2, 5)\n"
    )
    run_python(code, RBSF_ISA="")


@needs_kernels
def test_threads_change_nothing() -> None:
    make = Maker(4, (40, 40, 3))
    make.affine()
    make.conv(64, 3, 1, 1, 1)
    make.binary(96, 3, 1, 1, 1, kernels=2)
    make.add("max_pool", kernel=3, stride=2, padding=1, ceil=False)
    model = make.head(10)
    batch = pixels(3, 40, 40, 3)
    for isa in ISAS[:-1]:
        alone, shared = (Engine(model, threads, isa)(batch) for threads in (1, THREADS))
        np.testing.assert_array_equal(alone, shared)


@needs_kernels
def test_a_layer_with_its_shortcut_checks_its_arrays() -> None:
    make = Maker(0, (6, 6, 8))
    bits = make.add("sign", "image", tensors={"threshold": np.zeros(8, np.int32)})
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "channels": 8, "border": -1}
    make.add("conv_bits", bits, tensors={"weight": make.weight_bits(8, 8)}, **window)
    read = Packed(layout(8, 1, 1), 0, -1, np.zeros(8, bool))
    target = Target(native, "scalar", 1)
    conv, other = (
        conv_bits.make_conv(make.nodes[-1], read, target, kind) for kind in ("sums", "sums16")
    )
    packed, each = np.zeros((1, 1, 6, 6, 1), np.uint8), np.ones(8, np.float32)
    out = np.zeros((1, 6, 6, 8), np.int16)
    good = (conv, packed, each, each, each, 1.0, 100.0, out.copy(), out, 1, "scalar")
    native.conv_steps(*good)
    bad = {
        0: (other,),
        1: (packed[:, :, :5], packed.astype(np.int8)),
        2: (each[:7],),
        3: (each[:7],),
        4: (each[:7],),
        6: (-1.0, 1e6),
        7: (out[:, :5], out.astype(np.int32)),
        8: (out[:, :5], out.astype(np.int8)),
        9: (0, 10**6),
        10: ("none",),
    }  # by number of the argument
    for place, values in bad.items():
        for value in values:
            with pytest.raises((ValueError, TypeError)):
                native.conv_steps(*good[:place], value, *good[place + 1 :])
