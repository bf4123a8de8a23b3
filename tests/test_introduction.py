"""What a tracking run says at its start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_siamfc import frame
from test_track import START, track, write_video

from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.sources import Frames
from rbsf.shipped import DEFAULT, find_weights
from rbsf.tools.tracking.introduction import ask_for_corners, describe_source

SIZE = (640, 360)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_says_what_runs_on_what(capsys: pytest.CaptureFixture[str]) -> None:
    write_video(Path("in.mp4"), [frame(100, 80)] * 5)
    flags = ["--init=-8,80,48,36", "--no-out", "--threads=1", "--end=2", "--start=1"]
    assert track("in.mp4", START, *flags) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    size = f"{find_weights(DEFAULT).stat().st_size / 1e6:.2f} MB"
    assert lines[0].startswith(
        f"weights: {DEFAULT}.safetensors, {size}; packed engine, instruction"
    )
    assert lines[0].endswith(", 1 thread")
    assert lines[1:4] == [
        "in.mp4: 320 x 240 pixels, 10 frames a second, 5 frames (0.5 s) by its header",
        "target 1: x 100 to 148, y 80 to 116 of 320 x 240, in frame 1",
        "target 2: x 0 to 40, y 80 to 116 of 320 x 240, in frame 1",
    ]
    assert "target" not in shown.out.replace("target 2 reaches", "")
    assert f"network: {DEFAULT}.safetensors, packed engine" in shown.out


def test_each_of_several_videos_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(Path(name), [frame(100, 80)] * 2)
    track("a.mp4", START, "--video", "b.mp4", "--init=90,80,48,36", "--no-out", "--threads=1")
    lines = capsys.readouterr().err.splitlines()
    said = [line.partition(":")[0] for line in lines if line.startswith(("w", "a.", "b.", "tar"))]
    assert said == ["weights", "a.mp4", "target 1", "b.mp4", "target 1"]


@pytest.mark.parametrize(
    ("box", "meant"),
    [
        ((400, 200, 480, 300), "400,200,80,100"),
        ((0, 0, 640, 360), ""),  # the whole frame
        ((120, 80, 160, 140), ""),  # inside, which its line shows
        ((600, 300, 80, 90), ""),  # half outside, and no second corner
        ((-5, 0, 700, 300), ""),
        ((100, 50, 560, 330), ""),  # a little outside
        ((300, 50, 639.5, 60), "300,50,339.5,10"),
    ],
)
def test_corners_are_asked_for(box: tuple[float, ...], meant: str) -> None:
    question = ask_for_corners(box, SIZE)
    assert question.endswith(f"type --init {meant}") if meant else not question


def test_a_run_goes_on_after_the_question(capsys: pytest.CaptureFixture[str]) -> None:
    write_video(Path("in.mp4"), [frame(200, 80)] * 2)
    assert track("in.mp4", "--init", "200,80,248,116", "--no-out", "--threads=1") == 0
    shown = capsys.readouterr()
    assert "did you mean corners? --init 200,80,248,116 as x,y,w,h reaches far outside" in shown.err
    assert "type --init 200,80,48,36\n" in shown.err
    assert "clipped to 200,80,120,116" in shown.out


def test_sources_without_a_rate_or_a_length() -> None:
    Path("frames").mkdir()
    for name in ("0.png", "1.png"):
        import cv2

        cv2.imwrite(f"frames/{name}", np.zeros((20, 30, 3), np.uint8))
    folder = describe_source("frames", open_frames("frames"), (30, 20))
    assert folder == (
        "frames: 30 x 20 pixels, no frame rate of its own,"
        " taken as 25 frames a second (--fps), 2 images"
    )
    stream = Frames("a", 29.97, None, lambda: iter(()))
    text = describe_source("http://me:secret@a/b", stream, SIZE)
    assert text == "http://a/b: 640 x 360 pixels, 29.97 frames a second, length unknown"
