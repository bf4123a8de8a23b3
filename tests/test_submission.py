"""The archive for GOT-10k's server: what is in it, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from rbsf.datasets.video.sequences import Sequence, load_sequences
from rbsf.eval.results import ResultStore, Run
from rbsf.eval.submission import write_submission

NAMES = [f"GOT-10k_Test_{i:06d}" for i in (1, 2, 3)]
MEMBERS = {f"{name}/{name}_{end}.txt" for name in NAMES for end in ("001", "time")}
BOXES = "1.000,2.000,30.000,40.000\n"


@pytest.fixture
def sequences(tmp_path: Path) -> list[Sequence]:
    """A test split: frames, and a box for the first one alone."""
    for length, name in enumerate(NAMES, 2):
        folder = tmp_path / "GOT-10k/test" / name
        folder.mkdir(parents=True)
        (folder / "groundtruth.txt").write_text("1.0000,2.0000,30.0000,40.0000\n")
        for i in range(1, length + 1):
            cv2.imwrite(str(folder / f"{i:08d}.jpg"), np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "GOT-10k/test/list.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return load_sequences(tmp_path / "GOT-10k/test", "got10k")


@pytest.fixture
def store(tmp_path: Path, sequences: list[Sequence]) -> ResultStore:
    """Results of two runs of a tracker over all of it."""
    store = ResultStore(tmp_path / "results/GOT-10k/ours-1a2b3c4d", per_sequence=True)
    for sequence in sequences:
        for number in (1, 2):
            boxes = np.tile([number, 2.0, 30, 40], (len(sequence), 1))
            store.save(sequence, Run(boxes, np.full(len(sequence), number / 8)), number)
    return store


def texts(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_archive_holds_boxes_and_times_of_each_sequence(
    tmp_path: Path, store: ResultStore, sequences: list[Sequence]
) -> None:
    write_submission(tmp_path / "ours.zip", store, sequences)
    found = texts(tmp_path / "ours.zip")
    assert set(found) == MEMBERS
    assert found[f"{NAMES[0]}/{NAMES[0]}_001.txt"] == BOXES * 2
    assert found[f"{NAMES[2]}/{NAMES[2]}_001.txt"] == BOXES * 4
    # Times have no comment, and are those of the first of two runs.
    assert found[f"{NAMES[0]}/{NAMES[0]}_time.txt"] == "0.12500000\n" * 2
    assert not [name for name, text in found.items() if "#" in text or "nan" in text]


def test_an_archive_of_two_runs_has_both(
    tmp_path: Path, store: ResultStore, sequences: list[Sequence]
) -> None:
    write_submission(tmp_path / "ours.zip", store, sequences, runs=2)
    found = texts(tmp_path / "ours.zip")
    assert set(found) == MEMBERS | {f"{name}/{name}_002.txt" for name in NAMES}
    assert found[f"{NAMES[0]}/{NAMES[0]}_002.txt"] == "2.000,2.000,30.000,40.000\n" * 2
    assert found[f"{NAMES[0]}/{NAMES[0]}_time.txt"] == "0.12500000,0.25000000\n" * 2


def test_toolkit_reads_the_archive(
    tmp_path: Path, store: ResultStore, sequences: list[Sequence]
) -> None:
    write_submission(tmp_path / "ours.zip", store, sequences)
    with zipfile.ZipFile(tmp_path / "ours.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    for sequence in sequences:
        # This is where got10k.experiments.got10k looks for it.
        folder = tmp_path / "unpacked" / sequence.name
        expected = [f"{sequence.name}_001.txt"]
        assert [file.name for file in folder.glob(f"{sequence.name}_[0-9]*.txt")] == expected
        boxes = np.loadtxt(folder / f"{sequence.name}_001.txt", delimiter=",")
        assert boxes.tolist() == [[1, 2, 30, 40]] * len(sequence)
        times = np.loadtxt(folder / f"{sequence.name}_time.txt", delimiter=",")
        assert times.tolist() == [0.125] * len(sequence)


def test_missing_result_is_named(
    tmp_path: Path, store: ResultStore, sequences: list[Sequence]
) -> None:
    store.forget(NAMES[1], 2)
    write_submission(tmp_path / "one.zip", store, sequences, runs=1)
    message = f"no submission: {NAMES[1]} has no result of ours-1a2b3c4d"
    with pytest.raises(ValueError, match=message):
        write_submission(tmp_path / "ours.zip", store, sequences, runs=2)
    assert not (tmp_path / "ours.zip").exists()


def test_box_that_is_no_number_is_refused(
    tmp_path: Path, store: ResultStore, sequences: list[Sequence]
) -> None:
    store.boxes_path(NAMES[1]).write_text(BOXES * 2 + "nan,nan,nan,nan\n")
    fault = rf"no submission: .*{NAMES[1]}_001\.txt: box 3 is not finite"
    with pytest.raises(ValueError, match=fault):
        write_submission(tmp_path / "ours.zip", store, sequences)
    assert not (tmp_path / "ours.zip").exists()
