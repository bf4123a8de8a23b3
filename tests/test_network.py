"""Packed networks: the kernels against the NumPy oracle, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_networks import Maker, small_network
from requirements import needs

from rbsf.engine import node_kernels
from rbsf.engine import node_reference as reference
from rbsf.engine.network import Network
from rbsf.engine.nodes import NetworkModel, Node
from rbsf.engine.runtime import available_isas

ISAS = available_isas()
THREADS = min(2, os.cpu_count() or 1)
needs_kernels = pytest.mark.skipif(len(ISAS) == 1, reason=needs("kernels", "the extension is not built"))
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)
EPS = 2.0**-24  # relative error of one rounding to float32


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_as_the_oracle(model: NetworkModel, batch: np.ndarray, threads: int) -> None:
    """Every node, given the maps that the kernels gave to it, is what the oracle makes of them.

    Equal to the last bit, but for real sums, which BLAS adds in another order: n products and a bias differ from the
    exact sum by at most n + 1 roundings of sum |x w|, in both.
    """
    kernels = [Network(model, threads, isa).outputs(batch) for isa in ISAS[:-1]]
    for found in kernels[1:]:
        for name, array in kernels[0].items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    maps: dict[str, np.ndarray] = {}
    for node in model.nodes:
        if node.op != "input":
            inputs = [maps[name] for name in node.inputs]
            maps[node.name] = reference.compute(node, inputs)
        if node.name in kernels[0]:  # a binary convolution's map is not there where a sum was made of it at once
            if node.op in ("conv", "linear"):
                magnitudes = {key: np.abs(array) for key, array in node.tensors.items()}
                largest = reference.compute(
                    Node(node.name, node.op, (), node.attributes, magnitudes), [abs(inputs[0] * 1.0)]
                )
                products = node.tensors["weight"][0].size
                error = np.abs(kernels[0][node.name] - maps[node.name])
                assert (error <= 2 * (products + 1) * EPS * largest * 1.01).all(), node.name
            elif node.op != "input":
                np.testing.assert_array_equal(kernels[0][node.name], maps[node.name], err_msg=node.name)
            maps[node.name] = kernels[0][node.name]


@st.composite
def networks(draw: st.DrawFn) -> NetworkModel:
    """A stem, then binary and real convolutions, with and without shortcuts, pools and activations between them."""
    make = Maker(
        draw(st.integers(0, 1000)), (draw(st.integers(6, 20)), draw(st.integers(6, 20)), draw(st.integers(1, 4)))
    )
    make.affine()
    make.conv(draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(0, 2)), 1)
    for _ in range(draw(st.integers(1, 4))):
        assume(min(make.shape[:2]) >= 5)
        kind = draw(st.sampled_from(["same", "down", "bits", "real", "pool", "activation"]))
        before = make.nodes[-1].name
        channels, groups = make.shape[2], draw(st.sampled_from([g for g in (1, 1, 2, 3) if make.shape[2] % g == 0]))
        outputs = groups * draw(st.integers(1, 70 // groups))
        window = (draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 2)), groups)
        terms = (draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans()))
        if kind == "same":  # both orders of a sum; the identity may be read again
            conv = make.conv_bits(channels, 3, 1, 1, groups, *terms)
            make.add("add", *draw(st.permutations([conv, before])))
            if draw(st.booleans()):
                make.add("add", make.nodes[-1].name, before)
        elif kind == "down":
            conv = make.conv_bits(outputs, 3, 2, 1, groups, *terms)
            make.add("avg_pool", before, kernel=2, stride=2, padding=0, ceil=True, include_pad=draw(st.booleans()))
            make.add("add", conv, make.conv(outputs, 1, 1, 0, 1))
        elif kind == "bits":
            make.conv_bits(outputs, *window, *terms)
        elif kind == "real":
            make.conv(outputs, *window)
        elif kind == "pool":
            kernel = draw(st.integers(1, 4))
            pool = {"kernel": kernel, "stride": draw(st.integers(1, 3)), "padding": draw(st.integers(0, kernel // 2))}
            pool["ceil"] = draw(st.booleans())
            if draw(st.booleans()):
                make.add("max_pool", **pool)
            else:
                make.add("avg_pool", **pool, include_pad=draw(st.booleans()))
        else:
            make.add("prelu", tensors={"slope": make.normal(channels)})
            make.add("hardtanh", low=-1.0, high=1.5)
            make.add("relu") if draw(st.booleans()) else make.affine()
    return make.head(draw(st.integers(1, 20)))


@needs_kernels
@EXAMPLES
@given(networks(), st.integers(1, 3), st.integers(1, THREADS))
def test_any_network_is_as_the_oracle(model: NetworkModel, count: int, threads: int) -> None:
    assert_as_the_oracle(model, images(count, *model.shapes["image"]), threads)


def test_sums_worked_out_by_hand() -> None:
    """One pixel of value 3 in a border of -1, thresholds 2 and 5, the second flipped: bits 1 and 1; weights -1 but for
    the middle (+, +): 16 border products of +1 and 2 in the middle.  Its bits again with thresholds 4: 0, 0 -> 16 - 2.
    """
    weight = np.packbits([[[0] * 8 + [1, 1] + [0] * 8]], axis=-1, bitorder="little")
    tensors = {
        "threshold": np.float32([[2, 5], [4, 4]]),
        "flip": np.uint8([[0, 1], [0, 0]]),
        "weight": weight,
        "scale": np.float32([[0.5], [10]]),
        "bias": np.float32([0.25]),
    }
    geometry = {"kernel": 3, "stride": 1, "padding": 1, "groups": 1, "bits": [0, 1], "kernels": [0, 0]}
    image = Node("image", "input", (), {"height": 1, "width": 1, "channels": 2})
    nodes = (image, Node("conv", "conv_bits", ("image",), geometry, tensors))
    for isa in ISAS:
        found = Network(NetworkModel("", nodes, {}), isa=isa)(np.full((1, 1, 1, 2), 3, np.uint8))
        assert found.tolist() == [[[[18 * 0.5 + 14 * 10 + 0.25]]]]


def test_many_images_are_those_one_by_one() -> None:
    for isa in ISAS:
        network = Network(small_network(), isa=isa)
        network.chunk = 3
        batch = images(7, 12, 10, 3)
        together = network(batch)
        assert together.shape == (7, 5)
        alone = np.concatenate([network(batch[i : i + 1]) for i in range(7)])
        tolerance = 1e-5 if isa == "numpy" else 0  # BLAS adds in another order for other sizes
        np.testing.assert_allclose(together, alone, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(network(batch[::-1])[::-1], together, rtol=tolerance, atol=tolerance)


def test_several_python_threads_at_once() -> None:
    network, wrong = Network(small_network(), THREADS), []
    inputs = [images(1 + i % 2, 12, 10, 3, seed=i) for i in range(4)]
    expected = [network(batch) for batch in inputs]

    def work(number: int) -> None:
        for _ in range(50):
            if (network(inputs[number]) != expected[number]).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
def test_seconds_of_every_node(isa: str) -> None:
    spent = Network(small_network(), isa=isa).node_seconds(images(1, 12, 10, 3))
    assert len(spent) == (11 if isa == "numpy" else 9), "kernels add where they convolve"
    assert min(spent.values()) > 0


# ---- what a user can do wrong


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 12, 10, 3)), r"images are float64 \(1, 12, 10, 3\), expected a uint8 array \(N, 12, 10, 3\)"),
        (np.full((1, 12, 10, 3), np.nan, np.float32), "float32"),
        (np.zeros((12, 10, 3), np.uint8), "expected a uint8 array"),
        (np.zeros((1, 10, 12, 3), np.uint8), "expected a uint8 array"),
        (np.zeros((1, 3, 12, 10), np.uint8), "expected a uint8 array"),
        (np.zeros((0, 12, 10, 3), np.uint8), "there are no images"),
        ([[1]], "images are list"),
        (None, "images are NoneType"),
    ],
)
def test_bad_images(batch: object, message: str) -> None:
    for isa in {ISAS[0], "numpy"}:
        with pytest.raises(ValueError, match=message):
            Network(small_network(), isa=isa)(batch)  # type: ignore[arg-type]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="threads=0"):
        Network(small_network(), 0)
    with pytest.raises(ValueError, match="isa='sse': this machine has auto, "):
        Network(small_network(), isa="sse")


def test_too_much_memory_for_one_image() -> None:
    make = Maker(0, (1 << 12, 1 << 12, 1))
    make.affine()
    make.conv(12, 1, 1, 0, 1)
    make.add("relu")
    with pytest.raises(ValueError, match="bytes an image; 1,073,741,824 at most"):
        Network(make.head(1))


def test_long_rows_take_no_copies_of_their_factors() -> None:
    make = Maker(0, (2, 10_000, 8))
    make.affine()
    model, inputs = make.head(1), images(1, 2, 10_000, 8)
    np.testing.assert_allclose(Network(model)(inputs), Network(model, isa="numpy")(inputs), rtol=1e-3)
    assert len(node_kernels._rows(np.ones(8, np.float32), (2, 10_000, 8))) == 8
    assert len(node_kernels._rows(np.ones(8, np.float32), (2, 100, 8))) == 800


@needs_kernels
def test_kernels_check_their_arrays() -> None:
    """What `Network` never passes is refused all the same."""
    from rbsf.engine import _native  # type: ignore[attr-defined]

    x, bits = np.zeros((1, 6, 6, 16), np.float32), np.zeros((1, 1, 8, 8, 2), np.uint8)
    t, f, out = np.zeros(16, np.float32), np.zeros((1, 2), np.uint8), np.zeros((1, 6, 6, 8), np.float32)
    w, b = np.zeros((1, 1, 144, 16), np.float32), np.zeros((1, 16), np.float32)
    small = np.zeros((1, 3, 3, 16), np.float32)
    good = {
        "pack_map": (x, t, f, bits, 1, 1, "scalar"),
        "conv_real": (x, w, b, np.zeros((1, 4, 4, 8), np.float32), 3, 1, 1, 1, "scalar"),
        "pool_map": (x, small, 2, 2, 0, None, 1, "scalar"),
    }
    bad = {
        "pack_map": {0: (x[:, :5], x[..., :8], x.astype(float), x[0], x[:, ::-1]), 1: (t[:8],), 2: (f[:, :1],),
                     3: (bits[..., :1], bits.astype(np.int8)), 4: (0, 2, 1 << 40), 5: (0, 10**6), 6: ("none",)},
        "conv_real": {0: (x[:, :2], x[..., :8]), 1: (w[:, :, :143],), 2: (b[:, :8],), 3: (out, small[..., :8]),
                      4: (0, 2, 1 << 62), 5: (0, 3), 6: (0, 2, 3)},
        "pool_map": {0: (x[:, :1], x[..., :8]), 1: (out, np.zeros((1, 9, 9, 16), np.float32)), 2: (0,), 3: (0, 9),
                     4: (2, 9), 5: (np.zeros((2, 3), np.float32),)},
    }  # fmt: skip
    for name, arguments in good.items():
        getattr(_native, name)(*arguments)
        for place, values in bad[name].items():
            for value in values:
                with pytest.raises((ValueError, TypeError)):
                    getattr(_native, name)(*arguments[:place], value, *arguments[place + 1 :])


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_torch_is_not_imported() -> None:
    code = "import sys, rbsf.engine.network; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_env())


def test_without_the_extension_numpy_runs_with_a_warning() -> None:
    code = (
        "import sys; sys.modules['rbsf.engine._native'] = None\n"
        "import warnings, numpy as np; from rbsf.engine.network import Network\n"
        "from random_networks import small_network\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    network = Network(small_network())\n"
        "assert network.isa == 'numpy' and len(caught) == 1 and 'compiler' in str(caught[0].message)\n"
        "assert network(np.zeros((2, 12, 10, 3), np.uint8)).shape == (2, 5)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_env() | {"RBSF_ISA": ""})


@needs_kernels
def test_threads_change_nothing() -> None:
    make = Maker(4, (40, 40, 3))
    make.affine()
    make.conv(64, 3, 1, 1, 1)
    make.conv_bits(96, 3, 1, 1, 1, kernels=2)
    make.add("max_pool", kernel=3, stride=2, padding=1, ceil=False)
    model = make.head(10)
    batch = images(3, 40, 40, 3)
    for isa in ISAS[:-1]:
        alone, shared = (Network(model, threads, isa)(batch) for threads in (1, THREADS))
        np.testing.assert_array_equal(alone, shared)
