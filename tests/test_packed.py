"""Packed files of the first formats load as the network that they hold, or are refused.

These are "rbsf-packed-1" and "rbsf-packed-2", which are only for trackers.
"""

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
    change_layer,
    change_metadata,
    change_tensor,
    is_refused,
    layers_of,
    parts,
    sign,
    write,
    write_old,
)
from packed_models import small_tracker
from safetensors.numpy import save_file

from rbsf.engine.file import packed_kind, read_packed
from rbsf.engine.graph import PackedModel, check_nodes
from rbsf.engine.node import Node
from rbsf.engine.ops.conv_u8 import pack_whole, unpack_whole
from rbsf.engine.run import Engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_old(tmp_path / "net.safetensors", small_tracker())
    return tmp_path / "net.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    assert packed_kind(path) == "tracker"
    assert_holds(path, small_tracker())


def test_the_network_is_the_same_in_the_format_of_today(path: Path, tmp_path: Path) -> None:
    today = tmp_path / "today.safetensors"
    write(today, read_packed(path))
    assert parts(today)[0]["format"] == "rbsf-graph-1"
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 33, 3), np.uint8)
    features = Engine(path)(images)
    assert features.shape == (2, 5, 9, 7)
    assert Engine(today)(images).tobytes() == features.tobytes()
    assert Engine(small_tracker(), isa="numpy")(images).tobytes() == features.tobytes()


def test_metadata_and_tensors_are_as_documented(path: Path) -> None:
    metadata, tensors = parts(path)
    assert metadata["format"] == "rbsf-packed-1"
    geometry = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    sizes = {"inputs": 12, "outputs": 5, "pool": False}
    layer = {"kind": "conv_bits_real", "name": "conv3", **geometry, **sizes}
    assert json.loads(metadata["layers"])[2] == layer
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "conv1.weight": ("int8", (8, 3, 3, 3)),
        "conv1.threshold": ("int32", (8,)),
        "conv2.weight": ("uint8", (12, 5)),
        "conv2.threshold": ("int32", (12,)),
        "conv3.weight": ("uint8", (5, 2)),
        "conv3.scale": ("float32", (5,)),
        "conv3.bias": ("float32", (5,)),
    }


def test_the_tracker_that_ships_is_of_the_first_format() -> None:
    path = ROOT / "weights" / "rbsf.safetensors"
    assert parts(path)[0]["format"] == "rbsf-packed-1"
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
    write_old(path, tiny(packed, 3), "rbsf-packed-2")
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


def test_a_newer_format_is_refused(path: Path) -> None:
    metadata, tensors = parts(path)
    known = "rbsf-graph-1, rbsf-packed-1, rbsf-packed-2"
    save_file(tensors, path, metadata | {"format": "rbsf-packed-3"})
    assert_refused(path, f"rbsf-packed-3, and this version reads {known}")
    save_file(tensors, path)
    assert_refused(path, "no packed network")
    assert packed_kind(path) == ""


def test_layers_of_the_first_formats_are_refused_in_the_format_of_today(path: Path) -> None:
    change_metadata(path, format="rbsf-graph-1", task="tracker")
    assert_refused(path, "a node is .* expected name, op, inputs, attributes")
    metadata, tensors = parts(path)
    del metadata["task"]
    sign(path, metadata | {"format": "rbsf-network-1"}, tensors)
    assert_refused(path, "a node is .* expected name, op, inputs, attributes")


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"kind": "conv_bits_9"}, "layer 'conv2' is conv_bits_9, number 2 must be conv_bits"),
        (
            1,
            {"kind": "conv_bits_real"},
            "layer 'conv2' is conv_bits_real, number 2 must be conv_bits",
        ),
        (0, {"kind": "conv_bits"}, "layer 'conv1' is conv_bits, number 1 must be conv_u8"),
        (2, {"kind": "conv_bits"}, "layer 'conv3' is conv_bits, number 3 must be conv_bits_real"),
        (1, {"kernel": 5}, "weight is uint8"),
        (1, {"kernel": 0}, "kernel=0"),
        (1, {"kernel": 3.0}, "a layer is"),
        (1, {"kernel": True}, "a layer is"),
        (1, {"stride": -1}, "stride=-1"),
        (1, {"padding": 10**9}, "padding=1000000000"),
        (1, {"groups": 3}, "do not split into 3 groups"),
        (1, {"inputs": 1 << 40}, "channels=1099511627776"),
        (0, {"inputs": 1 << 40}, "channels=1099511627776"),
        (1, {"inputs": 16, "groups": 4}, "takes 16 channels, 8 come"),
        (1, {"outputs": 14}, "layer 'conv2': its weight is not of 14 filters"),
        (
            1,
            {"name": "other"},
            r"layer 'other': its tensors are \[\], expected \['threshold', 'weight'\]",
        ),
        (1, {"name": "conv1"}, r"layer 'conv1': its tensors are \[\]"),
        (1, {"name": "image"}, r"layer 'image': its tensors are \[\]"),
        (1, {"name": ["conv2"]}, "a layer is"),
        (1, {"more": 1}, "a layer is"),
        (1, {"pool": 1}, "a layer is"),
        (1, {"stride": 17}, "stride=17, expected 1 to 16"),
        (1, {"kernel": 10**6}, "layer 'conv2': takes no images of up to 16384 pixels a side"),
        (2, {"pool": True}, "layer 'conv3': only the first one has bits, and the last one no pool"),
        (0, {"padding": 1}, "padding=1, expected 0 to 0"),
        (0, {"groups": 2}, "groups=2, expected 1 to 1|do not split into 2 groups"),
        (0, {"bits": 4}, "weight is int8"),
        (0, {"bits": 1}, "bits=1, expected 2 to 8"),
        (0, {"bits": 4.0}, "bits=4.0"),
        (1, {"bits": 4}, "layer 'conv2': only the first one has bits"),
    ],
)
def test_a_changed_layer_is_refused(
    path: Path, number: int, changes: dict[str, object], message: str
) -> None:
    change_layer(path, number, **changes)
    assert_refused(path, message)


@pytest.mark.parametrize("layers", [[], [3], ["conv1"], [None] * 3, [{}] * 3, [[]] * 3, {}])
def test_layers_that_are_none_are_refused(path: Path, layers: object) -> None:
    change_metadata(path, layers=json.dumps(layers))
    assert_refused(path, "a layer is|0 layers: a packed network has 2 to 1000|metadata 'layers'")


@pytest.mark.parametrize("count", [1, 1001])
def test_too_few_and_too_many_layers_are_refused(path: Path, count: int) -> None:
    first, second, _ = layers_of(path)
    change_metadata(path, layers=json.dumps([first, *[second] * (count - 1)]))
    assert_refused(path, f"{count} layers: a packed network has 2 to 1000")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("conv3.scale", np.float32([1, 2, np.nan, 4, 5]), "not finite"),
        ("conv3.bias", np.full(5, np.inf, np.float32), "not finite"),
        ("conv3.scale", np.ones(5), "scale is float64"),
        (
            "conv3.scale",
            None,
            r"layer 'conv3': its tensors are \['bias', 'weight'\], expected \['bias', 'scale'",
        ),
        ("conv3.bias", None, r"layer 'conv3': its tensors are \['scale', 'weight'\]"),
        ("conv3.threshold", np.zeros(5, np.int32), r"layer 'conv3': its tensors are .*'threshold'"),
        (
            "conv2.threshold",
            np.zeros(11, np.int32),
            r"threshold is int32 \[11\], expected int32 \[12\]",
        ),
        (
            "conv2.threshold",
            np.zeros(12, np.float32),
            r"threshold is float32 \[12\], expected int32 \[12\]",
        ),
        (
            "conv2.threshold",
            None,
            r"layer 'conv2': its tensors are \['weight'\], expected \['threshold', 'weight'\]",
        ),
        (
            "conv2.flip",
            np.zeros(12, np.uint8),
            r"layer 'conv2': its tensors are \['flip', 'threshold', 'weight'\]",
        ),
        ("conv2.weight", None, r"layer 'conv2': its tensors are \['threshold'\]"),
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
        ("conv2.weight", np.zeros((), np.uint8), "layer 'conv2': its weight is not of 12 filters"),
        (
            "conv2.weight",
            np.zeros(12, np.uint8),
            r"weight is uint8 \[12\], expected uint8 \[12, 5\]",
        ),
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
    values += ["", "conv1", "conv_bits", None, True, [], {}]
    arrays = [
        np.zeros((), np.int8),
        np.zeros(0, np.int32),
        np.ones(12, np.float32),
        np.full((12, 5), 3, np.uint8),
        *tensors.values(),
    ]
    image = np.zeros((1, 40, 40, 3), np.uint8)
    for number in range(FUZZ):
        layers, changed = json.loads(metadata["layers"]), dict(tensors)
        for _ in range(rng.integers(1, 4)):
            layer = layers[rng.integers(len(layers))]
            value = values[rng.integers(len(values))]
            key = [*layer, "bits"][rng.integers(len(layer) + 1)]
            layer[key] = value
        if number % 4 == 0:
            name = [*tensors, "conv2.flip"][rng.integers(len(tensors) + 1)]
            changed[name] = arrays[rng.integers(len(arrays))]
        sign(path, metadata | {"layers": json.dumps(layers)}, changed)
        refused += is_refused(lambda: Engine(path)(image))
    assert refused > 0.8 * number
