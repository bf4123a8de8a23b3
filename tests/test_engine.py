from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packed_models import random_layer, random_model
from requirements import needs, skip_without

from rbsf.engine import reference, runtime
from rbsf.engine.packed import Layer, PackedModel
from rbsf.engine.runtime import BitConv, Engine, available_isas, pack_signs

ISAS = available_isas()
THREADS = min(2, os.cpu_count() or 1)
needs_kernels = pytest.mark.skipif(len(ISAS) == 1, reason=needs("kernels", "the extension is not built"))
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def test_the_extension_is_built() -> None:
    """Where it could be: without it the tests of the kernels are left out."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        skip_without("compiler", "there is no C++ compiler")
    assert len(ISAS) > 1, "rbsf.engine._native is not built; type: pip install -e ."


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], what: object) -> None:
    """Equal to the bit: also -0.0 and 0.0 differ."""
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True), 1):
        assert (a.dtype, a.shape, a.flags.c_contiguous) == (b.dtype, b.shape, True)
        assert a.tobytes() == b.tobytes(), f"{what}, layer {number}"


@st.composite
def networks(draw: st.DrawFn) -> list[tuple]:
    """Shapes of 2 to 4 layers that follow on one another; groups of neighbours need not divide one another."""
    count = draw(st.integers(2, 4))
    groups = [1, *draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=count - 1, max_size=count - 1))]
    shapes, inputs = [], draw(st.integers(1, 5))
    for number in range(count):
        unit = lcm(groups[number], groups[number + 1]) if number + 1 < count else groups[number]
        outputs = unit * draw(st.integers(1, 80 // unit + 1))
        last, first = number == count - 1, number == 0
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        padding = 0 if first else draw(st.integers(0, 2))
        pool = not last and draw(st.booleans())
        shapes.append((kernel, stride, padding, groups[number], inputs, outputs, pool))
        inputs = outputs
    return shapes


@needs_kernels
@EXAMPLES
@given(networks(), st.integers(1, 4), st.integers(6, 40), st.integers(6, 40), st.integers(0, 1000))
def test_any_network_is_as_the_reference(shapes: list[tuple], count: int, height: int, width: int, seed: int) -> None:
    model = random_model(seed, shapes)
    sizes = [height, width]
    for layer in model.layers:
        sizes = [layer.output_size(size) for size in sizes]
        assume(min(sizes) >= 1)
    crops = pixels(count, height, width, shapes[0][4], seed=seed)
    expected = list(reference.layer_outputs(model, crops))
    for isa in ISAS:
        engine = Engine(model, 1 + seed % THREADS, isa)
        for _ in range(2):  # the second time in the maps of the first
            assert_same(engine.layer_outputs(crops), expected, isa)


@needs_kernels
@pytest.mark.parametrize("size", [127, 255])
def test_the_tracker_network_is_as_the_reference(size: int) -> None:
    model, crops = random_model(1), pixels(2, size, size, 3)
    expected = list(reference.layer_outputs(model, crops))
    assert expected[-1].shape == (2, 256, size // 8 - 9, size // 8 - 9)
    for isa in ISAS[:-1]:
        for threads in range(1, THREADS + 1):
            engine = Engine(model, threads, isa)
            assert engine.isa == isa
            assert_same(engine.layer_outputs(crops), expected, (isa, threads))
            assert_same([engine(crops[:1])], [expected[-1][:1]], (isa, threads))


@needs_kernels
def test_long_windows_do_not_overflow_a_byte() -> None:
    shapes = [(1, 1, 0, 1, 3, 256, False), (7, 1, 0, 1, 256, 9, False), (1, 1, 0, 1, 9, 1, False)]
    model = random_model(2, shapes)
    model = PackedModel("x", (model.layers[0], all_ones(model.layers[1]), model.layers[2]), {})
    crops = pixels(1, 9, 9, 3)
    for isa in ISAS:
        assert_same(Engine(model, isa=isa).layer_outputs(crops), list(reference.layer_outputs(model, crops)), isa)


def all_ones(layer: Layer) -> Layer:
    return replace(layer, weight=np.full_like(layer.weight, 255))


def test_sums_worked_out_by_hand() -> None:
    """Two pixels (+, -), (+, +) in padding of -1; the middle row of the weights is (+, +), (-, +), (-, -)."""
    weight = np.packbits([[0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]], axis=1, bitorder="little")
    layer = Layer("conv_bits", "a", 3, 1, 1, 1, 2, 1, False, weight, np.zeros(1, np.int32))
    bits = pack_signs(np.array([[[[0.0, -1.0], [3.0, 0.5]]]]))
    assert bits.tolist() == [[[[[1], [3]]]]]
    for isa in ISAS:
        # Rows above and below: 12 products (-1)(-1).  The middle one: -2 - 2 - 2, and 0 + 0 + 2.
        assert BitConv(layer, isa=isa)(bits).tolist() == [[[[6], [14]]]]


@needs_kernels
@EXAMPLES
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3), st.integers(1, 70), st.integers(1, 20),
    st.integers(1, 3), st.integers(4, 30), st.integers(0, 1000),
)  # fmt: skip
def test_a_single_convolution_is_as_the_reference(
    kernel: int, stride: int, padding: int, groups: int, inputs: int, outputs: int, count: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (kernel, stride, padding, groups, inputs * groups, outputs * groups, False)
    layer = random_layer(rng, "conv_bits", "a", shape)
    values = rng.normal(size=(count, size, size + 1, inputs * groups))
    expected = reference.conv_bits((values >= 0).astype(np.uint8), layer)
    for isa in ISAS:
        assert_same([BitConv(layer, 1 + seed % THREADS, isa)(pack_signs(values, groups))], [expected], isa)


def test_reference_is_a_convolution_of_signs() -> None:
    import torch

    rng = np.random.default_rng(3)
    layer = random_layer(rng, "conv_bits", "a", (3, 2, 1, 2, 6, 4, False))
    bits = rng.integers(0, 2, (2, 9, 8, 6), np.uint8)
    signs = torch.from_numpy(bits.transpose(0, 3, 1, 2) * 2.0 - 1)
    weight = np.unpackbits(layer.weight, axis=1, count=27, bitorder="little").reshape(4, 3, 3, 3)
    weight = torch.from_numpy(weight.transpose(0, 3, 1, 2) * 2.0 - 1)
    padded = torch.nn.functional.pad(signs, (1, 1, 1, 1), value=-1.0)
    expected = torch.nn.functional.conv2d(padded, weight, stride=2, groups=2).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(reference.conv_bits(bits, layer), expected.numpy())


def test_several_python_threads_at_once() -> None:
    model = random_model(1)
    engines = [Engine(model), Engine(model, THREADS)]
    inputs = [pixels(1 + i % 3, 127, 127, 3, seed=i) for i in range(4)]
    expected = [engines[0](crops) for crops in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(20):
            if (engines[turn % 2](inputs[number]) != expected[number]).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_layer_outputs_are_read_before_another_call_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    model, crops = random_model(1), pixels(1, 127, 127, 3)
    engine, unpack = Engine(model), runtime.unpack_map

    def unpack_late(*order: Any) -> np.ndarray:  # a call of another thread comes in between
        engine(pixels(1, 127, 127, 3, seed=1))
        return unpack(*order)

    monkeypatch.setattr(runtime, "unpack_map", unpack_late)
    assert_same(engine.layer_outputs(crops), list(reference.layer_outputs(model, crops)), "late")


def test_results_are_the_callers_own() -> None:
    engine = Engine(random_model(1))
    first = engine(pixels(1, 127, 127, 3))
    kept = first.copy()
    engine(pixels(1, 127, 127, 3, seed=1))
    np.testing.assert_array_equal(first, kept)


@needs_kernels
def test_memory_of_dropped_results_is_used_again() -> None:
    engine, crops = Engine(random_model(1)), pixels(1, 127, 127, 3)
    place = engine(crops).ctypes.data
    view = engine(crops)[0, 1:]  # holds the array it looks at
    assert view.ctypes.data == place + 4 * 36
    assert engine(crops).ctypes.data != place


@pytest.mark.skipif(not hasattr(os, "fork"), reason=needs("fork", "no fork here"))
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        (
            "import multiprocessing as mp, numpy as np\n"
            "from packed_models import random_model\n"
            "from rbsf.engine.runtime import Engine\n"
            f"engine = Engine(random_model(1), {THREADS})\n"
            "crops = np.zeros((2, 127, 127, 3), np.uint8)\n"
            "expected = engine(crops)\n"
            "with mp.get_context('fork').Pool(2) as pool:\n"
            "    assert all((r == expected).all() for r in pool.map(engine.__call__, [crops] * 4))\n"
        )
        .replace("pool.map(engine.__call__", "pool.map(run")
        .replace("with mp", "def run(crops): return engine(crops)\nwith mp")
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_env())


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_torch_is_not_imported() -> None:
    code = "import sys, rbsf.engine.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_env())


def test_without_the_extension_numpy_runs_with_a_warning() -> None:
    code = (
        "import sys; sys.modules['rbsf.engine._native'] = None\n"
        "import warnings; from rbsf.engine.runtime import Engine, available_isas\n"
        "from packed_models import random_model\n"
        "assert available_isas() == ['numpy']\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    engine = Engine(random_model(1))\n"
        "assert engine.isa == 'numpy' and len(caught) == 1 and 'compiler' in str(caught[0].message)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_env() | {"RBSF_ISA": ""})


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.zeros((1, 127, 127, 3)), "float64"),
        (np.full((1, 127, 127, 3), np.nan, np.float32), "float32"),
        (np.zeros((127, 127, 3), np.uint8), "expected a uint8 array"),
        (np.zeros((1, 127, 127, 4), np.uint8), "expected a uint8 array"),
        ([[1]], "crops are list"),
        (None, "crops are NoneType"),
        (np.zeros((0, 127, 127, 3), np.uint8), "are none"),
        (np.zeros((1, 127, 254, 3), np.uint8)[:, :, ::2], "C-contiguous"),
        (np.zeros((1, 127, 127, 3), np.uint8)[:, ::-1], "C-contiguous"),
        (np.zeros((1, 86, 127, 3), np.uint8), "86 x 127 pixels are too small"),
        (np.zeros((1, 0, 127, 3), np.uint8), "0 x 127 pixels are too small"),
        (np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (4000, 500, 500, 3)), "C-contiguous"),
    ],
)
def test_bad_crops(crops: object, message: str) -> None:
    for isa in {ISAS[0], "numpy"}:
        with pytest.raises(ValueError, match=message):
            Engine(random_model(1), isa=isa)(crops)  # type: ignore[arg-type]


def test_batch_too_large_for_memory() -> None:
    shapes = [(1, 1, 0, 1, 1, 1, False), (1, 1, 16, 1, 1, 1 << 14, False)]
    with pytest.raises(ValueError, match="maps of over 1 GiB"):
        Engine(random_model(1, shapes))(np.zeros((1, 200, 200, 1), np.uint8))


@needs_kernels
def test_weights_too_large_for_memory() -> None:
    groups = 1 << 14
    shapes = [(1, 1, 0, 1, 1, groups, False), (31, 1, 0, groups, groups, groups, False)]
    with pytest.raises(ValueError, match="'conv2': its weights would take over"):
        Engine(random_model(1, shapes), isa=ISAS[0])


@pytest.mark.parametrize("threads", [0, -1, 1.0, None, True, (os.cpu_count() or 1) + 1])
def test_bad_thread_counts(threads: object) -> None:
    with pytest.raises(ValueError, match="threads="):
        Engine(random_model(1), threads)  # type: ignore[arg-type]


class TestInstructionSet:
    """`choose_isa` and $RBSF_ISA."""

    @pytest.mark.parametrize("name", ISAS)
    def test_the_environment_says_what_auto_takes(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RBSF_ISA", name)
        engine, crops = Engine(random_model(1)), pixels(1, 127, 127, 3)
        assert engine.isa == name
        np.testing.assert_array_equal(engine(crops), reference.forward(engine.model, crops))

    def test_an_argument_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RBSF_ISA", ISAS[0])
        assert Engine(random_model(1), isa="numpy").isa == "numpy"

    @pytest.mark.parametrize("value", ["auto", ""])
    def test_the_fastest_is_taken_where_nothing_is_said(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RBSF_ISA", value)
        assert Engine(random_model(1)).isa == ISAS[0]

    def test_what_this_machine_has_not_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=r"^isa='sse': this machine has auto, "):
            Engine(random_model(1), isa="sse")
        monkeypatch.setenv("RBSF_ISA", "sse")
        with pytest.raises(ValueError, match=r"^RBSF_ISA='sse': this machine has auto, "):
            Engine(random_model(1))


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (np.zeros((1, 1, 5, 5, 2)), "no uint8 array"),
        (np.zeros((1, 5, 5, 2), np.uint8), "no uint8 array"),
        (np.zeros((1, 1, 5, 5, 1), np.uint8), "not of 12 channels in 1 groups"),
        (np.zeros((1, 2, 5, 5, 2), np.uint8), "not of 12 channels in 1 groups"),
        (np.zeros((1, 1, 2, 5, 2), np.uint8), "too small for a 3 x 3 window"),
    ],
)
def test_bad_bits(bits: np.ndarray, message: str) -> None:
    layer = random_layer(np.random.default_rng(0), "conv_bits", "a", (3, 1, 0, 1, 12, 4, False))
    for isa in {ISAS[0], "numpy"}:
        with pytest.raises(ValueError, match=message):
            BitConv(layer, isa=isa)(bits)


def test_signs_of_nan() -> None:
    with pytest.raises(ValueError, match="none of them NaN"):
        pack_signs(np.array([[[[1.0, np.nan]]]]))
    with pytest.raises(ValueError, match="for 2 groups"):
        pack_signs(np.zeros((1, 1, 1, 3)), groups=2)


@needs_kernels
def test_kernels_check_their_arrays() -> None:
    """What `Engine` never passes is refused all the same."""
    from rbsf.engine import _native  # type: ignore[attr-defined]

    engine = Engine(random_model(1), isa="scalar")
    crops = pixels(1, 127, 127, 3)
    maps = engine._take_maps(crops.shape, engine._shapes(crops)[:-1])
    features = np.zeros((1, 256, 6, 6), np.float32)
    good = [crops, *maps, features]
    read_only = features.copy()
    read_only.flags.writeable = False
    bad = [
        [crops, *maps],
        [crops[:, :126], *maps, features],
        [crops.astype(np.int8), *maps, features],
        [crops, maps[0][:, :, :, ::-1], *maps[1:], features],
        [crops, *maps, features.astype(np.float64)],
        [crops, *maps, features[:, :255]],
        [np.concatenate([crops, crops]), *maps, features],
        [crops[0], *maps, features],
        [crops, *maps, read_only],
    ]
    _native.forward(engine._convs, good, 1, "scalar", None)
    for arrays in bad:
        with pytest.raises(ValueError):
            _native.forward(engine._convs, arrays, 1, "scalar", None)
    for threads, isa in ((0, "scalar"), (10**6, "scalar"), (1, "none")):
        with pytest.raises(ValueError):
            _native.forward(engine._convs, good, threads, isa, None)
