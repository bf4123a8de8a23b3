"""Every parser of files, on damaged ones: each is read, or refused in one line that names it.

`make test-all` tries some, `make fuzz` many (EXAMPLES=100000 for each parser). Hypothesis keeps
failures in .hypothesis and tries them first from then on; also add them to REGRESSIONS, where they
stay.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_files import write
from random_networks import small_network
from reports import make_report

from rbsf.datasets.images.pickles import parse_pickle
from rbsf.datasets.pairs.crop_store import CropStore, CropWriter, make_crop
from rbsf.datasets.pairs.stills import read_stills
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.images import read_image
from rbsf.datasets.video.sequences import load_sequences
from rbsf.datasets.video.writer import VideoWriter
from rbsf.engine.run import Engine
from rbsf.eval.report import load_report
from rbsf.eval.results import read_result
from rbsf.models import build
from rbsf.tools.compare import compare, name_entries
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.tracker.flags import read_constants
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.checkpoint import load_checkpoint, save_checkpoint
from rbsf.train.config import from_settings, read_yaml
from rbsf.weights import load_weights, save_weights

EXAMPLES = int(os.environ.get("RBSF_EXAMPLES", 150))  # for each parser
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
WORDS = (
    b"nan",
    b"-inf",
    b"1e999",
    b"-1",
    b"0",
    b"9" * 400,
    b"\xb2",
    b"\xff\xfe",
    b"\x00",
    b"\n",
    b",",
    b":",
    b"[" * 50,
    b"{",
    b"}",
    b"'",
    b"&a *a",
    b"!!bool x",
    b"!!int ''",
    b"null",
    b"true",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
)
REGRESSIONS: dict[str, list[bytes]] = {
    "config.yaml": [b"epochs: !!bool x\n", b"epochs: !!int ''\n", b"? [a]\n: 1\n", b"lr: .nan\n"],
    "constants.yaml": [b"penalty: !!bool x\n", b"[" * 5000, b"\xff\xfe", b"- 1\n"],
    "groundtruth.txt": ["1\u00b2,2,3,4\n".encode(), b"1,2,3\n", b""],
    "boxes.csv": [b"", b"file,x,y,w,h\n0.png,1,2,3\n"],
    "report.json": [b"[" * 100_000, b'{"format": 1e999}'],
}

Edit = tuple[float, str, bytes]


class Parser(NamedTuple):
    """What reads a file of one kind, and what makes a whole one."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]


def _write_image(path: Path) -> None:
    path.write_bytes(cv2.imencode(path.suffix, PICTURE)[1].tobytes())


def _write_video(path: Path) -> None:
    with VideoWriter(path, 25) as video:
        for _ in range(4):
            video.write(PICTURE)


def _write_store(path: Path) -> None:
    with CropWriter(path) as writer:
        crop = make_crop(PICTURE, np.array([10.0, 10.0, 20.0, 20.0]), 0)
        writer.add_crops(writer.add_sequence("a", "car", "video"), [crop])
        writer.finish()


def _write_sequence(path: Path) -> None:
    path.write_text("1,2,20,20\n2,2,20,20\n")
    for number in (1, 2):
        _write_image(path.parent / f"{number:08d}.jpg")


def _write_boxes(path: Path) -> None:
    path.write_text("file,x,y,w,h\n0.png,1,2,20,20\n")
    _write_image(path.parent / "0.png")


def _read_pickle(path: Path) -> object:
    return parse_pickle(path.read_bytes(), path)


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({b"data": PICTURE[0], b"labels": [1, 2], b"name": b"x"}, 2))


def _read_store(path: Path) -> None:
    store = CropStore(path)
    for index in range(min(len(store), 3)):
        store.read(index)


def _compare(path: Path) -> object:
    return compare(name_entries([str(path)], [load_report(path)]))


PARSERS: dict[str, Parser] = {
    "packed.safetensors": Parser(lambda path: write(path, small_network()), Engine),
    "weights.safetensors": Parser(
        lambda path: save_weights(build("siamfc", width=0.05), "siamfc", path), load_weights
    ),
    "checkpoint.pt": Parser(
        lambda path: save_checkpoint(path, {"step": 3, "model": {"a": torch.ones(3)}}),
        load_checkpoint,
    ),
    "config.yaml": Parser(
        lambda path: path.write_text("epochs: 2\nseed: 1\nmethod: rbcn\nteacher: a.pth\n"),
        lambda path: from_settings(SiameseConfig, read_yaml(SiameseConfig, path)),
    ),
    "constants.yaml": Parser(
        lambda path: path.write_text("scale_step: 1.03\nwindow_influence: 0.2\n"),
        lambda path: read_constants(path, TrackerConfig),
    ),
    "groundtruth.txt": Parser(_write_sequence, lambda path: load_sequences(path.parent)),
    "result_001.txt": Parser(
        lambda path: path.write_text("1,2,3,4\n" * 3), lambda path: read_result(path, 3)
    ),
    "boxes.csv": Parser(_write_boxes, lambda path: read_stills(path.parent)),
    "clip.mp4": Parser(_write_video, lambda path: list(open_frames(path))),
    "clip.avi": Parser(_write_video, lambda path: list(open_frames(path))),
    "a.png": Parser(_write_image, read_image),
    "a.jpg": Parser(_write_image, read_image),
    "a.webp": Parser(_write_image, read_image),
    "a.tif": Parser(_write_image, read_image),
    "data_batch_1": Parser(_write_pickle, _read_pickle),
    "pairs.db": Parser(_write_store, _read_store),
    "report.json": Parser(lambda path: path.write_text(json.dumps(make_report())), _compare),
}

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(("flip", "cut", "put", "over", "drop")),
        st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=4)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    """A file's bytes after some edits, each at a place given as a share of the length."""
    for share, how, word in edits:
        place = min(int(share * len(data)), max(len(data) - 1, 0))
        before, behind = data[:place], data[place:]
        data = {
            "flip": before + bytes(byte ^ word[0] or 1 for byte in behind[:1]) + behind[1:],
            "cut": before,
            "put": before + word + behind,
            "over": before + word + behind[len(word) :],
            "drop": before + behind[len(word) :],
        }[how]
    return data


def check(parser: Parser, path: Path, data: bytes) -> None:
    """Read a file of this content: that works, or ends in one line that names the file."""
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser.read(path)
    except (ValueError, OSError) as error:
        lines = str(error)
        assert "\n" not in lines.strip()
        assert path.name in lines or path.parent.name in lines, lines


@pytest.mark.parametrize("name", sorted(REGRESSIONS))
def test_what_once_failed(name: str, tmp_path: Path) -> None:
    PARSERS[name].make(tmp_path / name)
    for data in REGRESSIONS[name]:
        check(PARSERS[name], tmp_path / name, data)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("checkpoint.pt", b"archive/data.pkl", b"ar\nhive/data.pkl"),  # quoted in a message
        ("pairs.db", b"CREATE TABLE sequences", b"CREATE \x9aABLE sequences"),  # SQLite quotes it
        ("pairs.db", b"TABLE sequences (\n", b"TABLE sequences ([\n"),
    ],
)
def test_names_that_break_messages(name: str, old: bytes, new: bytes, tmp_path: Path) -> None:
    parser, path = PARSERS[name], tmp_path / name
    parser.make(path)
    before, found, behind = path.read_bytes().rpartition(old)
    assert found
    check(parser, path, before + new + behind)


@pytest.mark.slow
@pytest.mark.timeout(1_500 + EXAMPLES // 2)  # a damaged video takes up to 0.2 s
@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_damaged_file_is_read_or_named(name: str, tmp_path: Path) -> None:
    parser, path = PARSERS[name], tmp_path / name
    parser.make(path)
    whole = path.read_bytes()

    @settings(
        max_examples=EXAMPLES,
        deadline=20_000,  # milliseconds
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(EDITS)
    def attempt(edits: list[Edit]) -> None:
        check(parser, path, damaged(whole, edits))

    attempt()
