"""Packed network files: what is written is read, and what is damaged, newer, or fits nowhere is refused in one line."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from random_networks import Maker, small_network
from safetensors import safe_open
from safetensors.numpy import save_file

from rbsf.engine.network import Network
from rbsf.engine.nodes import NetworkModel, Node, read_network, write_network
from rbsf.engine.packed import digest, read_packed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = small_network()
    write_network(tmp_path / "net.safetensors", model.model, model.nodes, model.info)
    return tmp_path / "net.safetensors"


def parts(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with safe_open(path, "numpy") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def sign(path: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, path, metadata | {"sha256": digest(metadata, tensors)})


def assert_is_the_original(path: Path) -> None:
    read, own = read_network(path), small_network()
    assert (read.model, read.info, read.shapes) == (own.model, own.info, own.shapes)
    for node, other in zip(read.nodes, own.nodes, strict=True):
        assert (node.name, node.op, node.inputs, node.attributes) == (
            other.name, other.op, other.inputs, other.attributes,
        )  # fmt: skip
        assert node.tensors.keys() == other.tensors.keys()
        for key, array in node.tensors.items():
            np.testing.assert_array_equal(array, other.tensors[key], strict=True)


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Network(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_written_is_read(path: Path) -> None:
    assert_is_the_original(path)


def test_metadata_and_tensors_are_as_documented(tmp_path: Path) -> None:
    make = Maker(0, (4, 5, 3))
    make.conv_bits(7, 3, 1, 1, 1, bases=2, kernels=3, mapped=True)
    write_network(tmp_path / "tiny.safetensors", "tiny", make.nodes, {"a": 1})
    metadata, tensors = parts(tmp_path / "tiny.safetensors")
    assert {key: metadata[key] for key in ("format", "model", "info")} == {
        "format": "rbsf-network-1", "model": "tiny", "info": '{"a": 1}',
    }  # fmt: skip
    assert json.loads(metadata["layers"]) == [
        {"name": "image", "op": "input", "inputs": [], "attributes": {"height": 4, "width": 5, "channels": 3}},
        {
            "name": "conv_bits.1", "op": "conv_bits", "inputs": ["image"],
            "attributes": {
                "kernel": 3, "stride": 1, "padding": 1, "groups": 1,
                "bits": [0, 0, 0, 1, 1, 1], "kernels": [0, 1, 2, 0, 1, 2],
            },
        },
    ]  # fmt: skip
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "conv_bits.1.threshold": ("float32", (2, 3)),
        "conv_bits.1.flip": ("uint8", (2, 3)),
        "conv_bits.1.weight": ("uint8", (3, 7, 4)),
        "conv_bits.1.scale": ("float32", (6, 7)),
        "conv_bits.1.bias": ("float32", (7,)),
        "conv_bits.1.map_scale": ("float32", (3,)),
        "conv_bits.1.map_bias": ("float32", (3,)),
    }


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no packed file"):
        Network(tmp_path / "none.safetensors")


def test_other_formats(path: Path) -> None:
    metadata, tensors = parts(path)
    with pytest.raises(ValueError, match="rbsf-network-1, and this version reads rbsf-packed-1 and rbsf-packed-2 here"):
        read_packed(path)
    save_file(tensors, path, metadata | {"format": "rbsf-network-2"})
    assert_refused(path, "rbsf-network-2, and this version reads rbsf-network-1")
    save_file(tensors, path)
    assert_refused(path, "no packed network")


def test_flipped_bit(path: Path) -> None:
    whole = path.read_bytes()
    for place in (whole.index(b"stride") + 10, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        assert_refused(path, "sha256")


# Nodes of small_network: 0 input, 1 affine, 2 conv, 3 conv_bits, 4 add, 5 conv_bits, 6 avg_pool, 7 conv, 8 add,
# 9 global_pool, 10 flatten, 11 linear.
@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (2, {"op": "conv_9"}, "node 'conv.2': unknown op 'conv_9'; this version knows input, affine"),
        (2, {"op": "input"}, "the first, and only it, is the input"),
        (0, {"op": "relu"}, "the first, and only it, is the input"),
        (2, {"op": "relu"}, r"\(relu\): has attributes"),
        (2, {"inputs": ["nothing"]}, "node 'conv.2' takes 'nothing', which no node before it makes"),
        (2, {"inputs": ["conv.2"]}, "takes 'conv.2', which no node before it makes"),
        (2, {"inputs": ["add.4"]}, "takes 'add.4', which no node before it makes"),
        (2, {"inputs": []}, "takes 1 inputs, 0 are given"),
        (4, {"inputs": ["conv.2"]}, "takes 2 inputs, 1 are given"),
        (4, {"inputs": ["conv.2", "image"]}, "takes maps of one shape"),
        (2, {"inputs": [3]}, "node 'conv.2': inputs are"),
        (2, {"inputs": "image"}, "a node is"),
        (2, {"name": 3}, "a node is"),
        (2, {"more": 1}, "a node is"),
        (2, {"name": "affine.1"}, "holds tensors of no node: conv.2|two nodes are called 'affine.1'"),
        (11, {"inputs": ["global_pool.9"]}, "takes a vector"),
        (9, {"inputs": ["flatten.10"]}, "no node before it"),
        (10, {"inputs": ["conv.2"]}, r"node 'linear.11' \(linear\): weight is float32 \[5, 24\], expected"),
    ],
)
def test_changed_node(path: Path, number: int, changes: dict[str, object], message: str) -> None:
    metadata, tensors = parts(path)
    nodes = json.loads(metadata["layers"])
    nodes[number].update(changes)
    sign(path, metadata | {"layers": json.dumps(nodes)}, tensors)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (0, {"height": 0}, "height=0, expected 1 to 16384"),
        (0, {"height": 1 << 40}, "height=1099511627776"),
        (0, {"height": 1 << 14, "width": 1 << 14}, "over 268,435,456 values"),
        (0, {"channels": 4}, r"scale is float32 \[3\], expected float32 \[4\]|bias is float32"),
        (2, {"kernel": 5}, "weight is float32"),
        (2, {"kernel": 0}, "kernel=0"),
        (2, {"kernel": 3.0}, "kernel=3.0"),
        (2, {"kernel": True}, "kernel=True"),
        (2, {"stride": -1}, "stride=-1"),
        (2, {"padding": 10**9}, "padding=1000000000"),
        (2, {"groups": 2}, "do not split into 2 groups"),
        (3, {"groups": 2}, "weight is uint8"),
        (3, {"bits": [1]}, r"bits=\[1\]: every number from 0"),
        (3, {"bits": []}, "expected 1 to 64 whole numbers"),
        (3, {"bits": [0] * 65}, "expected 1 to 64 whole numbers"),
        (3, {"bits": [0, 1]}, "bits are of 2 terms and kernels of 1"),
        (3, {"kernels": [-1]}, "every number from 0"),
        (3, {"kernels": [1 << 60]}, "every number from 0"),
        (3, {"kernels": "0"}, "whole numbers"),
        (6, {"ceil": 1}, "ceil=1, expected true or false"),
        (6, {"padding": 2}, "padding=2 is over half of kernel=2"),
        (6, {"kernel": 100}, "its output would be"),
        (6, {"extra": 1}, "has attributes"),
    ],
)
def test_changed_attribute(path: Path, number: int, changes: dict[str, object], message: str) -> None:
    metadata, tensors = parts(path)
    nodes = json.loads(metadata["layers"])
    nodes[number]["attributes"].update(changes)
    sign(path, metadata | {"layers": json.dumps(nodes)}, tensors)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("affine.1.scale", np.float32([1, np.nan, 1]), "not finite"),
        ("conv.2.bias", np.full(16, np.inf, np.float32), "not finite"),
        ("conv_bits.3.threshold", np.full((1, 16), np.nan, np.float32), "not finite"),
        ("conv_bits.3.scale", np.ones((1, 16)), "scale is float64"),
        ("conv_bits.3.scale", np.ones((2, 16), np.float32), r"scale is float32 \[2, 16\], expected float32 \[1, 16\]"),
        ("conv_bits.3.flip", np.full((1, 16), 2, np.uint8), "other than 0 and 1"),
        ("conv_bits.3.weight", np.zeros((16, 18), np.uint8), r"\(conv_bits\): "),
        ("conv_bits.3.weight", np.zeros((1, 0, 18), np.uint8), "1 to 16384 filters"),
        ("conv_bits.3.weight", np.zeros((), np.uint8), "1 to 16384 filters"),
        ("conv_bits.3.map_scale", np.ones(16, np.float32), "map_bias is absent"),
        ("conv_bits.3.more", np.ones(16, np.float32), "more is float32"),
        ("conv.99.weight", np.zeros(3, np.int8), "tensors of no node: conv.99"),
    ],
)
def test_changed_tensor(path: Path, name: str, array: np.ndarray, message: str) -> None:
    metadata, tensors = parts(path)
    tensors[name] = array
    sign(path, metadata, tensors)
    assert_refused(path, message)


def test_infinite_thresholds_are_good(path: Path) -> None:
    metadata, tensors = parts(path)
    tensors["conv_bits.3.threshold"] = np.full((1, 16), np.inf, np.float32)
    sign(path, metadata, tensors)
    assert np.isfinite(Network(path)(np.zeros((1, 12, 10, 3), np.uint8))).all()


def test_sizes_meant_to_exhaust_memory() -> None:
    image = Node("image", "input", (), {"height": 1 << 11, "width": 1 << 11, "channels": 1})
    window = {"kernel": 31, "stride": 1, "padding": 15, "groups": 1}
    weight = {"weight": np.zeros((1, 31, 31, 1), np.float32), "bias": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="its windows would take over 268,435,456 values"):
        NetworkModel("", (image, Node("a", "conv", ("image",), window, weight)), {})
    image = Node("image", "input", (), {"height": 1, "width": 1, "channels": 1 << 14})
    window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1, "bits": [0], "kernels": [0]}
    weight = {"weight": np.zeros((1, 1 << 14, 1 << 11), np.uint8)}
    with pytest.raises(ValueError, match="are too many"):
        NetworkModel("", (image, Node("a", "conv_bits", ("image",), window, weight)), {})


@pytest.mark.parametrize("key", ["layers", "info"])
@pytest.mark.parametrize("text", ["", "{", "3", "[" * 100_000, "null"])
def test_metadata_that_is_no_json(path: Path, key: str, text: str) -> None:
    metadata, tensors = parts(path)
    sign(path, metadata | {key: text}, tensors)
    assert_refused(path, f"metadata '{key}'")


@pytest.mark.parametrize("text", ["[]", "[1, 2]", '["a"]', "[{}, {}]", '[{"name": "a"}]'])
def test_nodes_that_are_none(path: Path, text: str) -> None:
    metadata, _ = parts(path)
    sign(path, metadata | {"layers": text}, {})
    assert_refused(path, "a node is|nodes: a packed network has 2 to")


def test_header_that_claims_more_than_there_is(path: Path) -> None:
    for claim in (1 << 62, 100 << 20, 1 << 20):
        path.write_bytes(struct.pack("<Q", claim) + path.read_bytes()[8:])
        assert_refused(path, "not a whole safetensors file")


def test_damaged_files_give_value_errors_alone(path: Path) -> None:
    """RBSF_FUZZ: how many files; `make sanitize` sets more."""
    whole, rng, refused = path.read_bytes(), np.random.default_rng(7), 0
    for number in range(int(os.environ.get("RBSF_FUZZ", 300))):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: rng.integers(len(data))]
        for place in rng.integers(len(data), size=rng.integers(1, 6)) if data and number % 3 else ():
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert_is_the_original(path)  # a blank of the header may have changed
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 (it may not be raised)
    assert refused > 0.99 * number


def test_signed_nonsense_gives_value_errors_alone(path: Path) -> None:
    """Files whose checksum fits, with numbers and names of their nodes exchanged at random, are refused or run."""
    metadata, tensors = parts(path)
    rng, refused = np.random.default_rng(3), 0
    values = [0, 1, 2, 3, 16, 17, -1, 1 << 31, 1 << 63, 0.5, "", "conv.2", "image", None, True, [], [0], [1, 0], {}]
    for _ in range(int(os.environ.get("RBSF_FUZZ", 300))):
        nodes = json.loads(metadata["layers"])
        for _ in range(rng.integers(1, 3)):
            node = nodes[rng.integers(len(nodes))]
            inner = isinstance(node.get("attributes"), dict) and node["attributes"] and rng.random() < 0.7
            part = node["attributes"] if inner else node
            part[str(rng.choice(sorted(part)))] = values[rng.integers(len(values))]
        sign(path, metadata | {"layers": json.dumps(nodes)}, tensors)
        try:
            network = Network(path)
            network(np.zeros((1, *network.input_shape), np.uint8))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 (it may not be raised)
    assert refused > 0
