"""`make demo` end to end: the shipped 1-bit weights follow the target of the embedded video."""

from __future__ import annotations

import csv
import re
import shlex
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_siamfc import contrast_backbone

from rbsf.tools.demo import main


def test_a_demo_of_the_default_length_follows_its_target(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--threads", "1"]) == 0
    expected = {"video.mp4", "video.txt", "tracked.mp4", "boxes.csv", "demo.png"}
    assert {p.name for p in tmp_path.iterdir()} == expected
    out = capsys.readouterr().out
    assert "fps" in out
    overlap = re.search(r"mean overlap with the true boxes: (\d\.\d+)", out)
    assert overlap
    assert float(overlap[1]) > 0.6
    with open(tmp_path / "boxes.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    assert list(rows[0]) == ["frame", "time", "x", "y", "w", "h", "score", "lost", "state"]
    assert cv2.VideoCapture(str(tmp_path / "tracked.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 200
    assert cv2.imread(str(tmp_path / "demo.png")) is not None


def test_network_flags_are_passed_on(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "rbsf.tracker.loading.load_network", lambda *args: seen.append(args) or contrast_backbone
    )
    flags = shlex.split(
        "--precision bfloat16 --device cpu --threads 3 --engine torch --weights net.npz"
    )
    assert main(["--out", str(tmp_path), "--frames", "3", *flags]) == 0
    assert seen == [(Path("net.npz"), "cpu", "bfloat16", 3, "torch")]


def test_a_stopped_demo_says_so_by_its_code(tmp_path, monkeypatch):
    def stopped(crops: np.ndarray) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        return contrast_backbone(crops)

    # The calls are of the exemplar, of its copies, and of the second frame.
    calls = iter([contrast_backbone, contrast_backbone, stopped])
    monkeypatch.setattr(
        "rbsf.tracker.loading.load_network", lambda *args: lambda crops: next(calls)(crops)
    )
    assert main(["--weights", "rbsf", "--out", str(tmp_path), "--frames", "9"]) == 143
    assert not (tmp_path / "demo.png").exists()


def test_help_says_how_the_seed_was_chosen(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "0 to 7 were tried" in " ".join(capsys.readouterr().out.split())
