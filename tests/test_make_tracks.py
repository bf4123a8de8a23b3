"""tools/make_tracks.py: what a published tracker finds and follows in videos without boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from requirements import peers, skip_without
from test_frames import write_video

from rbsf.datasets.pairs.stills import read_stills
from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.metrics import overlaps
from rbsf.system.lock import InUse, locked
from rbsf.tools import make_tracks
from rbsf.tools.make_tracks import (
    Finished,
    finished_files,
    main,
    stamp_of,
    write_boxes,
    write_record,
    write_tracks,
)
from rbsf.tools.tracking.discovery import (
    find_things,
    find_tracks,
    follow_and_return,
    most_distinct,
    random_box,
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
    assert find_things(network, wall, np.random.default_rng(0), 2) == []
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
    assert shown.out == f"{out}: 0 targets in 1 files\n"


def test_a_thing_on_a_wall_is_the_most_distinct_target(network: OnnxPair) -> None:
    rng = np.random.default_rng(1)
    picture = np.full((180, 240, 3), 90, np.uint8)
    picture[60:110, 120:170] = rng.integers(0, 256, (5, 5, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    (box,) = most_distinct(network, picture, rng, 1)
    assert overlaps(box[None], np.array([[120, 60, 50, 50]])) > 0.5


def test_pictures_get_a_table_of_boxes(
    real_data: Path, network: OnnxPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for still in sorted((real_data / "stills").glob("caltech_Leopards_*.jpg"))[:2]:
        (pictures / still.name.replace("_", ",")).symlink_to(still)
    cv2.imwrite(str(pictures / "wall.png"), np.full((90, 120, 3), 90, np.uint8))
    (pictures / "cut.png").write_bytes((pictures / "wall.png").read_bytes()[:90])
    files = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    flags = ["--videos", str(pictures), "--out", str(out), "--teacher", ",".join(map(str, files))]
    assert main([*flags, "--count", "1"]) == 1
    shown = capsys.readouterr()
    assert f"{pictures / 'cut.png'} is not an image, or is cut short" in shown.err
    assert shown.out == f"{out}: 2 targets in 3 files\n"
    found = read_stills(out)  # the wall has no target, so it is not there
    assert [len(boxes) for _, boxes in found] == [1, 1]
    for picture, boxes in found:
        height, width = cv2.imread(str(picture)).shape[:2]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= [width, height]).all()


def test_boxes_that_a_killed_run_left_are_replaced(tmp_path: Path) -> None:
    for picture in ("a.png", "b.png", "a.png"):
        write_boxes(tmp_path / "from" / picture, tmp_path, [np.ones(4), np.arange(4)])
    rows = (tmp_path / "boxes.csv").read_text().splitlines()
    assert rows == [
        "file,x,y,w,h",
        *["b.png,1.0,1.0,1.0,1.0", "b.png,0.0,1.0,2.0,3.0"],
        *["a.png,1.0,1.0,1.0,1.0", "a.png,0.0,1.0,2.0,3.0"],
    ]


def test_videos_and_pictures_are_not_mixed(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    flags = [
        "--videos",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--teacher",
        "a.onnx,b.onnx",
    ]
    with pytest.raises(ValueError, match=r"videos and pictures, such as a\.mp4 and b\.png; give"):
        main(flags)


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
    with pytest.raises(ValueError, match="there is no video file and no picture"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    (videos / "a.mp4").write_bytes(b"a")
    with pytest.raises(ValueError, match="is the folder of --videos"):
        main(["--videos", str(videos), "--out", str(videos), *teacher])
    with pytest.raises(ValueError, match=r"give two files, BACKBONE\.onnx,HEAD\.onnx"):
        main(["--videos", str(videos), "--out", str(out), "--teacher", "one.onnx"])
    out.mkdir()
    (out / "letter.txt").write_text("Dear Sir")
    with pytest.raises(ValueError, match="has files of something else; give an empty folder"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    (videos / "a.MKV").write_bytes(b"b")
    with pytest.raises(ValueError, match=r"a\.MKV and a\.mp4 differ in their suffix alone"):
        main(["--videos", str(videos), "--out", str(out), *teacher])
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": {}}',
        '{"settings": {}, "files": [3]}',
        '{"settings": {}, "files": {"a": [Infinity, [1, 1]]}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tracks.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="has files of something else; give an empty folder"):
        finished_files(tmp_path, {}, [])


def test_an_interrupted_run_goes_on_with_the_same_settings_alone(
    real_data: Path, network: OnnxPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    paths = [videos / name for name in ("a.mp4", "b.mp4")]
    for path in paths:
        write_video(path, [np.full((90, 120, 3), 90, np.uint8)] * 3)
    files = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    flags = ["--videos", str(videos), "--out", str(out), "--teacher", ",".join(map(str, files))]
    settings = {"teacher": [file.name for file in files], "count": 1, "seed": 0}
    out.mkdir()
    write_record(out, settings, {})
    for number in (1, 2, 3):  # of a run that was stopped in its first video
        (out / f"a_{number}.txt").write_text("0,0,9,9\n")
    assert finished_files(out, settings, paths) == {}
    write_record(out, settings, {"a.mp4": Finished(3, stamp_of(paths[0]))})
    assert main([*flags, "--count", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 3 targets in 2 files\n"
    with pytest.raises(ValueError, match=r"has targets of other settings: count 1; give these, or"):
        main([*flags, "--count", "2"])
    (out / "a_3.txt").unlink()  # so it is looked at again, and the wall has nothing
    assert main([*flags, "--count", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: 0 targets in 2 files\n"
    assert not list(out.glob("a_*"))
    with locked(out), pytest.raises(InUse):
        main([*flags, "--count", "1"])


def test_pictures_that_changed_are_looked_at_again_and_lost_ones_named(tmp_path: Path) -> None:
    pictures, out, boxes = tmp_path / "pictures", tmp_path / "out", [np.ones(4)]
    for folder in (pictures, out):
        folder.mkdir()
    paths = [pictures / name for name in ("a.png", "b.png", "c.png")]
    for path in paths:
        path.write_bytes(b"a picture")
        write_boxes(path, out, boxes)
    done = {path.name: Finished(1, stamp_of(path)) for path in paths}
    write_record(out, {}, done)
    assert finished_files(out, {}, paths) == done
    paths[1].write_bytes(b"another picture")
    assert finished_files(out, {}, paths).keys() == {"a.png", "c.png"}
    write_boxes(paths[2], out, [])  # as if rows were lost
    assert not (out / "c.png").is_symlink()  # it would stand for one target as a whole
    assert finished_files(out, {}, paths).keys() == {"a.png"}
    with pytest.raises(ValueError, match=r"has targets of a\.png, not in --videos; give the same"):
        finished_files(out, {}, paths[1:])
    (out / "boxes.csv").write_text("junk")
    with pytest.raises(ValueError, match=r"boxes\.csv is damaged; give an empty folder as --out"):
        finished_files(out, {}, paths)


def test_targets_of_a_file_do_not_depend_on_its_neighbours(
    real_data: Path, network: OnnxPair, tmp_path: Path
) -> None:
    stills = sorted((real_data / "stills").glob("caltech_Leopards_*.jpg"))[:2]
    files = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    rows = []
    for name, kept in (("one", stills[1:]), ("two", stills)):
        (tmp_path / name).mkdir()
        for still in kept:
            (tmp_path / name / still.name).symlink_to(still)
        flags = ["--videos", str(tmp_path / name), "--out", str(tmp_path / f"{name}_boxes")]
        assert main([*flags, "--count", "1", "--teacher", ",".join(map(str, files))]) == 0
        rows.append((tmp_path / f"{name}_boxes" / "boxes.csv").read_text().splitlines()[-1])
    assert rows[0] == rows[1]
    tiny = np.zeros((10, 10, 3), np.uint8)
    assert find_things(network, tiny, np.random.default_rng(0), 1) == []
