"""The benchmark program end to end on tiny folders: runs, shards, repeats, reports, bad data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, write_otb

from rbsf.datasets.synthetic.videos import write_got10k, write_video
from rbsf.eval import evaluation, run_benchmarks
from rbsf.eval.benchmarks import (
    BENCHMARKS,
    default_root,
    find_split,
    held_out_names,
    paper_scores,
    read_annotations,
)
from rbsf.eval.run_benchmarks import main, parse_args

BOX = [11.0, 11.0, 10.0, 10.0]
RESULTS = "out/results/OTB2015/static"


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    root = tmp_path / "OTB"
    write_otb(root, "Girl", [BOX] * 4)
    write_otb(root, "Dog", [BOX, [16, 11, 10, 10], [41, 11, 10, 10]])  # overlaps 1, 1/3 and 0
    return root


def arguments(
    root: Path, *more: str, dataset: str = "OTB100", tracker: str = "static"
) -> list[str]:
    folders = ["--root", str(root), "--out", str(root.parent / "out")]
    return ["--dataset", dataset, *folders, "--tracker", tracker, "--workers", "1", *more]


def report(root: Path, dataset: str = "OTB100") -> dict[str, Any]:
    return json.loads((root.parent / "out/reports" / dataset / "report.json").read_text())


def test_a_run_leaves_scores_a_table_a_report_and_files(
    otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(otb, "--json", str(tmp_path / "copy.json"))) == 0
    shown = capsys.readouterr().out
    assert "OTB100 (2 of 100 sequences); missing: Basketball, " in shown
    found = report(otb)
    assert found == json.loads((tmp_path / "copy.json").read_text())
    assert found["title"] == "OTB100 (2 of 100 sequences)"
    assert len(found["missing"]) == 98
    row = found["trackers"][0]
    assert row["sequences"]["Girl"]["auc"] == pytest.approx(20 / 21)
    assert row["sequences"]["Dog"]["ao"] == pytest.approx(4 / 9)
    assert row["mean"]["ao"] == pytest.approx((1 + 4 / 9) / 2)
    assert f"{row['mean']['auc']:.3f}" in shown
    assert found["paper"]["scores"]["RB-SF"] == {"precision": 0.786, "success": 0.572}
    for name in ("report.html", "report.md"):
        assert "OTB100 (2 of 100 sequences)" in (tmp_path / "out/reports/OTB100" / name).read_text()
    boxes = np.loadtxt(tmp_path / RESULTS / "Dog.txt", delimiter=",")
    np.testing.assert_array_equal(boxes, [BOX] * 3)  # OTB's files count from 1


def test_finished_sequences_are_not_run_again(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb))
    (tmp_path / RESULTS / "Girl.txt").write_text("11,11,5,10\n" * 4)
    (tmp_path / RESULTS / "Dog.txt").unlink()
    main(arguments(otb))
    rows = report(otb)["trackers"][0]["sequences"]
    assert rows["Girl"]["ao"] == pytest.approx((1 + 3 * 0.5) / 4)
    assert rows["Dog"]["ao"] == pytest.approx(4 / 9)
    main(arguments(otb, "--no-resume"))
    assert report(otb)["trackers"][0]["sequences"]["Girl"]["ao"] == 1


def test_results_stay_where_a_tracker_cannot_be_run_again(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb))
    message = "device 'none': the packed engine runs on the CPU; add --engine torch"
    with pytest.raises(ValueError, match=message):
        main(arguments(otb, "--tracker", "rbsf", "--device", "none", "--no-resume"))
    assert (tmp_path / RESULTS / "Girl.txt").is_file()


def test_result_of_another_first_box_is_run_again(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb))
    # These boxes would score badly if they were used again.
    (tmp_path / RESULTS / "Girl.txt").write_text("1,1,5,5\n" * 4)
    (otb / "Girl/groundtruth_rect.txt").write_text("31,31,10,10\n" * 4)
    main(arguments(otb))
    assert report(otb)["trackers"][0]["sequences"]["Girl"]["ao"] == 1


def test_results_of_changed_frames_and_of_a_folder_of_the_same_name_are_run_again(
    otb: Path, tmp_path: Path
) -> None:
    def spoil() -> float:
        """The overlap after stored boxes were moved far off and the program has run again."""
        (tmp_path / "out/results/OTB/static/Girl.txt").write_text("1,1,5,5\n" * 4)
        assert main(arguments(root, "--out", str(tmp_path / "out"), dataset="folder")) == 0
        found = json.loads((tmp_path / "out/reports/folder-OTB/report.json").read_text())
        return found["trackers"][0]["sequences"]["Girl"]["ao"]

    root = otb
    main(arguments(root, dataset="folder"))
    assert spoil() < 1
    shutil.copy(otb / "Girl/img/0001.jpg", otb / "Girl/img/0003.jpg")
    assert spoil() == 1
    root = tmp_path / "B/OTB"
    shutil.copytree(otb, root)
    assert spoil() < 1  # the frames are unchanged, so results are used again
    shutil.copy(otb / "Girl/img/0001.jpg", root / "Girl/img/0002.jpg")
    assert spoil() == 1


def test_result_moves_to_another_machine_with_its_folder(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb))
    (tmp_path / RESULTS / "Girl.txt").write_text("11,11,5,10\n" * 4)
    otb.rename(tmp_path / "elsewhere")
    main(arguments(tmp_path / "elsewhere"))
    assert report(otb)["trackers"][0]["sequences"]["Girl"]["ao"] < 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1,2,3,4\n", "holds 1 boxes but the sequence 4 frames"),
        ("what\n", "line 1: 'what' is no list of numbers"),
    ],
)
def test_damaged_result_fails_its_sequence_alone_and_stays(
    otb: Path, tmp_path: Path, text: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(otb))
    path = tmp_path / RESULTS / "Girl.txt"
    path.write_text(text)
    assert main(arguments(otb)) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("failed"))
    assert str(path) in line
    assert fault in line
    assert path.read_text() == text
    assert list(report(otb)["trackers"][0]["sequences"]) == ["Dog"]


def test_broken_sequences_are_named_and_the_rest_go_on(
    otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_otb(otb, "Bolt", [BOX] * 3)
    (otb / "Bolt/img/0002.jpg").unlink()  # leaves fewer images than boxes
    write_otb(otb, "Boy", [BOX] * 3)
    (otb / "Boy/groundtruth_rect.txt").write_text("nan,nan,nan,nan\n" * 3)
    (otb / "Dog/img/0002.jpg").write_bytes(b"")
    assert main(arguments(otb)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 3
    assert any(
        "Bolt: 2 frames in" in line and "frame number 2 is missing" in line for line in lines
    )
    assert any("Boy" in line and "no box at all" in line for line in lines)
    assert any("static: Dog:" in line and "0002.jpg" in line for line in lines)
    found = report(otb)
    assert sorted(found["unreadable"]) == ["Bolt", "Boy"]
    assert list(found["trackers"][0]["sequences"]) == ["Girl"]
    assert "0002.jpg" in (tmp_path / RESULTS / "failed/Dog.txt").read_text()


def test_shards_make_the_whole(
    otb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(otb, "--shard", "2/2")) == 0
    assert [path.name for path in (tmp_path / RESULTS).glob("*.txt")] == ["Dog.txt"]
    assert not (tmp_path / "out/reports").exists()
    assert "part 2 of 2: 1 of 1 sequences are done" in capsys.readouterr().out
    (tmp_path / RESULTS / "Dog.txt").write_text("11,11,10,10\n" * 3)
    main(arguments(otb, "--shard", "1/2"))
    main(arguments(otb))
    assert sorted(report(otb)["trackers"][0]["sequences"]) == ["Dog", "Girl"]
    assert "000\n" not in (tmp_path / RESULTS / "Dog.txt").read_text()  # was merged, not run again


def test_repeats_have_a_spread(otb: Path, tmp_path: Path) -> None:
    main(arguments(otb, "--repeat", "2"))
    assert (tmp_path / "out/results/OTB2015/static.run2/Girl.txt").is_file()
    row = report(otb)["trackers"][0]
    assert row["runs"] == 2
    assert row["spread"]["auc"] == 0


def test_existing_boxes_are_shown_beside_the_tracker(otb: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, count in (("Girl", 4), ("Dog", 3)):
        (theirs / f"{name}.txt").write_text("11 11 10 5\n" * count)
    assert main(arguments(otb, "--results", f"theirs={theirs}", "--reference", "theirs")) == 0
    rows = {row["label"]: row for row in report(otb)["trackers"]}
    assert rows["theirs"]["sequences"]["Girl"]["ao"] == pytest.approx((1 + 3 * 0.5) / 4)
    assert rows["theirs"]["fps"] is None
    assert report(otb)["reference"] == "theirs"


@pytest.mark.parametrize("dataset", ["OTB100", "folder"])
def test_existing_boxes_are_scored_without_images(tmp_path: Path, dataset: str) -> None:
    for folder, size in (("truth", 10), ("boxes", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Girl.txt").write_text(f"11,11,10,{size}\n" * 4)
    truth = tmp_path / "truth"
    command = ["--dataset", dataset, "--annotations", str(truth), "--out", str(tmp_path / "out")]
    assert main([*command, "--results", f"theirs={tmp_path / 'boxes'}"]) == 0
    found = report(truth, "folder-truth" if dataset == "folder" else dataset)
    row = found["trackers"][0]
    assert row["mean"]["ao"] == pytest.approx((1 + 3 * 0.5) / 4)
    with pytest.raises(ValueError, match="no --root, --tracker or --shard"):
        main([*command, "--results", f"theirs={tmp_path / 'boxes'}", "--shard", "1/2"])


def test_each_folder_has_a_report(otb: Path, tmp_path: Path) -> None:
    write_otb(tmp_path / "mine", "Cat", [BOX] * 2)
    for root in (otb, tmp_path / "mine"):
        assert main(arguments(root, dataset="folder")) == 0
    assert report(otb, "folder-OTB")["title"] == "folder-OTB (2 sequences)"
    # The two folders differ in name, so they are not compared.
    assert report(otb, "folder-mine")["dataset"] == "folder-mine"


def test_synthetic_videos_are_not_written_among_others(tmp_path: Path) -> None:
    (tmp_path / "mine.mp4").touch()
    with pytest.raises(ValueError, match=r"such as mine\.mp4; give another folder"):
        main(["--dataset", "synthetic", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.glob("*.*")] == ["mine.mp4"]


def test_synthetic_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(evaluation.SYNTHETIC, "count", 2)
    monkeypatch.setitem(evaluation.SYNTHETIC, "frames", 5)
    command = ["--dataset", "synthetic", "--out", str(tmp_path), "--tracker", "static"]
    assert main(command) == 0
    found = json.loads((tmp_path / "reports/synthetic/report.json").read_text())
    assert found["title"] == "synthetic (2 sequences)"
    assert found["paper"] is None
    made = sorted((tmp_path / "synthetic").iterdir())
    before = [path.stat().st_mtime_ns for path in made]
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in made] == before


def test_the_benchmark_of_workers_describes_itself() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "benchmark_workers.py"), "--help"]
    said = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Measure how much faster eval/run_benchmarks.py" in said


def make_got10k(root: Path, split: str, count: int) -> None:
    folder = root / split.lower()
    write_got10k(folder, count, frames=4, size=(160, 120))
    for number, old in enumerate(sorted(folder.glob("synthetic_*")), 1):
        old.rename(folder / f"GOT-10k_{split}_{number:06d}")
    names = [f"GOT-10k_{split}_{number:06d}" for number in range(1, count + 1)]
    (folder / "list.txt").write_text("\n".join(names) + "\n")


def test_got10k_val_is_found_below_its_root_or_itself(tmp_path: Path) -> None:
    make_got10k(tmp_path / "GOT-10k", "Val", 2)
    for root in (tmp_path / "GOT-10k", tmp_path / "GOT-10k/val"):
        split = find_split("GOT-10k-val", root)
        assert split.title == "GOT-10k-val (2 of 180 sequences)"
    assert main(arguments(tmp_path / "GOT-10k", dataset="GOT-10k-val")) == 0
    found = report(tmp_path / "GOT-10k", "GOT-10k-val")
    assert found["trackers"][0]["sequences"]["GOT-10k_Val_000001"]["frames"] == 3
    name = "GOT-10k_Val_000001"
    assert (tmp_path / f"out/results/GOT-10k/static/{name}/{name}_001.txt").is_file()


def test_got10k_test_makes_an_archive_of_the_whole_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_got10k(tmp_path / "GOT-10k", "Test", 2)
    # The server keeps all boxes but the first.
    for folder in (tmp_path / "GOT-10k/test").glob("GOT*"):
        first = (folder / "groundtruth.txt").read_text().splitlines()[0]
        (folder / "groundtruth.txt").write_text(first + "\n")
    assert main(arguments(tmp_path / "GOT-10k", dataset="GOT-10k-test")) == 0
    line = "no submission to GOT-10k's server: GOT-10k-test (2 of 180 sequences)"
    assert line in capsys.readouterr().out
    published = {"GOT-10k-test": lambda: ["GOT-10k_Test_000001", "GOT-10k_Test_000002"]}
    monkeypatch.setattr("rbsf.eval.benchmarks._NAMES", published)
    assert main(arguments(tmp_path / "GOT-10k", dataset="GOT-10k-test")) == 0
    with zipfile.ZipFile(tmp_path / "out/results/GOT-10k/static.zip") as archive:
        assert len(archive.namelist()) == 4
    assert report(tmp_path / "GOT-10k", "GOT-10k-test")["trackers"][0]["mean"] is None


def test_every_benchmark_can_be_chosen() -> None:
    # The names are listed twice, so that --help loads no OpenCV.
    assert sorted(run_benchmarks.DATASETS) == sorted(BENCHMARKS)


def test_otb50_is_a_part_of_otb100(otb: Path) -> None:
    assert find_split("OTB50", otb).title == "OTB50 (1 of 50 sequences)"


def test_uav123_at_10_fps_in_otbs_form_is_known_by_its_folder(tmp_path: Path) -> None:
    write_otb(tmp_path / "UAV123_10fps", "boat1", [BOX] * 2)
    expected = "UAV123_10fps (1 of 123 sequences)"
    assert find_split("UAV123", tmp_path / "UAV123_10fps").title == expected


def test_few_missing_sequences_are_all_named(
    otb: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbsf.eval.benchmarks._NAMES", {"OTB100": lambda: ["Girl", "Dog", "Bolt"]})
    main(arguments(otb))
    assert "OTB100 (2 of 3 sequences); missing: Bolt\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "title"),
    [("UAV123", "UAV123 (1 of 123"), ("UAV123_10fps", "UAV123_10fps (1 of 123")],
)
def test_uav123_at_10_fps_is_called_that(tmp_path: Path, version: str, title: str) -> None:
    write_otb(tmp_path, "boat1", [BOX] * 2)
    (tmp_path / "data_seq" / version).mkdir(parents=True)
    (tmp_path / "anno" / version).mkdir(parents=True)
    (tmp_path / "boat1/groundtruth_rect.txt").rename(tmp_path / "anno" / version / "boat1.txt")
    (tmp_path / "boat1/img").rename(tmp_path / "data_seq" / version / "boat1")
    assert find_split("UAV123", tmp_path).title == f"{title} sequences)"


def test_sequence_that_is_named_twice_counts_once(otb: Path, tmp_path: Path) -> None:
    assert find_split("OTB100", otb, ["Girl", "Dog", "Girl"]).title == "OTB100 (2 of 100 sequences)"
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/Girl.txt").write_text("11,11,10,10\n" * 4)
    expected = "OTB100 (1 of 100 sequences)"
    assert read_annotations("OTB100", tmp_path / "truth", ["Girl", "Girl"]).title == expected


def test_sequences_can_be_given_by_several_flags(otb: Path) -> None:
    assert parse_args(arguments(otb, "--sequences", "Girl", "--sequences", "Dog")).sequences == [
        "Girl",
        "Dog",
    ]


def test_test_splits_are_known_by_their_sequences() -> None:
    names = held_out_names()
    assert {"Basketball", "Human4", "Jogging.1", "bike1", "GOT-10k_Test_000180"} <= names
    assert "GOT-10k_Val_000001" not in names


def test_paper_has_no_figures_on_val() -> None:
    assert paper_scores("GOT-10k-val") is None
    assert paper_scores("GOT-10k-test")["scores"]["SiamFC"] == {"ao": 0.348, "sr50": 0.383}  # type: ignore[index]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (
            ["--tracker", "nothing.safetensors"],
            "'nothing.safetensors': no such weights file; give one, or rbsf",
        ),
        (
            ["--tracker", "opencv:Fast"],
            "OpenCV's trackers known here are MIL, KCF, CSRT, Nano, Vit",
        ),
        (
            ["--tracker", "opencv:Nano"],
            "takes 2 model files: opencv:Nano:backbone.onnx,neckhead.onnx",
        ),
        (["--tracker", "static"], "2 trackers are called static"),
        (
            ["--reference", "me"],
            "--reference me: give another of the trackers, of which there is none",
        ),
        (["--sequences", "Gril"], "Gril is no sequence of OTB100"),
        (["--sequences", "Bolt"], "sequence Bolt is missing in"),
        (["--results", "here"], "--results 'here': write LABEL=DIR"),
        (["--results", "a=/no/such"], "results folder /no/such does not exist"),
        (["--annotations", "x"], "--annotations scores boxes without images"),
        (["--tracker", "rbsf", "--constants", "no.yaml"], "no config file no.yaml"),
        (["--constants", "fast"], "--constants is for our own networks, and no --tracker is one"),
        (["--redetect", "off"], "--redetect is for our own networks, and no --tracker is one"),
    ],
)
def test_bad_arguments_are_named(otb: Path, more: list[str], fault: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        main(arguments(otb, *more))
    assert fault in str(caught.value)
    assert not (otb.parent / "out/results").exists()  # refused before any work


def test_unwritable_output_is_named_before_any_work(otb: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot write .*out"):
        main(arguments(otb))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_bad_shard_is_refused(otb: Path, text: str) -> None:
    with pytest.raises(SystemExit):
        parse_args(arguments(otb, "--shard", text))


def test_wrong_root_says_what_was_wanted_and_found(tmp_path: Path) -> None:
    write_otb(tmp_path / "mine", "Cat", [BOX] * 2)
    message = r"mine is not OTB100: expected .* Basketball.*; found 1 sequences \(Cat\)"
    with pytest.raises(ValueError, match=message):
        main(arguments(tmp_path / "mine"))
    (tmp_path / "none/a").mkdir(parents=True)
    message = r"looked for NAME/img/ with NAME/groundtruth_rect.txt; found 1 folders"
    with pytest.raises(ValueError, match=message):
        main(arguments(tmp_path / "none"))


def test_constants_change_the_tracker_and_its_results(otb: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("scale_step: 1.05\n")
    args = parse_args([*arguments(otb, tracker="rbsf"), "--constants", str(tmp_path / "c.yaml")])
    spec = run_benchmarks.read_specs(args)[0]
    assert spec.config.scale_step == 1.05
    assert spec.constants == "c.yaml"
    args.constants = None
    assert run_benchmarks.read_specs(args)[0].key() != spec.key()


def test_program_reports_a_wrong_root_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "eval/run_benchmarks.py"), *arguments(tmp_path / "no")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "no") in done.stderr


def test_published_sequences_may_be_videos(tmp_path: Path) -> None:
    for name in ("Dog", "Cat"):
        write_video(tmp_path / "videos" / f"{name}.mp4", seed=1, frames=2)
    split = find_split("OTB100", tmp_path / "videos")
    assert split.title == "OTB100 (1 of 100 sequences)"
    assert not split.sequences[0].one_based


def test_root_has_a_default(otb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--dataset", "OTB100", "--tracker", "static", "--workers", "1", "--out", "out"]
    monkeypatch.chdir(otb.parent)
    monkeypatch.delenv("RBSF_DATA", raising=False)
    message = "OTB100 is not in data/OTB: give its folder by --root"
    with pytest.raises(FileNotFoundError, match=message):
        main(command)
    (otb.parent / "data").mkdir()
    otb.rename(otb.parent / "data/OTB")
    assert main(command) == 0
    monkeypatch.setenv("RBSF_DATA", "data")
    assert find_split("OTB100", default_root("OTB100")).title == "OTB100 (2 of 100 sequences)"
    with pytest.raises(FileNotFoundError, match="folder has no place of its own"):
        default_root("folder")
