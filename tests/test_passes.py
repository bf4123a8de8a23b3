"""Passes: which parts of a sequence are tracked, each scored as a separate sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import bare_sequence, write_otb

from rbsf.datasets.synthetic.videos import write_video
from rbsf.datasets.video.sequences import load_sequences, whole_name
from rbsf.eval.benchmarks import find_split
from rbsf.eval.passes import in_passes, passes
from rbsf.eval.results import fingerprint
from rbsf.eval.run_benchmarks import main

BOX = [11.0, 11.0, 10.0, 10.0]
ABSENT = [float("nan")] * 4


@pytest.mark.parametrize(
    ("every", "frames", "spans"),
    [
        (4, None, ["0+10", "4+6"]),  # the next part would have 2 frames
        (5, None, ["0+10", "5+5"]),
        (4, 6, ["0+6", "4+6"]),
        (3, 2, ["0+2", "3+2", "6+2"]),  # a part of one frame at 9 is left out
        (None, 6, ["0+6"]),
        (20, None, ["0+10"]),
        (20, 30, ["0+10"]),
    ],
)
def test_ten_frames_have_these_parts(
    every: int | None, frames: int | None, spans: list[str]
) -> None:
    sequence = bare_sequence("Dog", [[i, 0, 5, 5] for i in range(10)], one_based=True)
    parts = passes(sequence, every, frames)
    assert [part.name for part in parts] == [f"Dog@{span}" for span in spans]
    for part, (first, count) in zip(
        parts, (map(int, span.split("+")) for span in spans), strict=True
    ):
        assert part.boxes[:, 0].tolist() == list(range(first, first + count))
        assert part.frames == sequence.frames[first : first + count]
        assert part.one_based
    assert len({fingerprint(part) for part in parts}) == len(parts)


def test_the_whole_of_a_part_has_its_sequences_name() -> None:
    sequence = bare_sequence("cam@2", [BOX] * 3)  # a user's own name that holds @
    assert whole_name(sequence.part(1, 3).name) == whole_name(sequence.name) == "cam@2"


def test_parts_with_nothing_to_score_are_left_out() -> None:
    boxes = [BOX, BOX, *[ABSENT] * 3, BOX, BOX, ABSENT]
    parts = passes(bare_sequence("Dog", boxes), 2, 2)
    # Frames 4 and 5 have one box, as have 6 and 7.
    assert [part.name for part in parts] == ["Dog@0+2"]
    only_first = bare_sequence("Dog", [BOX, *[ABSENT] * 5])  # as in GOT-10k's test split
    assert [part.name for part in passes(only_first, 2, 2)] == ["Dog@0+2"]


def test_a_part_of_a_video_has_its_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 0, 12, (96, 64))
    (whole,) = load_sequences(tmp_path)
    images = list(whole)
    part = whole.part(5, 9)
    assert [image.tolist() for image in part] == [image.tolist() for image in images[5:9]]
    np.testing.assert_array_equal(part.image(1), images[6])
    inner = part.part(1, 3)
    assert inner.frames == whole.frames[6:8]
    assert [image.tolist() for image in inner] == [image.tolist() for image in images[6:8]]


def test_the_benchmark_tracks_each_pass_from_its_own_first_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_otb(tmp_path / "OTB", "Dog", [BOX] * 2 + [[51, 11, 10, 10]] * 3)
    flags = ["--dataset", "OTB100", "--root", str(tmp_path / "OTB"), "--out", str(tmp_path / "out")]
    flags += ["--tracker", "static", "--workers", "1"]
    assert main([*flags, "--every", "2", "--frames", "3"]) == 0
    title = "OTB100-every2-frames3 (1 of 100 sequences, 2 passes)"
    assert title in capsys.readouterr().out
    report = json.loads((tmp_path / "out/reports/OTB100-every2-frames3/report.json").read_text())
    scores = report["trackers"][0]["sequences"]
    expected = {"Dog@0+3": pytest.approx(2 / 3), "Dog@2+3": 1}
    assert {name: score["ao"] for name, score in scores.items()} == expected
    assert report["protocol"].endswith(" Each pass counts as a sequence.")
    assert report["paper"] is None  # the paper's figures are of whole sequences
    assert main(flags) == 0  # results of parts and of whole sequences do not mix
    whole = json.loads((tmp_path / "out/reports/OTB100/report.json").read_text())
    assert "pass counts" not in whole["protocol"]
    assert whole["trackers"][0]["sequences"]["Dog"]["ao"] == pytest.approx(2 / 5)
    boxes = sorted(path.name for path in (tmp_path / "out/results/OTB2015/static").glob("*.txt"))
    assert boxes == ["Dog.txt", "Dog@0+3.txt", "Dog@2+3.txt"]


def test_without_either_flag_nothing_changes(tmp_path: Path) -> None:
    write_otb(tmp_path, "Dog", [BOX] * 3)
    split = find_split("OTB100", tmp_path)
    assert in_passes(split, None, None) is split
