"""Pickles of data sets: plain data and arrays are read, and all else is refused."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from rbsf.datasets.images.pickles import parse_pickle


def test_protocols_and_layouts_of_arrays_read_alike():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for protocol in range(6):
        for stored in (array, np.asfortranarray(array)):
            read = parse_pickle(pickle.dumps({"data": stored}, protocol), "file")
            assert read["data"].tolist() == array.tolist()
            assert read["data"].dtype == np.uint8


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Hostile(os.system, "touch owned"), "posix.system"),
        (Hostile(eval, "1"), "eval"),
        (Hostile(getattr, "", "join"), "getattr"),
        ({"data": Hostile(np.load, "x")}, "load"),
        (np.array([{}], dtype=object), "'O8'"),
        (np.array([(1, 2)], dtype="i4,i4"), "'V8'"),
        (np.arange(3, dtype=">i4"), "byte order '>'"),
        (torch.Size([1]), "torch.Size"),
        (Hostile(np.dtype, "S100000"), "S100000"),
    ],
)
def test_a_pickle_that_asks_for_more_than_data_is_refused(
    tmp_path, monkeypatch, value, name, protocol
):
    monkeypatch.chdir(tmp_path)
    text = refused(
        lambda: parse_pickle(pickle.dumps(value, protocol), tmp_path / "train"),
        tmp_path / "train",
        name,
    )
    assert "only plain data and arrays are read" in text
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x02}",
        b"\x80\x63}.",
        b"\x8e" + b"\xff" * 7 + b"\x3f.",  # BINBYTES8 of 4 exabytes
        b"))R.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\nndarray\n}b.",
        b"cnumpy\nndarray\n)R.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x82\x01.",
        b"Pid\n.",
        b"((((",
        b"]" * 100_000 + b"a" * 100_000,
    ],
)
def test_a_damaged_pickle_is_refused_by_name(content):
    refused(
        lambda: parse_pickle(content, "folder/train"),
        "folder/train: not a pickle, cut short or damaged",
    )


def test_a_memo_of_two_billion_entries_is_not_allocated():
    assert parse_pickle(b"]r\xff\xff\xff\x7f.", "f") == []


@pytest.mark.parametrize("rows", [b"K\x05", b"M\xff\xff"])
def test_an_array_whose_shape_and_bytes_disagree_is_refused(rows):
    content = pickle.dumps({"data": np.zeros((4, 3072), np.uint8)}, 2)
    wrong = content.replace(b"K\x04M\x00\x0c", rows + b"M\x00\x0c")
    assert wrong != content
    refused(lambda: parse_pickle(wrong, "f"), "shape", "12288 bytes")


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_flipped_byte_is_read_or_refused_in_one_line(where, value):
    content = bytearray(
        pickle.dumps({"data": np.arange(64, dtype=np.uint8), "labels": [1, 2, 300], "n": [b"a"]}, 2)
    )
    content[where % len(content)] = value
    try:
        parse_pickle(bytes(content), "file")
    except ValueError as error:
        assert str(error).startswith("file: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
