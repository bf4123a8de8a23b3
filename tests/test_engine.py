"""The engine on trackers: all instruction sets equal the NumPy reference to the bit."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from math import lcm
from typing import Any

import numpy as np
import pytest
from engines import ISAS, THREADS, assert_threads_agree, needs_kernels, pixels, run_python
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packed_models import POOL, least_size, random_conv, random_model
from requirements import needs, skip_without

from rbsf.engine import run
from rbsf.engine.bit_layout import Packed, layout
from rbsf.engine.cpu import choose_isa, native
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits, reference
from rbsf.engine.run import Engine

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def test_the_extension_is_built() -> None:
    """Without the extension, the tests of its kernels are skipped."""
    if not any(
        shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    ):
        skip_without("compiler", "there is no C++ compiler")
    assert len(ISAS) > 1, "rbsf.engine._native is not built; type: pip install -e ."


def reference_outputs(model: PackedModel, images: np.ndarray) -> dict[str, np.ndarray]:
    """The map of every node, computed one after another by the reference."""
    maps, found = model.maps_for(*images.shape[1:3]), {"image": images}
    for node in model.nodes[1:]:
        inputs = [found[name] for name in node.inputs]
        found[node.name] = reference(
            node, [maps[name] for name in node.inputs], maps[node.name], inputs
        )
    return found


def features_of(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return [*outputs.values()][-1]


def assert_same(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: object
) -> None:
    """All arrays that were found are equal to the bit; -0.0 and 0.0 differ too."""
    for name, array in found.items():
        other = expected[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape), (what, name)
        assert array.flags.c_contiguous, (what, name)
        assert array.tobytes() == other.tobytes(), (what, name)


@st.composite
def networks(draw: st.DrawFn) -> list[tuple]:
    """Shapes of 2 to 4 layers in a row, whose groups need not divide one another."""
    count = draw(st.integers(2, 4))
    groups = [
        1,
        *draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=count - 1, max_size=count - 1)),
    ]
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
def test_any_network_is_as_the_reference(
    shapes: list[tuple], count: int, height: int, width: int, seed: int
) -> None:
    assume(least_size(shapes) <= min(height, width))
    model, crops = random_model(seed, shapes), pixels(count, height, width, shapes[0][4], seed=seed)
    expected = reference_outputs(model, crops)
    bits = [node.name for node in model.nodes if node.op == "sign"]
    for isa in ISAS:
        engine = Engine(model, 1 + seed % THREADS, isa)
        for _ in range(2):  # the second call uses the maps of the first
            found = engine.outputs(crops)
            assert [*found] == (
                [*expected] if isa == "numpy" else ["image", *bits, model.nodes[-1].name]
            )
            assert_same(found, expected, isa)


@needs_kernels
def test_counts_beyond_16_bits_are_as_the_reference() -> None:
    shapes = [(1, 1, 0, 1, 1, 8200, False), (2, 1, 0, 1, 8200, 9, False)]
    model, crops = random_model(0, shapes), pixels(1, 6, 6, 1)
    expected = reference_outputs(model, crops)
    for isa in ISAS:
        assert_same(Engine(model, 1, isa).outputs(crops), expected, isa)


@needs_kernels
@pytest.mark.parametrize("size", [127, 255])
def test_the_tracker_network_is_as_the_reference(size: int) -> None:
    model, crops = random_model(1), pixels(2, size, size, 3)
    expected = reference_outputs(model, crops)
    features = features_of(expected)
    assert features.shape == (2, 256, size // 8 - 9, size // 8 - 9)
    for isa in ISAS[:-1]:
        for threads in range(1, THREADS + 1):
            engine = Engine(model, threads, isa)
            assert engine.isa == isa
            assert engine.in_numpy == []
            assert_same(engine.outputs(crops), expected, (isa, threads))
            assert engine(crops[:1]).tobytes() == features[:1].tobytes(), (isa, threads)


@needs_kernels
def test_long_windows_do_not_overflow_a_byte() -> None:
    shapes = [(1, 1, 0, 1, 3, 256, False), (7, 1, 0, 1, 256, 9, False), (1, 1, 0, 1, 9, 1, False)]
    model = random_model(2, shapes)
    model = replace(
        model, nodes=tuple(all_ones(node) if node.name == "conv2" else node for node in model.nodes)
    )
    crops = pixels(1, 9, 9, 3)
    for isa in ISAS:
        assert_same(Engine(model, isa=isa).outputs(crops), reference_outputs(model, crops), isa)


def all_ones(node: Node) -> Node:
    return replace(node, tensors={"weight": np.full_like(node.tensors["weight"], 255)})


@pytest.mark.parametrize(("border", "expected"), [(-1, [6, 14]), (1, [-14, -14])])
def test_sums_are_those_worked_out_by_hand(border: int, expected: list[int]) -> None:
    """The two pixels have the bits (+, -) and (+, +), as the second channel is flipped.

    The middle row of the weights is (+, +), (-, +), (-, -); the other rows are all -. In padding of
    -1 the other rows give 12 products of (-1)(-1), and the middle row -2 - 2 - 2 and 0 + 0 + 2. In
    padding of +1 they give -12, and 2 - 2 - 2 and 0 + 0 - 2.
    """
    middle = [1, 1, 0, 1, 0, 0]
    weight = np.packbits([[0] * 6 + middle + [0] * 6], axis=1, bitorder="little")
    geometry = {"kernel": 3, "stride": 1, "padding": 1, "groups": 1, "channels": 2}
    signs = {"threshold": np.int32([5, 5]), "flip": np.uint8([0, 1])}
    scaling = {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
    nodes = (
        Node("image", "input", (), {"height": 1, "width": 2, "channels": 2, "any_size": False}),
        Node("bits", "sign", ("image",), {}, signs),
        Node("conv", "conv_bits", ("bits",), geometry | {"border": border}, {"weight": weight}),
        Node("scaled", "affine", ("conv",), {}, scaling),
        Node("features", "channels_first", ("scaled",)),
    )
    model, image = PackedModel("", "tracker", nodes, {}), np.uint8([[[[5, 5], [6, 4]]]])
    for isa in ISAS:
        found = Engine(model, isa=isa).outputs(image)
        assert found["bits"].tolist() == [[[[1, 0], [1, 1]]]]
        assert found["features"].tolist() == [[[expected]]]


def test_a_first_layer_gives_what_is_worked_out_by_hand() -> None:
    """Sums with weights 63 and -2 are pooled, compared with a threshold, and flipped."""
    geometry = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    first, second = geometry | {"channels": 2, "bits": 8}, geometry | {"channels": 1, "border": -1}
    weight = np.packbits([[1]], axis=1, bitorder="little")
    scaling = {"scale": np.float32([0.5]), "bias": np.float32([2])}
    nodes = (
        Node("image", "input", (), {"height": 3, "width": 5, "channels": 2, "any_size": False}),
        Node("first", "conv_u8", ("image",), first, {"weight": np.int8([[[[63, -2]]]])}),
        Node("pool", "max_pool", ("first",), dict(POOL)),
        Node("bits", "sign", ("pool",), {}, {"threshold": np.int32([626]), "flip": np.uint8([1])}),
        Node("conv", "conv_bits", ("bits",), second, {"weight": weight}),
        Node("scaled", "affine", ("conv",), {}, scaling),
        Node("features", "channels_first", ("scaled",)),
    )
    image = np.zeros((1, 3, 5, 2), np.uint8)
    image[0, 1, 0], image[0, 2, 4] = (10, 2), (10, 3)  # 626, 624
    for isa in ISAS:
        found = Engine(PackedModel("", "tracker", nodes, {}), isa=isa).outputs(image)
        assert found["bits"].tolist() == [[[[0], [1]]]]
        assert found["features"].tolist() == [[[[1.5, 2.5]]]]


def sums_of(
    conv: Node, bits: np.ndarray, isa: str, threads: int, inverted: np.ndarray | None = None
) -> np.ndarray:
    """Sums of `conv` by the kernels of `isa`, which keep bits of `inverted` channels inverted."""
    a, channels = conv.attributes, bits.shape[3]
    out = conv_bits.OP.result(conv, Map(bits.shape[1:], "bits"))
    inverted = np.zeros(channels, bool) if inverted is None else inverted
    read = Packed(layout(channels, 1, a["groups"]), a["padding"], a["border"], inverted)
    packed = read.array(len(bits), bits.shape[1:])
    read.inside(packed)[:] = read.pack(bits)
    np.testing.assert_array_equal(read.unpack(packed), bits)
    result = np.empty((len(bits), *out.shape), out.dtype)
    conv_bits.packed_kernel(conv, read, out, Target(native, isa, threads)).run([packed], result, [])
    return result


@needs_kernels
@EXAMPLES
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.integers(1, 3),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 20),
    count=st.integers(1, 3),
    size=st.integers(4, 30),
    seed=st.integers(0, 1000),
)
def test_a_single_convolution_is_as_the_reference(
    kernel: int,
    stride: int,
    padding: int,
    groups: int,
    inputs: int,
    outputs: int,
    count: int,
    size: int,
    seed: int,
) -> None:
    rng, channels = np.random.default_rng(seed), inputs * groups
    shape = (kernel, stride, padding, groups, channels, outputs * groups, False)
    conv = random_conv(rng, "a", "x", shape)
    bits = rng.integers(0, 2, (count, size, size + 1, channels), np.uint8)
    expected = conv_bits.reference(conv, bits)
    inverted = rng.random(channels) < 0.5 if seed % 2 else None
    for isa in ISAS[:-1]:
        found = sums_of(conv, bits, isa, 1 + seed % THREADS, inverted)
        assert found.dtype == (np.int8 if kernel**2 * inputs < 128 else np.int16)
        np.testing.assert_array_equal(found, expected, err_msg=isa)


@needs_kernels
@pytest.mark.parametrize(
    ("kernel", "channels", "kind"),
    [
        (1, 127, np.int8),
        (1, 128, np.int16),
        (7, 668, np.int16),
        (3, 3640, np.int16),
        (2, 8192, np.int32),
    ],
)
def test_sums_reach_the_ends_of_their_types(kernel: int, channels: int, kind: type) -> None:
    """All bits are +1, all weights of the first filter are +1, and all of the second are -1."""
    conv = random_conv(np.random.default_rng(0), "a", "x", (kernel, 1, 0, 1, channels, 2, False))
    weight = np.packbits(
        np.outer([1, 0], np.ones(kernel**2 * channels, np.uint8)), axis=1, bitorder="little"
    )
    conv = replace(conv, tensors={"weight": weight})
    most = kernel**2 * channels
    for isa in ISAS[:-1]:
        found = sums_of(conv, np.ones((1, kernel, kernel, channels), np.uint8), isa, 1)
        assert found.dtype == kind
        assert found.tolist() == [[[[most, -most]]]]


@pytest.mark.parametrize("border", [-1, 1])
def test_reference_is_a_convolution_of_signs(border: int) -> None:
    import torch

    rng = np.random.default_rng(3)
    conv = random_conv(rng, "a", "x", (3, 2, 1, 2, 6, 4, False))
    conv = replace(conv, attributes=conv.attributes | {"border": border})
    bits = rng.integers(0, 2, (2, 9, 8, 6), np.uint8)
    signs = torch.from_numpy(bits.transpose(0, 3, 1, 2) * 2.0 - 1)
    weight = np.unpackbits(conv.tensors["weight"], axis=1, count=27, bitorder="little").reshape(
        4, 3, 3, 3
    )
    weight = torch.from_numpy(weight.transpose(0, 3, 1, 2) * 2.0 - 1)
    padded = torch.nn.functional.pad(signs, (1, 1, 1, 1), value=float(border))
    expected = torch.nn.functional.conv2d(padded, weight, stride=2, groups=2).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(conv_bits.reference(conv, bits), expected.numpy())


def test_several_python_threads_may_call_at_once() -> None:
    model = random_model(1)
    inputs = [pixels(1 + i % 3, 127, 127, 3, seed=i) for i in range(4)]
    assert_threads_agree([Engine(model), Engine(model, THREADS)], inputs, turns=20)


@needs_kernels
def test_outputs_are_read_before_another_call_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    model, crops = random_model(1), pixels(1, 127, 127, 3)
    engine, unpack = Engine(model, isa=ISAS[0]), Packed.unpack
    calls = []

    def unpack_late(*order: Any) -> np.ndarray:  # as if another thread called in between
        calls.append(engine(pixels(1, 127, 127, 3, seed=1)))
        return unpack(*order)

    monkeypatch.setattr(Packed, "unpack", unpack_late)
    assert_same(engine.outputs(crops), reference_outputs(model, crops), "late")
    assert len(calls) == 4


def test_images_may_have_many_sizes_in_turn() -> None:
    shapes = [(3, 2, 0, 1, 3, 20, True), (3, 1, 1, 2, 20, 6, False)]
    model = random_model(4, shapes)
    sizes = [(7 + n % 11, 9 + n % 7) for n in range(24)]  # more than the engine keeps
    for isa in {ISAS[0], "numpy"}:
        engine = Engine(model, isa=isa)
        for number, size in enumerate(sizes):
            crops = pixels(1 + number % 2, *size, 3, seed=number)
            assert_same(engine.outputs(crops), reference_outputs(model, crops), (isa, size))


def test_a_network_of_one_size_refuses_images_of_another() -> None:
    model = random_model(4, [(3, 2, 0, 1, 3, 20, True), (3, 1, 1, 2, 20, 6, False)])
    first = replace(
        model.nodes[0], attributes={"height": 9, "width": 11, "channels": 3, "any_size": False}
    )
    engine = Engine(replace(model, nodes=(first, *model.nodes[1:])))
    assert engine(pixels(2, 9, 11, 3)).tobytes() == Engine(model)(pixels(2, 9, 11, 3)).tobytes()
    with pytest.raises(ValueError, match=r"^images are 11 x 9, expected 9 x 11$"):
        engine(pixels(2, 11, 9, 3))


def test_large_batches_are_computed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, crops = Engine(random_model(1)), pixels(5, 127, 127, 3)
    together = engine(crops).copy()
    for images in (1, 2, 4):
        monkeypatch.setattr(run, "CHUNK_BYTES", images * engine._plan(127, 127).bytes)
        np.testing.assert_array_equal(engine(crops), together)


def test_results_are_the_callers_own() -> None:
    engine = Engine(random_model(1))
    first = engine(pixels(1, 127, 127, 3))
    kept = first.copy()
    engine(pixels(1, 127, 127, 3, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_memory_of_dropped_results_is_used_again() -> None:
    engine, crops = Engine(random_model(1)), pixels(1, 127, 127, 3)
    place = engine(crops).ctypes.data
    view = engine(crops)[0, 1:]  # keeps its array alive
    assert view.ctypes.data == place + 4 * 36
    assert engine(crops).ctypes.data != place


@needs_kernels
def test_seconds_are_given_for_every_run() -> None:
    spent = Engine(random_model(1), isa=ISAS[0]).node_seconds(pixels(1, 127, 127, 3))
    assert [*spent] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert min(spent.values()) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason=needs("fork", "no fork here"))
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        "import multiprocessing as mp, numpy as np\n"
        "from packed_models import random_model\n"
        "from rbsf.engine.run import Engine\n"
        f"engine = Engine(random_model(1), {THREADS})\n"
        "crops = np.zeros((2, 127, 127, 3), np.uint8)\n"
        "expected = engine(crops)\n"
        "def run(crops): return engine(crops)\n"
        "with mp.get_context('fork').Pool(2) as pool:\n"
        "    assert all((r == expected).all() for r in pool.map(run, [crops] * 4))\n"
    )
    run_python(code)


@pytest.mark.parametrize(
    "module",
    ["rbsf.engine.run", "rbsf.engine.file", "rbsf.engine.correlate", "rbsf.tracker.siamfc"],
)
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    run_python(code)


def test_without_the_extension_numpy_runs_with_a_warning() -> None:
    code = (
        "import sys; sys.modules['rbsf.engine._native'] = None\n"
        "import warnings, numpy as np\n"
        "from rbsf.engine.run import Engine\n"
        "from rbsf.engine.cpu import available_isas\n"
        "from packed_models import random_model\n"
        "assert available_isas() == ['numpy']\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    engine = Engine(random_model(1))\n"
        "assert engine.isa == 'numpy' and len(caught) == 1\n"
        "assert 'compiler' in str(caught[0].message)\n"
        "assert caught[0].filename == '<string>', caught[0].filename\n"
        "assert engine(np.zeros((1, 127, 127, 3), np.uint8)).shape == (1, 256, 6, 6)\n"
    )
    run_python(code, RBSF_ISA="")


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.zeros((1, 127, 127, 3)), "float64"),
        (np.full((1, 127, 127, 3), np.nan, np.float32), "float32"),
        (np.zeros((127, 127, 3), np.uint8), "expected a uint8 array"),
        (np.zeros((1, 127, 127, 4), np.uint8), "expected a uint8 array"),
        ([[1]], "images are list"),
        (None, "images are NoneType"),
        (np.zeros((0, 127, 127, 3), np.uint8), "are none"),
        (np.zeros((1, 127, 254, 3), np.uint8)[:, :, ::2], "C-contiguous"),
        (np.zeros((1, 127, 127, 3), np.uint8)[:, ::-1], "C-contiguous"),
        (
            np.zeros((1, 86, 127, 3), np.uint8),
            "images of 86 x 127 pixels do not suit the network: node 'conv5'",
        ),
        (
            np.zeros((1, 127, 1, 3), np.uint8),
            "images of 127 x 1 pixels do not suit the network: node 'conv1'",
        ),
        (
            np.zeros((1, 0, 127, 3), np.uint8),
            "images of 0 x 127 pixels do not suit the network: node 'image'",
        ),
        (np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (4000, 500, 500, 3)), "C-contiguous"),
        (np.zeros((4000, 500, 500, 3), np.uint8), "take over 1 GiB; give fewer at a time"),
        (np.zeros((1, 20000, 127, 3), np.uint8), "do not suit the network: node 'image'"),
        (
            np.zeros((1, 8000, 8000, 3), np.uint8),
            "do not suit the network: node 'conv1'.*would take over",
        ),
    ],
)
def test_bad_crops_are_refused(crops: object, message: str) -> None:
    for isa in {ISAS[0], "numpy"}:
        with pytest.raises(ValueError, match=message) as caught:
            Engine(random_model(1), isa=isa)(crops)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_images_too_large_for_memory_are_refused() -> None:
    engine = Engine(random_model(1, [(1, 1, 0, 1, 1, 1, False), (1, 1, 16, 1, 1, 1 << 14, False)]))
    message = r"images of 60 x 60 pixels do not .* need too much memory for so small"
    with pytest.raises(ValueError, match=message):
        engine(np.zeros((1, 60, 60, 1), np.uint8))


def test_maps_too_large_for_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(random_model(1))
    most = engine._plan(255, 255).bytes
    monkeypatch.setattr(run, "MAX_BYTES", most)
    engine(pixels(1, 255, 255, 3))
    message = rf"^the network: its maps take [\d,]+ bytes an image; {most:,} at most$"
    with pytest.raises(ValueError, match=message):
        engine(pixels(1, 300, 255, 3))


@needs_kernels
def test_weights_too_large_for_memory_are_refused() -> None:
    groups = 1 << 14
    shapes = [(1, 1, 0, 1, 1, groups, False), (31, 1, 0, groups, groups, groups, False)]
    with pytest.raises(ValueError, match="'conv2': its weights would take over"):
        Engine(random_model(1, shapes), isa=ISAS[0])


@pytest.mark.parametrize("threads", [0, -1, 1.0, None, True, (os.cpu_count() or 1) + 1])
def test_bad_thread_counts_are_refused(threads: object) -> None:
    with pytest.raises(ValueError, match="threads="):
        Engine(random_model(1), threads)  # type: ignore[arg-type]


class TestInstructionSet:
    """`choose_isa` and $RBSF_ISA choose the instruction set."""

    @pytest.mark.parametrize("name", ISAS)
    def test_the_environment_says_what_auto_takes(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RBSF_ISA", name)
        engine, crops = Engine(random_model(1)), pixels(1, 127, 127, 3)
        assert engine.isa == choose_isa() == name
        np.testing.assert_array_equal(
            engine(crops), features_of(reference_outputs(engine.model, crops))
        )

    def test_an_argument_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RBSF_ISA", ISAS[0])
        assert Engine(random_model(1), isa="numpy").isa == "numpy"

    @pytest.mark.parametrize("value", ["auto", ""])
    def test_the_fastest_is_taken_where_nothing_is_said(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RBSF_ISA", value)
        assert Engine(random_model(1)).isa == ISAS[0]

    def test_an_instruction_set_that_this_machine_lacks_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match=r"^isa='sse': this machine has auto, "):
            Engine(random_model(1), isa="sse")
        monkeypatch.setenv("RBSF_ISA", "sse")
        with pytest.raises(ValueError, match=r"^RBSF_ISA='sse': this machine has auto, "):
            Engine(random_model(1))
