"""The benchmark program on tiny OTB folders: run, resume, scores, broken data."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.sequences import load_sequences
from eval.run_benchmarks import find_sequences, main
from eval.runner import (
    Run,
    StaticTracker,
    TrackerSpec,
    load_run,
    run_tracker,
    save_run,
    score_runs,
    track_sequence,
)
from tracker.siamfc import TrackerConfig

REPO = Path(__file__).resolve().parents[1]


def write_otb(root: Path, name: str, boxes: list[list[float]]) -> None:
    """An OTB sequence of noise; boxes are written as OTB does, counted from 1."""
    (root / name / "img").mkdir(parents=True)
    for i in range(1, len(boxes) + 1):
        noise = np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(root / name / "img" / f"{i:04d}.jpg"), noise)
    lines = [",".join(f"{v:g}" for v in box) for box in boxes]
    (root / name / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    root = tmp_path / "OTB"
    write_otb(root, "Girl", [[11, 11, 10, 10]] * 4)
    write_otb(root, "Dog", [[11, 11, 10, 10], [16, 11, 10, 10], [41, 11, 10, 10]])  # overlaps 1/3 and 0
    return root


def arguments(root: Path, out: Path, *more: str, dataset: str = "OTB100", tracker: str = "static") -> list[str]:
    return ["--dataset", dataset, "--root", str(root), "--out", str(out), "--tracker", tracker, *more]


def test_scores_table_and_json(otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(otb, tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "2 of 100 (a part: not comparable to published numbers) sequences, 7 frames" in shown
    result = json.loads((tmp_path / "out/OTB100/results.json").read_text())["trackers"][0]
    assert result["sequences"]["Girl"] == {"auc": pytest.approx(20 / 21), "precision": 1, "ao": 1, "sr50": 1}
    assert result["sequences"]["Dog"]["ao"] == pytest.approx(1 / 6)
    assert result["mean"]["ao"] == pytest.approx((1 + 1 / 6) / 2)
    assert f"{result['mean']['auc']:.3f}" in shown
    boxes = np.loadtxt(tmp_path / "out/OTB100/static/Dog.txt", delimiter=",")
    np.testing.assert_array_equal(boxes, [[10, 10, 10, 10]] * 3)  # 0-based


def test_finished_sequences_are_not_run_again(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb, tmp_path / "out"))
    kept = tmp_path / "out/OTB100/static/Girl.txt"
    kept.write_text("10,10,5,10\n" * 4)
    (tmp_path / "out/OTB100/static/Dog.txt").unlink()
    main(arguments(otb, tmp_path / "out"))
    result = json.loads((tmp_path / "out/OTB100/results.json").read_text())["trackers"][0]
    assert result["sequences"]["Girl"]["ao"] == pytest.approx(0.5)
    assert result["sequences"]["Dog"]["ao"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("text", "fault"), [("1,2,3,4\n", "1 boxes but the sequence 4"), ("what\n", "damaged")])
def test_damaged_result_is_named(otb: Path, tmp_path: Path, text: str, fault: str) -> None:
    main(arguments(otb, tmp_path / "out"))
    (tmp_path / "out/OTB100/static/Girl.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"Girl.txt.*{fault}"):
        main(arguments(otb, tmp_path / "out"))


@pytest.mark.parametrize("place", ["moved", "same"])
def test_result_of_other_frames_or_another_first_box_is_run_again(otb: Path, tmp_path: Path, place: str) -> None:
    main(arguments(otb, tmp_path / "out"))
    other = tmp_path / "other"
    write_otb(other, "Girl", [[11, 11, 10, 10]] * 4 if place == "moved" else [[31, 31, 10, 10]] * 4)
    if place == "same":
        (otb / "Girl/groundtruth_rect.txt").write_bytes((other / "Girl/groundtruth_rect.txt").read_bytes())
        other = otb
    (tmp_path / "out/OTB100/static/Girl.txt").write_text("0,0,5,5\n" * 4)  # what a reuse would score
    main(arguments(other, tmp_path / "out"))
    result = json.loads((tmp_path / "out/OTB100/results.json").read_text())["trackers"][0]
    assert result["sequences"]["Girl"]["ao"] == 1


def test_target_that_is_absent_at_first_is_tracked_from_its_first_box(otb: Path, tmp_path: Path) -> None:
    late = ["nan,nan,nan,nan", "11,11,10,10", "16,11,10,10", "41,11,10,10"]  # overlaps 1/3 and 0
    (otb / "Girl/groundtruth_rect.txt").write_text("\n".join(late) + "\n")
    girl = next(s for s in load_sequences(otb, "otb") if s.name == "Girl")
    run = track_sequence(StaticTracker(), girl)
    np.testing.assert_array_equal(run.boxes, [[0] * 4] + [[10, 10, 10, 10]] * 3)
    save_run(run, tmp_path, girl)
    assert score_runs([girl], tmp_path)[0]["Girl"].ao == pytest.approx(1 / 6)


def test_sequence_without_any_box_is_named_and_fails_alone(otb: Path, tmp_path: Path) -> None:
    dog, girl = load_sequences(otb, "otb")
    blank = dataclasses.replace(girl, boxes=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="sequence Girl: none of its 4 frames has a box"):
        track_sequence(StaticTracker(), blank)
    failed = run_tracker(TrackerSpec(None), [blank, dog], tmp_path)
    assert list(failed) == ["Girl"]
    assert list(score_runs([blank, dog], tmp_path)[0]) == ["Dog"]


def test_unreadable_frame_fails_its_sequence_alone(
    otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (otb / "Dog/img/0002.jpg").write_bytes(b"")
    assert main(arguments(otb, tmp_path / "out")) == 1
    captured = capsys.readouterr()
    assert "0002.jpg" in captured.err
    assert " 0.952 " in captured.out  # Girl alone
    assert not (tmp_path / "out/OTB100/static/Dog.txt").exists()


def test_otb50_is_a_part_of_otb100(otb: Path) -> None:
    assert [s.name for s in find_sequences("OTB50", otb)] == ["Girl"]


def test_two_targets_of_one_folder_belong_to_otb50(tmp_path: Path) -> None:
    write_otb(tmp_path, "Skating2-2", [[11, 11, 10, 10]] * 2)
    assert len(find_sequences("OTB50", tmp_path)) == 1


@pytest.mark.parametrize(
    ("tracker", "fault"), [("nothing.safetensors", "no weights file nothing.safetensors"), ("rbfs", "'rbfs'")]
)
def test_missing_tracker_is_named(otb: Path, tmp_path: Path, tracker: str, fault: str) -> None:
    with pytest.raises(FileNotFoundError, match=fault):
        main(arguments(otb, tmp_path / "out", tracker=tracker))


def test_weights_or_constants_that_change_get_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"one")
    first = TrackerSpec(path).folder_name()
    assert first.startswith("net-")
    assert TrackerSpec(path, "bfloat16").folder_name() == first + "-bfloat16"
    with monkeypatch.context() as patch:
        patch.setattr("eval.runner.TrackerConfig", lambda: TrackerConfig(scale_step=1.05))
        assert TrackerSpec(path).folder_name() != first
    path.write_bytes(b"two")
    assert TrackerSpec(path).folder_name() != first


def test_run_is_kept_to_a_ten_thousandth_of_a_pixel(otb: Path, tmp_path: Path) -> None:
    sequence = load_sequences(otb, "otb")[0]
    run = Run(np.random.default_rng(0).normal(size=(len(sequence), 4)) * 100, np.full(len(sequence), 0.0125))
    save_run(run, tmp_path, sequence)
    loaded = load_run(tmp_path, sequence)
    assert loaded is not None
    np.testing.assert_allclose(loaded.boxes, run.boxes, atol=5.1e-5)
    np.testing.assert_array_equal(loaded.seconds, run.seconds)


def test_static_tracker_starts_on_the_first_box(otb: Path) -> None:
    dog = next(s for s in load_sequences(otb, "otb") if s.name == "Dog")
    np.testing.assert_array_equal(track_sequence(StaticTracker(), dog).boxes, [[10, 10, 10, 10]] * 3)


def test_workers_give_the_boxes_of_one_process(otb: Path, tmp_path: Path) -> None:
    from rbsf.models import build
    from rbsf.weights import save_weights

    weights = tmp_path / "tiny.safetensors"
    save_weights(build("rbsf"), "rbsf", weights)
    sequences = load_sequences(otb, "otb")
    for workers in (1, 2):
        assert run_tracker(TrackerSpec(weights), sequences, tmp_path / str(workers), workers) == {}
    for sequence in sequences:
        name = f"{sequence.name}.txt"
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()


def test_program_reports_a_wrong_root_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "eval/run_benchmarks.py"), *arguments(tmp_path / "no", tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "no") in done.stderr
