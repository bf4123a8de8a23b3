from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from packed_models import random_model
from safetensors import safe_open
from safetensors.numpy import save_file

from rbsf.engine.packed import GEOMETRY, Layer, check_layer, digest, pack_whole, read_packed, write_packed

SMALL = [(3, 2, 0, 1, 3, 8, True), (3, 1, 1, 2, 8, 12, False), (1, 1, 0, 1, 12, 5, False)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = random_model(0, SMALL)
    write_packed(tmp_path / "net.safetensors", "rbsf", model.layers, {"source": "test"})
    return tmp_path / "net.safetensors"


def parts(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with safe_open(path, "numpy") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def sign(path: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, path, metadata | {"sha256": digest(metadata, tensors)})


def change_layer(path: Path, number: int, **changes: object) -> None:
    """Rewrite the metadata of one layer, with a checksum that fits."""
    metadata, tensors = parts(path)
    layers = json.loads(metadata["layers"])
    layers[number].update(changes)
    sign(path, metadata | {"layers": json.dumps(layers)}, tensors)


def change_tensor(path: Path, name: str, array: np.ndarray) -> None:
    """Put another array in, with a checksum that fits."""
    metadata, tensors = parts(path)
    tensors[name] = array
    sign(path, metadata, tensors)


def assert_is_the_original(path: Path) -> None:
    read = read_packed(path)
    assert (read.model, read.info) == ("rbsf", {"source": "test"})
    for layer, own in zip(read.layers, random_model(0, SMALL).layers, strict=True):
        assert [getattr(layer, key) for key in GEOMETRY] == [getattr(own, key) for key in GEOMETRY]
        for (name, array), (own_name, own_array) in zip(layer.tensors().items(), own.tensors().items(), strict=True):
            assert name == own_name
            np.testing.assert_array_equal(array, own_array, strict=True)


def test_what_is_written_is_read(path: Path) -> None:
    assert_is_the_original(path)


def test_metadata_and_tensors_are_as_documented(tmp_path: Path) -> None:
    first = Layer("conv_u8", "a", 1, 1, 0, 1, 1, 1, False, np.int8([[[[7]]]]), np.int32([35]))
    last = Layer("conv_bits_real", "b", 1, 1, 0, 1, 1, 1, False, np.uint8([[1]]), None, *np.float32([[2], [0.5]]))
    write_packed(tmp_path / "tiny.safetensors", "rbsf", [first, last], {})
    metadata, tensors = parts(tmp_path / "tiny.safetensors")
    assert metadata["format"] == "rbsf-packed-1"
    assert json.loads(metadata["layers"])[1] == {
        "kind": "conv_bits_real", "name": "b", "kernel": 1, "stride": 1, "padding": 0, "groups": 1,
        "inputs": 1, "outputs": 1, "pool": False,
    }  # fmt: skip
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "a.weight": ("int8", (1, 1, 1, 1)),
        "a.threshold": ("int32", (1,)),
        "b.weight": ("uint8", (1, 1)),
        "b.scale": ("float32", (1,)),
        "b.bias": ("float32", (1,)),
    }


def test_first_layer_of_few_bits(tmp_path: Path) -> None:
    whole = np.int8([[[[3], [-3]], [[0], [1]]]])
    packed = pack_whole(whole, 3)
    assert packed.tolist() == [[0b00_101_011, 0b0010]]  # the lowest bits first: 3, -3, 0, 1
    first = Layer("conv_u8", "a", 2, 1, 0, 1, 1, 1, False, packed, np.int32([35]), bits=3)
    last = Layer("conv_bits_real", "b", 1, 1, 0, 1, 1, 1, False, np.uint8([[1]]), None, *np.float32([[2], [0.5]]))
    write_packed(tmp_path / "few.safetensors", "rbsf", [first, last], {})
    assert parts(tmp_path / "few.safetensors")[0]["format"] == "rbsf-packed-2"
    (read, _) = read_packed(tmp_path / "few.safetensors").layers
    assert read.bits == 3
    assert read.whole.tolist() == [[3, -3, 0, 1]]
    change_tensor(tmp_path / "few.safetensors", "a.weight", np.uint8([[1]]))
    with pytest.raises(ValueError, match=r"weight is uint8 \[1, 1\], expected uint8 \[1, 2\]"):
        read_packed(tmp_path / "few.safetensors")


def test_few_bits_do_not_hide_weights_that_exhaust_memory() -> None:
    """18 MB of 2 bits a weight."""
    packed, thresholds = np.zeros((1 << 14, 1156), np.uint8), np.zeros(1 << 14, np.int32)
    layer = Layer("conv_u8", "a", 17, 1, 0, 1, 16, 1 << 14, False, packed, thresholds, bits=2)
    with pytest.raises(ValueError, match="layer 'a': its weights would take over 64 MB unpacked"):
        check_layer(layer)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no packed file"):
        read_packed(tmp_path / "none.safetensors")


def test_newer_format(path: Path) -> None:
    metadata, tensors = parts(path)
    save_file(tensors, path, metadata | {"format": "rbsf-packed-3"})
    with pytest.raises(ValueError, match="rbsf-packed-3, and this version reads rbsf-packed-1 and rbsf-packed-2"):
        read_packed(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="no packed network"):
        read_packed(path)


def test_flipped_bit(path: Path) -> None:
    whole = path.read_bytes()
    for place in (whole.index(b"stride") + 10, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="sha256"):
            read_packed(path)


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"kind": "conv_bits_9"}, "unknown kind 'conv_bits_9'"),
        (1, {"kind": "conv_bits_real"}, "must be conv_bits|threshold is"),
        (1, {"kernel": 5}, "weight is uint8"),
        (1, {"kernel": 0}, "kernel=0"),
        (1, {"kernel": 3.0}, "kernel=3.0"),
        (1, {"kernel": True}, "kernel=True"),
        (1, {"stride": -1}, "stride=-1"),
        (1, {"padding": 10**9}, "padding=1000000000"),
        (1, {"groups": 3}, "do not split into 3 groups"),
        (1, {"inputs": 1 << 40}, "inputs=1099511627776"),
        (1, {"inputs": 16, "groups": 4}, "takes 16 channels, 8 come"),
        (1, {"outputs": 14}, "weight is uint8"),
        (1, {"name": "other"}, "'other' has no weight"),
        (1, {"name": ["conv2"]}, "a layer is"),
        (1, {"more": 1}, "a layer is"),
        (2, {"pool": True}, "pool=True"),
        (0, {"padding": 1}, "padding=0"),
        (0, {"bits": 4}, "weight is int8"),
        (0, {"bits": 1}, "bits=1, expected 2 to 7"),
        (0, {"bits": 4.0}, "bits=4.0"),
        (1, {"bits": 4}, "bits=4, expected 2 to 7, in a conv_u8"),
    ],
)
def test_changed_layer(path: Path, number: int, changes: dict[str, object], message: str) -> None:
    change_layer(path, number, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_packed(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("conv3.scale", np.float32([1, 2, np.nan, 4, 5]), "not finite"),
        ("conv3.bias", np.full(5, np.inf, np.float32), "not finite"),
        ("conv3.scale", np.ones(5), "scale is float64"),
        ("conv2.threshold", np.zeros(11, np.int32), r"threshold is int32 \[11\], expected int32 \[12\]"),
        ("conv1.weight", np.full((8, 3, 3, 3), 64, np.int8), "beyond"),
        ("conv1.weight", np.full((8, 3, 3, 3), -128, np.int8), "beyond"),
        ("conv9.weight", np.zeros(3, np.int8), "tensors of no layer: conv9.weight"),
    ],
)
def test_changed_tensor(path: Path, name: str, array: np.ndarray, message: str) -> None:
    change_tensor(path, name, array)
    with pytest.raises(ValueError, match=message):
        read_packed(path)


@pytest.mark.parametrize("key", ["layers", "info"])
@pytest.mark.parametrize("text", ["", "{", "3", "[" * 100_000, "null"])
def test_metadata_that_is_no_json(path: Path, key: str, text: str) -> None:
    metadata, tensors = parts(path)
    sign(path, metadata | {key: text}, tensors)
    with pytest.raises(ValueError, match=f"metadata '{key}'"):
        read_packed(path)


def test_too_large_a_file(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ValueError, match="bytes; packed files have at most"):
        read_packed(path)


def test_header_that_claims_more_than_there_is(path: Path) -> None:
    for claim in (1 << 62, 100 << 20, 1 << 20):
        path.write_bytes(struct.pack("<Q", claim) + path.read_bytes()[8:])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_packed(path)


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
