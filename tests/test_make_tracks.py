"""tools/make_tracks.py: what a published tracker finds and follows in videos without boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from requirements import peers, skip_without
from test_frames import write_video

from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.metrics import overlaps
from rbsf.tools import make_tracks
from rbsf.tools.make_tracks import (
    find_targets,
    find_tracks,
    finished_videos,
    follow_and_return,
    main,
    random_box,
    write_record,
    write_tracks,
)
from rbsf.tracker.onnx_pair import OnnxPair, open_pair

FRAMES = 24


@pytest.fixture(scope="module")
def network(real_data: Path) -> OnnxPair:
    """NanoTrack v3."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        skip_without("onnxruntime", "the teacher runs in it")
    return open_pair(*peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx"))


@pytest.fixture(scope="module")
def street(real_data: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames and true boxes of a truck from above."""
    (sequence,) = (
        each for each in load_sequences(real_data / "UAV123_10fps") if each.name == "truck2"
    )
    return [sequence.image(n) for n in range(FRAMES)], sequence.boxes[:FRAMES]


def test_a_truck_is_followed_there_and_back(
    network: OnnxPair, street: tuple[list[np.ndarray], np.ndarray]
) -> None:
    frames, truth = street
    boxes = follow_and_return(network, frames, truth[0])
    known = ~np.isnan(boxes[:, 0])
    assert known.sum() > FRAMES / 2
    found = overlaps(boxes[known], truth[known])
    assert found.min() > 0.3  # the target is 20 x 8 pixels large
    assert found.mean() > 0.5


def test_a_blank_wall_has_no_target_and_a_cut_ends_a_track(
    network: OnnxPair, street: tuple[list[np.ndarray], np.ndarray]
) -> None:
    frames, truth = street
    wall = np.full_like(frames[0], 90)
    assert find_targets(network, wall, np.random.default_rng(0), 2) == []
    boxes = follow_and_return(network, [*frames[:4], wall, wall], truth[0])
    assert np.isnan(boxes[4:]).all()


def test_names_with_dots_and_frames_without_a_track(tmp_path: Path) -> None:
    for name in ("a.01.mp4", "a.02.mp4"):
        assert write_tracks(tmp_path / name, tmp_path, iter([np.ones((2, 4))]), 1) == 1
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["a.01_1.mp4", "a.01_1.txt", "a.02_1.mp4", "a.02_1.txt"]
    rows = np.loadtxt(tmp_path / "a.01_1.txt", delimiter=",")
    assert np.isnan(rows[:, 0]).tolist() == [False, False, True]


def test_the_frames_of_a_large_video_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", [np.full((90, 120, 3), 90, np.uint8)] * 5)
    monkeypatch.setattr(make_tracks, "MOST_BYTES", 2 * 90 * 120 * 3)
    frames, left_out = make_tracks.read_frames(tmp_path / "a.mp4")
    assert (len(frames), left_out) == (2, 3)


def test_tracks_are_the_same_each_time_and_lie_in_the_frame(
    network: OnnxPair, street: tuple[list[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    frames = street[0][:12]
    first, second = (
        list(find_tracks(network, frames, np.random.default_rng(3), 2)) for _ in range(2)
    )
    assert len(first) > 0
    for boxes, again in zip(first, second, strict=True):
        assert boxes.shape == (12, 4)
        assert (~np.isnan(boxes[:, 0])).sum() >= 10
        np.testing.assert_array_equal(boxes, again)
    assert write_tracks(tmp_path / "a.mp4", tmp_path, iter(first)) == len(first)
    assert (tmp_path / "a_1.mp4").is_symlink()
    assert len((tmp_path / "a_1.txt").read_text().splitlines()) == 12


def test_a_damaged_video_is_named_and_the_others_go_on(
    real_data: Path, network: OnnxPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"junk")
    write_video(videos / "b.mp4", [np.full((90, 120, 3), 90, np.uint8)] * 3)
    files = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    flags = ["--videos", str(videos), "--out", str(out), "--count", "1"]
    assert main([*flags, "--teacher", ",".join(map(str, files))]) == 1
    shown = capsys.readouterr()
    assert f"error: video {videos / 'a.mp4'} cannot be opened as a video" in shown.err
    assert shown.out == f"{out}: 0 tracks in 1 videos\n"


def test_random_boxes_lie_in_the_frame() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y, w, h = random_box(rng, 90, 160)
        assert min(x, y) >= 0
        assert x + w <= 160
        assert y + h <= 90
        assert 0.5 <= w / h <= 2


def test_tracks_replace_no_video_and_no_other_tracks(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    teacher = ["--teacher", "backbone.onnx,head.onnx"]
    with pytest.raises(ValueError, match="there is no video file"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    (videos / "a.mp4").write_bytes(b"a")
    with pytest.raises(ValueError, match="is the folder of the videos"):
        main(["--videos", str(videos), "--out", str(videos), *teacher])
    with pytest.raises(ValueError, match=r"give two files, BACKBONE\.onnx,HEAD\.onnx"):
        main(["--videos", str(videos), "--out", str(out), "--teacher", "one.onnx"])
    out.mkdir()
    (out / "letter.txt").write_text("Dear Sir")
    with pytest.raises(ValueError, match="has files of something else; give an empty folder"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    (videos / "a.MKV").write_bytes(b"b")
    with pytest.raises(ValueError, match="several videos are named a, such as"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": {}}',
        '{"settings": {}, "videos": [3]}',
        '{"settings": {}, "videos": {"a": Infinity}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tracks.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="has files of something else; give an empty folder"):
        finished_videos(tmp_path, {})


def test_an_interrupted_run_goes_on_with_the_same_settings_alone(
    real_data: Path, network: OnnxPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(videos / name, [np.full((90, 120, 3), 90, np.uint8)] * 3)
    files = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    flags = ["--videos", str(videos), "--out", str(out), "--teacher", ",".join(map(str, files))]
    settings = {"teacher": [file.name for file in files], "count": 1, "seed": 0}
    out.mkdir()
    write_record(out, settings, {})
    (out / "a_1.txt").write_text("0,0,9,9\n")  # of a run that was stopped in its first video
    assert finished_videos(out, settings) == {}
    write_record(out, settings, {"a.mp4": 3})
    assert main([*flags, "--count", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 3 tracks in 2 videos\n"
    with pytest.raises(ValueError, match=r"has tracks of .*'count': 1.*; give an empty folder"):
        main([*flags, "--count", "2"])
