"""`make demo` end to end: the shipped 1-bit weights follow the target of the embedded video."""

from __future__ import annotations

import csv
import re

import cv2

from tools.demo import main


def test_demo(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--frames", "60"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "video.mp4",
        "video.txt",
        "tracked.mp4",
        "boxes.csv",
        "demo.png",
    }
    out = capsys.readouterr().out
    assert "fps" in out
    overlap = re.search(r"mean overlap with the true boxes: (\d\.\d+)", out)
    assert overlap
    assert float(overlap[1]) > 0.6
    with open(tmp_path / "boxes.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert list(rows[0]) == ["frame", "time", "x", "y", "w", "h", "score"]
    assert cv2.VideoCapture(str(tmp_path / "tracked.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 60
    assert cv2.imread(str(tmp_path / "demo.png")) is not None
