"""Data that people had trouble with: read rightly, or named in a line that says why it is not."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_otb
from requirements import case
from test_sequences import BOXES, make_got10k, make_otb, write_lines

from rbsf.datasets.synthetic.videos import write_video
from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.run_benchmarks import main as run_benchmarks
from rbsf.system.text import read_text

BOX = [11.0, 11.0, 10.0, 10.0]


def scored(root: Path, out: Path, code: int) -> dict[str, Any]:
    """The report on a folder of sequences, which the program ends with this exit code."""
    flags = ["--dataset", "folder", "--root", str(root), "--out", str(out), "--workers", "1"]
    assert run_benchmarks([*flags, "--tracker", "static"]) == code
    (path,) = (out / "reports").glob("*/report.json")
    return json.loads(path.read_text())


def failed_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("failed")]
    return line


# ---- sequences


def test_boxes_come_from_the_annotation_that_is_named_as_published() -> None:
    root = case("11-two-groundtruths")
    with pytest.warns(UserWarning, match=r"from groundtruth_rect\.txt; left out: .*_old\.txt"):
        (sequence,) = load_sequences(root)
    assert sequence.boxes[:2].tolist() == [[20, 20, 32, 32], [23, 22, 32, 32]]


def test_two_annotations_of_which_neither_is_named_as_published_are_refused(tmp_path: Path) -> None:
    two = {"groundtruth_new.txt": BOXES, "groundtruth_old.txt": BOXES}
    make_otb(tmp_path, "Dog", range(1, 4), two)
    make_otb(tmp_path, "Girl", range(1, 4), {"groundtruth_rect.txt": BOXES})
    broken: dict[str, str] = {}
    assert [s.name for s in load_sequences(tmp_path, broken=broken)] == ["Girl"]
    assert broken["Dog"].startswith("sequence Dog: ")
    assert "groundtruth_new.txt and" in broken["Dog"]
    assert "groundtruth_old.txt are all named so" in broken["Dog"]


def test_one_annotation_that_is_no_utf8_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored(case("13-annotation-not-utf8"), tmp_path, code=1)
    assert list(found["trackers"][0]["sequences"]) == ["Good"]
    line = failed_line(capsys)
    assert line.startswith("failed: Bad: ")
    assert "Bad/groundtruth_rect.txt line 1: not UTF-8 text; save it as UTF-8" in line
    assert "UTF-16" in line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_told(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "groundtruth.txt"
    path.write_bytes("1,2,3,4\n".encode(encoding))
    with pytest.raises(ValueError, match=r"groundtruth\.txt line 1: not UTF-8 text; .*UTF-16"):
        read_text(path)


@pytest.mark.parametrize("name", ["list.txt", "a/groundtruth.txt", "a/absence.label"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, name: str) -> None:
    make_got10k(tmp_path)
    (tmp_path / "a" / "absence.label").write_text("0\n1\n0\n")
    plain = [sequence.boxes.tolist() for sequence in load_sequences(tmp_path)]
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = [sequence.boxes.tolist() for sequence in load_sequences(tmp_path)]
    np.testing.assert_equal(marked, plain)


def test_lasot_has_its_own_names_and_labels() -> None:
    sequences = load_sequences(case("14-lasot"))
    assert [sequence.name for sequence in sequences] == ["airplane-1", "airplane-13", "lion-5"]
    for sequence in sequences:
        assert sequence.boxes[0].tolist() == [20, 20, 32, 32]
        absent = np.flatnonzero(np.isnan(sequence.boxes).any(axis=1))
        assert absent.tolist() == [5, 6, 15]


def test_a_box_that_is_none_is_still_refused_where_no_label_says_absent(tmp_path: Path) -> None:
    shutil.copytree(case("14-lasot") / "lion-5", tmp_path / "lion-5")
    (tmp_path / "lion-5" / "out_of_view.txt").write_text(",".join("0" * 16))
    with pytest.raises(ValueError, match=r"groundtruth\.txt line 16: '1,1,-1,-1' is not a box"):
        load_sequences(tmp_path)


def test_frames_that_were_numbered_anew_are_all_taken() -> None:
    (david,) = load_sequences(case("19-david-renumbered"))
    assert [Path(david.frames[i]).name for i in (0, 15)] == ["0001.jpg", "0016.jpg"]
    assert david.boxes[0].tolist() == [20, 20, 32, 32]


def test_renumbered_frames_with_a_gap_are_not_guessed_at(tmp_path: Path) -> None:
    make_otb(tmp_path, "David", range(1, 5), {"groundtruth_rect.txt": BOXES})
    (tmp_path / "David" / "img" / "0002.jpg").unlink()
    with pytest.raises(ValueError, match=r"sequence David: 0 frames in .* but 3 boxes"):
        load_sequences(tmp_path)


def test_videos_of_all_endings_are_scored_and_twins_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored(case("20-videos-left-out"), tmp_path, code=1)
    assert list(found["trackers"][0]["sequences"]) == ["a", "b", "c"]
    line = failed_line(capsys)
    assert "failed: d: " in line
    assert "d.mov and " in line
    assert "d.mp4 are all named so; keep or rename all but one" in line


def test_what_lies_beside_the_sequences_is_named(tmp_path: Path) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": BOXES})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / ".cache").mkdir()
        (tmp_path / "README.txt").write_text("OTB, 100 sequences\n")
        load_sequences(tmp_path)
    make_otb(tmp_path, "Girl", range(1, 4), {"boxes.txt": BOXES})
    make_otb(tmp_path / "more", "Car", range(1, 4), {"groundtruth_rect.txt": BOXES})
    with pytest.warns(UserWarning, match=r"2 beside its sequences left out.*: Girl, more$"):
        load_sequences(tmp_path)


def test_videos_of_unknown_endings_are_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 0, 3, (96, 64))
    (tmp_path / "b.vob").write_bytes(b"x")
    write_lines(tmp_path / "b.txt", BOXES)
    with pytest.warns(UserWarning, match=r"2 beside its sequences left out.*: b\.txt, b\.vob$"):
        assert [sequence.name for sequence in load_sequences(tmp_path)] == ["a"]


def test_the_size_of_frames_may_change_on_the_way(tmp_path: Path) -> None:
    flags = ["--dataset", "folder", "--root", str(case("P4-got10k-resolution-change"))]
    assert run_benchmarks([*flags, "--out", str(tmp_path), "--workers", "1"]) == 0
    (path,) = (tmp_path / "reports").glob("*/report.json")
    assert json.loads(path.read_text())["trackers"][0]["mean"]["ao"] > 0.85


# ---- results


def annotations(folder: Path) -> Path:
    """Boxes of three sequences of OTB, as many as it has."""
    for name, count in {"Jogging.1": 307, "Tiger1": 354, "Crossing": 120}.items():
        write_lines(folder / f"{name}.txt", ["100,100,30,40"] * count)
    return folder


def test_results_of_other_toolkits_are_understood_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = case("23-pytracking-and-pysot-results") / "res"
    truth = annotations(tmp_path / "truth")
    flags = ["--dataset", "OTB100", "--annotations", str(truth), "--out", str(tmp_path / "out")]
    names = ["--sequences", "Jogging.1", "Tiger1", "Crossing"]
    assert run_benchmarks([*flags, *names, "--results", f"x={results}"]) == 1
    shown = capsys.readouterr()
    assert "2 of 3 sequences" in shown.out
    (line,) = [each for each in shown.err.splitlines() if each.startswith("failed")]
    assert line.startswith("failed: x: Tiger1: ")
    assert "Tiger1.txt holds 349 boxes but the sequence 354 frames; " in line
    assert "pytracking leaves out the first 5 of Tiger1; put 5 lines in front" in line
    report = json.loads((tmp_path / "out/reports/OTB100/report.json").read_text())
    assert list(report["trackers"][0]["sequences"]) == ["Jogging.1", "Crossing"]


def test_two_results_of_one_sequence_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotations(tmp_path / "truth")
    for name in ("Jogging-1", "Jogging_1", "Crossing"):
        write_lines(tmp_path / "res" / f"{name}.txt", ["100,100,30,40"] * 307)
    flags = ["--dataset", "OTB100", "--annotations", str(truth), "--out", str(tmp_path / "out")]
    flags += ["--sequences", "Jogging.1", "--results", f"x={tmp_path / 'res'}"]
    assert run_benchmarks(flags) == 1
    assert "Jogging_1.txt are all of Jogging.1; keep one" in capsys.readouterr().err


def test_a_result_that_is_no_utf8_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "OTB"
    for name in ("Girl", "Dog"):
        write_otb(root, name, [BOX] * 4)
        write_lines(tmp_path / "res" / f"{name}.txt", ["11,11,10,10"] * 4)
    path = tmp_path / "res" / "Dog.txt"
    path.write_bytes(path.read_text().encode("utf-16"))
    flags = ["--dataset", "folder", "--root", str(root), "--out", str(tmp_path / "out")]
    flags += ["--tracker", "static", "--results", f"x={tmp_path / 'res'}", "--workers", "1"]
    assert run_benchmarks(flags) == 1
    line = failed_line(capsys)
    assert line.startswith("failed: x: Dog: ")
    assert "Dog.txt line 1: not UTF-8 text" in line
