"""Packed files are read as they were written; newer files and parts that do not fit are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from packed_files import (
    FUZZ,
    assert_holds,
    assert_refused,
    change_attributes,
    change_layer,
    change_metadata,
    change_tensor,
    exchange_some,
    is_refused,
    layers_of,
    parts,
    run_black_image,
    sign,
    write,
)
from random_networks import Maker, random_network, small_network
from safetensors.numpy import save_file

from rbsf.engine.file import packed_task, read_metadata, read_packed, write_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.engine.run import Engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "net.safetensors", small_network())
    return tmp_path / "net.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    assert_holds(path, small_network())
    assert packed_task(read_metadata(path)) == "classifier"
    for seed in range(30):
        model = random_network(seed)
        write(path, model)
        assert_holds(path, model)


def test_metadata_and_tensors_are_as_documented(tmp_path: Path) -> None:
    make = Maker(0, (4, 5, 3))
    bits = make.add("sign", "image", tensors={"threshold": np.zeros(3, np.int32)})
    weight = {"weight": make.weight_bits(7, 27)}
    window = {"kernel": 3, "stride": 1, "padding": 1, "groups": 1, "channels": 3, "border": 1}
    for _ in range(2):  # both have the same weight
        make.add("conv_bits", bits, tensors=weight, **window)
    make.add("affine", tensors={"scale": np.ones(7, np.float32)})
    write_packed(
        tmp_path / "tiny.safetensors", PackedModel("tiny", "tracker", tuple(make.nodes), {"a": 1})
    )
    metadata, tensors = parts(tmp_path / "tiny.safetensors")
    assert {key: metadata[key] for key in ("format", "task", "model", "info")} == {
        "format": "rbsf-graph-1", "task": "tracker", "model": "tiny", "info": '{"a": 1}',
    }  # fmt: skip
    size = {"height": 4, "width": 5, "channels": 3, "any_size": False}
    assert json.loads(metadata["layers"]) == [
        {"name": "image", "op": "input", "inputs": [], "attributes": size},
        {"name": "sign.1", "op": "sign", "inputs": ["image"], "attributes": {}},
        {"name": "conv_bits.2", "op": "conv_bits", "inputs": ["sign.1"], "attributes": window},
        {
            "name": "conv_bits.3", "op": "conv_bits", "inputs": ["sign.1"], "attributes": window,
            "shared": {"weight": "conv_bits.2.weight"},
        },
        {"name": "affine.4", "op": "affine", "inputs": ["conv_bits.3"], "attributes": {}},
    ]  # fmt: skip
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "sign.1.threshold": ("int32", (3,)),
        "conv_bits.2.weight": ("uint8", (7, 4)),
        "affine.4.scale": ("float32", (7,)),
    }
    read = read_packed(tmp_path / "tiny.safetensors")
    assert read.nodes[2].tensors["weight"] is read.nodes[3].tensors["weight"]


def test_multiples_of_powers_of_two_are_kept_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bytes.safetensors"
    make = Maker(0, (4, 5, 3))
    whole = make.rng.integers(-127, 128, (7, 3, 3, 3)).astype(np.float32)
    whole[1] = 0
    whole[2, 0, 0, 0] = 127
    weight = whole * np.exp2(np.arange(7, dtype=np.float32) - 9)[:, None, None, None]
    tiny = np.full_like(weight, 1e-44)  # its power of two is too small for a float32
    for values in (weight, weight + np.float32(0.3), tiny):
        window = {"kernel": 3, "stride": 1, "padding": 0, "groups": 1}
        make.add("conv", "image", tensors={"weight": values, "bias": make.normal(7)}, **window)
    write_packed(path, PackedModel("tiny", "classifier", tuple(make.nodes), {}))
    tensors = parts(path)[1]
    assert [str(tensors[f"conv.{n}.weight"].dtype) for n in (1, 2, 3)] == [
        "int8",
        "float32",
        "float32",
    ]
    for node, read in zip(make.nodes[1:], read_packed(path).nodes[1:], strict=True):
        np.testing.assert_array_equal(read.tensors["weight"], node.tensors["weight"])
        assert read.tensors["weight"].dtype == np.float32


def test_weights_in_any_order_are_written(tmp_path: Path) -> None:
    make = Maker(0, (4, 5, 3))
    make.add("flatten", make.conv(3, kernel=1, stride=1, padding=0, groups=1, source="image"))
    for outputs, inputs in ((32, 60), (32, 32), (32, 32), (32, 32)):
        weight = make.rng.integers(-9, 9, (outputs, inputs)).astype(np.float32)
        tensors = {"weight": np.asfortranarray(weight), "bias": make.normal(outputs)}
        make.add("linear", make.nodes[-1].name, tensors=tensors)
    path = tmp_path / "fortran.safetensors"
    write_packed(path, PackedModel("tiny", "classifier", tuple(make.nodes), {}))
    for node, read in zip(make.nodes[3:], read_packed(path).nodes[3:], strict=True):
        np.testing.assert_array_equal(read.tensors["weight"], node.tensors["weight"])


@pytest.mark.parametrize(
    ("form", "kind", "advice"),
    [
        ("rbsf-packed-1", "tracker", "export its weights file again"),
        ("rbsf-packed-2", "tracker", "export its weights file again"),
        ("rbsf-network-1", "classifier", "export its weights file again"),
        ("rbsf-graph-2", "classifier", "get a newer version"),
        ("rbsf-graph-\n3", "classifier", "get a newer version"),
    ],
)
def test_other_formats_are_refused(path: Path, form: str, kind: str, advice: str) -> None:
    metadata, tensors = parts(path)
    save_file(tensors, path, metadata | {"format": form})
    assert packed_task(read_metadata(path)) == kind
    found = " ".join(form.split())
    assert_refused(path, f"its format is {found}, and this version reads rbsf-graph-1; {advice}")


@pytest.mark.parametrize("form", ["", "rbsf", "rbsf-weights-2", "other-1"])
def test_files_that_are_not_packed_are_refused(path: Path, form: str) -> None:
    metadata, tensors = parts(path)
    save_file(tensors, path, metadata | {"format": form})
    assert packed_task(read_metadata(path)) == ""
    assert_refused(path, "no packed network")
    save_file(tensors, path)
    assert packed_task(read_metadata(path)) == ""
    assert_refused(path, "no packed network")


@pytest.mark.parametrize("task", ["", "painter"])
def test_other_tasks_are_refused(path: Path, task: str) -> None:
    change_metadata(path, task=task)
    assert_refused(path, f"its task is '{task}', expected tracker or classifier")


# The nodes of small_network by number: 0 input, 1 affine, 2 conv, 3 to 5 the first binary
# convolution (sign, conv_bits, affine), 6 add, 7 to 9 the second binary convolution, 10 avg_pool,
# 11 conv, 12 add, 13 global_pool, 14 flatten, 15 linear.
@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (
            2,
            {"op": "conv_9"},
            "node 'conv.2': unknown op 'conv_9'; this version knows abs_mean, add",
        ),
        (2, {"op": "_windows"}, "unknown op '_windows'"),
        (2, {"op": "input"}, "the first, and only it, is the input"),
        (0, {"op": "relu"}, "the first, and only it, is the input"),
        (2, {"op": "relu"}, r"\(relu\): has attributes"),
        (
            2,
            {"inputs": ["nothing"]},
            "node 'conv.2' takes 'nothing', which no node before it makes",
        ),
        (2, {"inputs": ["conv.2"]}, "takes 'conv.2', which no node before it makes"),
        (2, {"inputs": ["add.6"]}, "takes 'add.6', which no node before it makes"),
        (2, {"inputs": []}, "expected 1 inputs, got 0"),
        (6, {"inputs": ["conv.2"]}, "expected 2 inputs, got 1"),
        (6, {"inputs": ["conv.2", "image"]}, "expected whole or real, got pixels"),
        (4, {"inputs": ["conv.2"]}, r"\(conv_bits\): expected bits, got real"),
        (
            5,
            {"inputs": ["binary.3.sign.0"]},
            r"\(affine\): expected pixels or whole or real, got bits",
        ),
        (2, {"inputs": [3]}, "node 'conv.2': inputs are"),
        (2, {"inputs": "image"}, "a node is"),
        (2, {"name": 3}, "a node is"),
        (2, {"more": 1}, "a node is"),
        (
            2,
            {"name": "affine.1"},
            "holds tensors of no node: conv.2|two nodes are called 'affine.1'",
        ),
        (2, {"shared": 3}, "shares 3, which the file lacks"),
        (2, {"shared": {"weight": "none"}}, "which the file lacks"),
        (2, {"shared": {"weight": []}}, "which the file lacks"),
        (2, {"shared": {"more": "affine.1.bias"}}, r"more is float32 \[3\], expected absent"),
        (2, {"bytes": 3}, "its bytes are 3, expected a list of names"),
        (2, {"bytes": [["weight"]]}, "expected a list of names"),
        (2, {"bytes": ["weight"]}, "weight is not kept as bytes and their steps"),
        (2, {"bytes": ["none"]}, "none is not kept as bytes and their steps"),
        (15, {"inputs": ["global_pool.13"]}, "expected a vector"),
        (13, {"inputs": ["flatten.14"]}, "no node before it"),
        (
            14,
            {"inputs": ["conv.2"]},
            r"node 'linear.15' \(linear\): weight is float32 \[5, 24\], expected",
        ),
    ],
)
def test_a_changed_node_is_refused(
    path: Path, number: int, changes: dict[str, object], message: str
) -> None:
    change_layer(path, number, **changes)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, {"height": 0}, "height=0, expected 1 to 16384"),
        (0, {"height": 1 << 40}, "height=1099511627776"),
        (
            0,
            {"height": 1 << 14, "width": 1 << 14},
            "over 268,435,456 values|more memory than so small a network may",
        ),
        (0, {"channels": 4}, r"scale is float32 \[3\], expected float32 \[4\]|bias is float32"),
        (0, {"any_size": 1}, "any_size=1, expected true or false"),
        (2, {"kernel": 5}, "weight is float32"),
        (2, {"kernel": 0}, "kernel=0"),
        (2, {"kernel": 3.0}, "kernel=3.0"),
        (2, {"kernel": True}, "kernel=True"),
        (2, {"stride": -1}, "stride=-1"),
        (2, {"padding": 10**9}, "padding=1000000000"),
        (2, {"groups": 2}, "do not split into 2 groups"),
        (4, {"groups": 2}, "weight is uint8"),
        (4, {"border": 0}, "border=0, expected -1 or 1"),
        (4, {"border": 1.0}, "border=1.0, expected -1 or 1"),
        (4, {"channels": 17}, "expected 17 channels, got 16"),
        (10, {"ceil": 1}, "ceil=1, expected true or false"),
        (10, {"padding": 2}, "padding=2 is over half of kernel=2"),
        (10, {"kernel": 100}, "its output would be"),
        (10, {"extra": 1}, "has attributes"),
    ],
)
def test_a_changed_attribute_is_refused(
    path: Path, number: int, changes: dict[str, object], message: str
) -> None:
    change_attributes(path, number, changes)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("affine.1.scale", np.float32([1, np.nan, 1]), "not finite"),
        ("conv.2.bias", np.full(16, np.inf, np.float32), "not finite"),
        ("binary.3.sign.0.threshold", np.full(16, np.nan, np.float32), "not finite"),
        ("binary.3.sign.0.threshold", np.zeros(16, np.int32), "threshold is int32"),
        ("binary.3.sign.0.flip", np.full(16, 2, np.uint8), "other than 0 and 1"),
        ("binary.3.scale", np.ones(16), "scale is float64"),
        (
            "binary.3.scale",
            np.ones((2, 16), np.float32),
            r"scale is float32 \[2, 16\], expected float32 \[16\]",
        ),
        ("binary.3.sum.0.weight", np.zeros((16, 17), np.uint8), r"\(conv_bits\): weight is uint8"),
        ("binary.3.sum.0.weight", np.zeros((0, 18), np.uint8), "1 to 16384 filters"),
        ("binary.3.sum.0.weight", np.zeros((), np.uint8), "1 to 16384 filters"),
        ("binary.3.more", np.ones(16, np.float32), "more is float32"),
        ("conv.99.weight", np.zeros(3, np.int8), "tensors of no node: conv.99"),
    ],
)
def test_a_changed_tensor_is_refused(
    path: Path, name: str, array: np.ndarray, message: str
) -> None:
    change_tensor(path, name, array)
    assert_refused(path, message)


def test_infinite_thresholds_are_allowed(path: Path) -> None:
    change_tensor(path, "binary.3.sign.0.threshold", np.full(16, np.inf, np.float32))
    assert np.isfinite(Engine(path)(np.zeros((1, 12, 10, 3), np.uint8))).all()


# ---- sizes meant to exhaust memory


def image(height: int, width: int, channels: int) -> Node:
    size = {"height": height, "width": width, "channels": channels, "any_size": False}
    return Node("image", "input", (), size)


def classifier(*nodes: Node) -> PackedModel:
    return PackedModel("", "classifier", nodes, {})


def conv(kernel: int, stride: int, padding: int, outputs: int) -> Node:
    """A convolution of an image of one channel."""
    window = {"kernel": kernel, "stride": stride, "padding": padding, "groups": 1}
    weight = np.ones((outputs, kernel, kernel, 1), np.float32)
    tensors = {"weight": weight, "bias": np.zeros(outputs, np.float32)}
    return Node("conv", "conv", ("image",), window, tensors)


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="its windows would take over 268,435,456 values"):
        classifier(image(1 << 11, 1 << 11, 1), conv(31, 1, 15, outputs=1))


def test_too_many_weights_are_refused() -> None:
    channels = 1 << 14
    bits = Node("s", "sign", ("image",), {}, {"threshold": np.zeros(channels, np.int32)})
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "channels": channels}
    weight = {"weight": np.zeros((1 << 14, channels // 8), np.uint8)}
    binary = Node("a", "conv_bits", ("s",), window | {"border": -1}, weight)
    with pytest.raises(ValueError, match="are too many"):
        classifier(image(1, 1, channels), bits, binary)


def test_maps_too_large_together_are_refused() -> None:
    """Maps that fit one by one are refused together, but not in a file with more weights."""
    first = image(1 << 10, 1 << 10, 1)
    rest = [Node("0", "affine", ("image",), {}, {"scale": np.ones(1, np.float32)})]
    rest += [Node(f"{n}", "relu", (f"{n - 1}",)) for n in range(1, 20)]
    message = r"node '15' \(relu\): up to here the maps of one image need too much memory for"
    with pytest.raises(ValueError, match=message):
        classifier(first, *rest)
    classifier(first, conv(16, 16, 0, outputs=400), *rest)


def test_work_of_minutes_is_refused() -> None:
    """Binary convolutions of 7 x 7, from 1024 to 1024 channels, on maps of 64 x 64."""
    bits = Node("b0", "sign", ("image",), {}, {"threshold": np.zeros(1024, np.int32)})
    window = {"kernel": 7, "stride": 1, "padding": 3, "groups": 1, "channels": 1024, "border": -1}
    weight = {"weight": np.zeros((1024, 7 * 7 * 1024 // 8), np.uint8)}
    nodes = [image(64, 64, 1024), bits]
    for n in range(6):
        nodes.append(Node(f"c{n}", "conv_bits", (f"b{n}",), window, weight))
        nodes.append(Node(f"b{n + 1}", "sign", (f"c{n}",), {}, bits.tensors))
    message = r"node 'c5' \(conv_bits\): up to here one image takes over 1,099,511,627,776 products"
    with pytest.raises(ValueError, match=message):
        classifier(*nodes)


def test_channels_that_double_are_refused() -> None:
    nodes = [image(4, 4, 1), Node("0", "affine", ("image",), {}, {"scale": np.ones(1, np.float32)})]
    nodes += [Node(f"{n}", "concat", (f"{n - 1}",) * 2) for n in range(1, 60)]
    message = r"node '15' \(concat\): has 32768 channels, 16384 at most"
    with pytest.raises(ValueError, match=message):
        classifier(*nodes)


def test_sums_that_double_are_refused() -> None:
    make = Maker(0, (2, 2, 1))
    weight = {"weight": np.full((1, 1, 1, 1), 63, np.int8)}
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "channels": 1, "bits": 8}
    make.add("conv_u8", "image", tensors=weight, **window)
    for _ in range(17):
        make.add("add", make.last, make.last)
    message = "its sums may reach 4,211,343,360, which 32 bits do not hold"
    with pytest.raises(ValueError, match=message):
        make.add("add", make.last, make.last)


@pytest.mark.parametrize(
    "text", ["[]", "[1, 2]", '["a"]', "[{}, {}]", "[[], []]", "[null, null]", '[{"name": "a"}]']
)
def test_nodes_that_are_none_are_refused(path: Path, text: str) -> None:
    sign(path, parts(path)[0] | {"layers": text}, {})
    assert_refused(path, "a node is|nodes: a packed network has 2 to")


@pytest.mark.parametrize("count", [1, 4001])
def test_too_few_and_too_many_nodes_are_refused(path: Path, count: int) -> None:
    first, second = layers_of(path)[:2]
    nodes = [first, *[second] * (count - 1)]
    sign(path, parts(path)[0] | {"layers": json.dumps(nodes)}, {})
    assert_refused(path, f"{count} nodes: a packed network has 2 to 4000")


def test_signed_nonsense_gives_value_errors_alone(path: Path) -> None:
    """Files with a good checksum and random values and tensors exchanged are refused or run."""
    rng, refused = np.random.default_rng(3), 0
    values = [0, 1, 2, 3, 16, 17, -1, 1 << 31, 1 << 63, 0.5]
    values += ["", "conv.2", "image", None, True, [], [0], [1, 0], {}]
    shapes = ((), (3,), (2, 3), (16, 18), (0, 3))
    arrays = [np.zeros(shape, kind) for shape in shapes for kind in (np.uint8, np.float32)]
    for number in range(FUZZ):
        if number % 10 == 0:
            write(path, random_network(number) if number % 20 else small_network())
            metadata, tensors = parts(path)
        nodes, changed = json.loads(metadata["layers"]), dict(tensors)
        exchange_some(nodes, values, rng)
        if rng.random() < 0.3:
            changed[str(rng.choice(sorted(tensors)))] = arrays[rng.integers(len(arrays))]
        sign(path, metadata | {"layers": json.dumps(nodes)}, changed)
        refused += is_refused(lambda: run_black_image(path))
    assert refused > 0
