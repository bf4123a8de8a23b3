"""Damaged packed files of classifiers and trackers are refused in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packed_files import (
    FUZZ,
    assert_holds,
    assert_refused,
    change_metadata,
    is_refused,
    write,
)
from packed_models import SMALL, random_model
from random_networks import small_network

from rbsf.engine.file import read_metadata, read_packed
from rbsf.engine.run import Engine


@pytest.fixture(params=[small_network(), random_model(0, SMALL)], ids=["classifier", "tracker"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A whole file of this network."""
    write(tmp_path / "net.safetensors", request.param)
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("load", [Engine, read_packed])
def test_a_missing_file_is_named(tmp_path: Path, load: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError, match="no packed file"):
        load(tmp_path / "none.safetensors")
    assert read_metadata(tmp_path / "none.safetensors") == {}


def test_a_file_that_is_too_large_is_refused(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate((64 << 20) + 1)
    assert_refused(path, "bytes; packed files have at most")


def test_a_flipped_bit_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for place in (whole.index(b"stride") + 10, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        assert_refused(path, "sha256")


@pytest.mark.parametrize("key", ["layers", "info"])
@pytest.mark.parametrize("text", ["", "{", "3", "[" * 100_000, "null"])
def test_metadata_that_is_no_json_is_refused(path: Path, key: str, text: str) -> None:
    change_metadata(path, **{key: text})
    assert_refused(path, f"metadata '{key}'")


def test_a_header_that_claims_more_than_there_is_is_refused(path: Path) -> None:
    for claim in (1 << 62, 100 << 20, 1 << 20):
        path.write_bytes(struct.pack("<Q", claim) + path.read_bytes()[8:])
        assert_refused(path, "not a whole safetensors file")


def test_damaged_files_give_value_errors_alone(path: Path) -> None:
    """A third of the files is cut short; the others have bytes exchanged at random.

    A file that is read all the same holds the original: the damage hit a blank in its header.
    """
    original, whole = read_packed(path), path.read_bytes()
    rng, refused = np.random.default_rng(7), 0
    for number in range(FUZZ):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=rng.integers(1, 6)):
                data[place] = rng.integers(256)
        path.write_bytes(data)
        refused += is_refused(lambda: assert_holds(path, original))
    assert refused > 0.99 * number
