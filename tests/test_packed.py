"""Packed trackers are read as they were written, and refused if their parts do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from packed_files import (
    FUZZ,
    assert_holds,
    assert_refused,
    change_attributes,
    change_layer,
    change_tensor,
    exchange_some,
    is_refused,
    layers_of,
    parts,
    sign,
    write,
)
from packed_models import SMALL, random_model

from rbsf.engine.cpu import available_isas
from rbsf.engine.file import packed_task, read_metadata, read_packed
from rbsf.engine.graph import PackedModel, check_nodes
from rbsf.engine.node import Node
from rbsf.engine.ops.conv_u8 import pack_whole, unpack_whole
from rbsf.engine.run import Engine

TRACKER = random_model(0, SMALL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "net.safetensors", TRACKER)
    return tmp_path / "net.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    assert packed_task(read_metadata(path)) == "tracker"
    assert_holds(path, TRACKER)


def test_a_file_computes_what_its_network_does(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 33, 3), np.uint8)
    features = Engine(TRACKER, isa="numpy")(images)
    assert features.shape == (2, 5, 9, 7)
    for isa in available_isas():
        assert Engine(path, isa=isa)(images).tobytes() == features.tobytes()


def test_nodes_and_tensors_are_as_documented(path: Path) -> None:
    tensors = parts(path)[1]
    window = {"kernel": 3, "stride": 2, "padding": 0, "groups": 1, "channels": 3, "bits": 8}
    first = {"name": "conv1", "op": "conv_u8", "inputs": ["image"], "attributes": window}
    assert layers_of(path)[1] == first
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "conv1.weight": ("int8", (8, 3, 3, 3)),
        "conv1.sign.threshold": ("int32", (8,)),
        "conv1.sign.flip": ("uint8", (8,)),
        "conv2.weight": ("uint8", (12, 5)),
        "conv2.sign.threshold": ("int32", (12,)),
        "conv2.sign.flip": ("uint8", (12,)),
        "conv3.weight": ("uint8", (5, 2)),
        "conv3.scaled.scale": ("float32", (5,)),
        "conv3.scaled.bias": ("float32", (5,)),
    }


def test_the_tracker_that_ships_has_the_expected_operations() -> None:
    path = ROOT / "weights" / "rbsf.safetensors"
    operations = ["input", "conv_u8", "max_pool", "sign", "conv_bits", "max_pool", "sign"]
    operations += ["conv_bits", "sign", "conv_bits", "sign", "conv_bits"]
    operations += ["affine", "channels_first"]
    assert [node.op for node in read_packed(path).nodes] == operations
    assert Engine(path)(np.zeros((1, 127, 127, 3), np.uint8)).shape == (1, 256, 6, 6)


def tiny(packed: np.ndarray, bits: int) -> PackedModel:
    """A first layer of one 2 x 2 filter, and a second one that scales its bit."""
    geometry = {"stride": 1, "padding": 0, "groups": 1, "channels": 1}
    first = geometry | {"kernel": 2, "bits": bits}
    second = geometry | {"kernel": 1, "border": -1}
    scaling = {"scale": np.float32([2]), "bias": np.float32([0.5])}
    nodes = (
        Node("image", "input", (), {"height": 2, "width": 2, "channels": 1, "any_size": True}),
        Node("a", "conv_u8", ("image",), first, {"weight": packed}),
        Node("a.sign", "sign", ("a",), {}, {"threshold": np.int32([35])}),
        Node("b", "conv_bits", ("a.sign",), second, {"weight": np.uint8([[1]])}),
        Node("b.scaled", "affine", ("b",), {}, scaling),
        Node("b.features", "channels_first", ("b.scaled",)),
    )
    return PackedModel("rbsf", "tracker", nodes, {})


def test_a_first_layer_of_few_bits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "few.safetensors"
    packed = pack_whole(np.int8([[[[3], [-3]], [[0], [1]]]]), 3)
    assert packed.tolist() == [[0b00_101_011, 0b0010]]  # the lowest bits first: 3, -3, 0, 1
    write(path, tiny(packed, 3))
    read = read_packed(path)
    assert read.nodes[1].attributes["bits"] == 3
    assert unpack_whole(read.nodes[1]).tolist() == [[3, -3, 0, 1]]
    images = np.uint8([[[[12], [1]], [[9], [2]]], [[[12], [1]], [[9], [1]]]])  # sums 35 and 34
    assert Engine(read)(images).tolist() == [[[[2.5]]], [[[-1.5]]]]
    change_tensor(path, "a.weight", np.uint8([[1]]))
    assert_refused(path, r"weight is uint8 \[1, 1\], expected uint8 \[1, 2\]")


def test_few_bits_do_not_hide_weights_that_exhaust_memory() -> None:
    """Weights of 2 bits that take 18 MB in the file are refused: unpacked they take over 64 MB."""
    size = {"height": 17, "width": 17, "channels": 16, "any_size": True}
    geometry = {"kernel": 17, "stride": 1, "padding": 0, "groups": 1, "channels": 16, "bits": 2}
    weight = {"weight": np.zeros((1 << 14, 1156), np.uint8)}
    nodes = [
        Node("image", "input", (), size),
        Node("a", "conv_u8", ("image",), geometry, weight),
    ]
    message = r"node 'a' .*: its weights would take over 64 MB unpacked"
    with pytest.raises(ValueError, match=message):
        check_nodes(nodes)


# The nodes of TRACKER by number: 0 input, 1 conv1, 2 its pool, 3 its sign, 4 conv2, 5 its sign,
# 6 conv3, 7 affine, 8 channels_first.
@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (4, {"op": "conv_u8"}, r"'conv2' \(conv_u8\): expected pixels, got bits"),
        (1, {"op": "conv_bits"}, r"'conv1' \(conv_bits\): expected bits, got pixels"),
        (4, {"inputs": ["image"]}, r"'conv2' \(conv_bits\): expected bits, got pixels"),
        (4, {"inputs": ["conv1.pool"]}, r"'conv2' \(conv_bits\): expected bits, got whole"),
        (1, {"inputs": ["conv2"]}, "takes 'conv2', which no node before it makes"),
        (6, {"inputs": ["conv1.sign"]}, "expected 12 channels, got 8"),
        (4, {"name": "other"}, "holds tensors of no node: conv2"),
        (4, {"name": "conv1"}, "holds tensors of no node: conv2"),
        (4, {"name": "image"}, "holds tensors of no node: conv2"),
        (4, {"name": ["conv2"]}, "a node is"),
        (4, {"more": 1}, "a node is"),
        (4, {"attributes": []}, "a node is"),
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
        (0, {"channels": 1 << 40}, "channels=1099511627776"),
        (0, {"height": 6}, "its output would be"),
        (1, {"channels": 1 << 40}, "channels=1099511627776"),
        (1, {"padding": 1}, "padding=1, expected 0 to 0"),
        (1, {"groups": 2}, "groups=2, expected 1 to 1"),
        (1, {"bits": 4}, "weight is int8"),
        (1, {"bits": 1}, "bits=1, expected 2 to 8"),
        (1, {"bits": 4.0}, "bits=4.0"),
        (2, {"kernel": 10**6}, "kernel=1000000"),
        (2, {"stride": 0}, "stride=0"),
        (4, {"kernel": 2}, r"weight is uint8 \[12, 5\], expected uint8 \[12, 2\]"),
        (4, {"kernel": 5}, "its output would be"),
        (4, {"kernel": 0}, "kernel=0"),
        (4, {"kernel": 3.0}, "kernel=3.0"),
        (4, {"kernel": True}, "kernel=True"),
        (4, {"kernel": 10**6}, "kernel=1000000"),
        (4, {"stride": -1}, "stride=-1"),
        (4, {"stride": 17}, "stride=17, expected 1 to 16"),
        (4, {"padding": 10**9}, "padding=1000000000"),
        (4, {"padding": None}, "padding=None"),
        (4, {"groups": 3}, "do not split into 3 groups"),
        (4, {"channels": 1 << 40}, "channels=1099511627776"),
        (4, {"channels": 16, "groups": 4}, "expected 16 channels, got 8"),
        (4, {"bits": 4}, "has attributes"),
        (8, {"more": 1}, "has attributes"),
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
        ("conv3.scaled.scale", np.float32([1, 2, np.nan, 4, 5]), "not finite"),
        ("conv3.scaled.bias", np.full(5, np.inf, np.float32), "not finite"),
        ("conv3.scaled.scale", np.ones(5), "scale is float64"),
        ("conv3.threshold", np.zeros(5, np.int32), "threshold is int32"),
        ("conv2.sign.threshold", np.zeros(11, np.int32), r"threshold is int32 \[11\], expected"),
        ("conv2.sign.threshold", np.zeros(12, np.float32), "threshold is float32"),
        ("conv2.sign.threshold", None, "threshold is absent, expected int32"),
        ("conv2.sign.flip", np.full(12, 2, np.uint8), "other than 0 and 1"),
        ("conv2.sign.flip", np.zeros(11, np.uint8), r"flip is uint8 \[11\], expected"),
        ("conv2.flip", np.zeros(12, np.uint8), "flip is uint8"),
        ("conv2.weight", None, "weight is None: 1 to 16384 filters"),
        (
            "conv2.weight",
            np.zeros((12, 6), np.uint8),
            r"weight is uint8 \[12, 6\], expected uint8 \[12, 5\]",
        ),
        (
            "conv2.weight",
            np.zeros((12, 5), np.int8),
            r"weight is int8 \[12, 5\], expected uint8 \[12, 5\]",
        ),
        (
            "conv2.weight",
            np.zeros(12, np.uint8),
            r"weight is uint8 \[12\], expected uint8 \[12, 5\]",
        ),
        ("conv2.weight", np.zeros((), np.uint8), "1 to 16384 filters"),
        ("conv1.weight", np.full((8, 3, 3, 3), 64, np.int8), "weights beyond"),
        ("conv1.weight", np.full((8, 3, 3, 3), -128, np.int8), "weights beyond"),
        (
            "conv1.weight",
            np.zeros((8, 3, 3, 4), np.int8),
            r"weight is int8 \[8, 3, 3, 4\], expected int8 \[8, 3, 3, 3\]",
        ),
        ("conv9.weight", np.zeros(3, np.int8), "tensors of no node: conv9"),
        ("weight", np.zeros(3, np.int8), "tensors of no node"),
    ],
)
def test_a_changed_tensor_is_refused(
    path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    change_tensor(path, name, array)
    assert_refused(path, message)


def test_signed_nonsense_gives_value_errors_alone(path: Path) -> None:
    """Files with a good checksum and random values and tensors exchanged are refused or run."""
    metadata, tensors = parts(path)
    rng, refused = np.random.default_rng(5), 0
    values = [0, 1, 2, 3, 5, 8, 12, 17, -1, 1 << 31, 10**4000, 0.5]
    values += ["", "conv1", "conv_bits", None, True, [], ["conv1.sign"], {}]
    arrays = [
        np.zeros((), np.int8),
        np.zeros(0, np.int32),
        np.ones(12, np.float32),
        np.full((12, 5), 3, np.uint8),
        *tensors.values(),
    ]
    image = np.zeros((1, 40, 40, 3), np.uint8)
    for number in range(FUZZ):
        nodes, changed = json.loads(metadata["layers"]), dict(tensors)
        exchange_some(nodes, values, rng)
        if number % 4 == 0:
            name = str(rng.choice([*tensors, "conv2.flip"]))
            changed[name] = arrays[rng.integers(len(arrays))]
        sign(path, metadata | {"layers": json.dumps(nodes)}, changed)
        refused += is_refused(lambda: Engine(path)(image))
    assert refused > 0.8 * number
