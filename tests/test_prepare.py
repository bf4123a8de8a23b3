"""Preparing a crop store: what goes in, what is left out, and going on after a stop."""

import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest

from rbsf.datasets.pairs import prepare as module
from rbsf.datasets.pairs.crop_store import CropStore, CropWriter
from rbsf.datasets.pairs.prepare import prepare, select_frames
from rbsf.datasets.pairs.stills import read_stills
from rbsf.datasets.pairs.training_data import find_held_out, hold_out, open_stores
from rbsf.datasets.video import sources
from rbsf.datasets.video.sequences import load_sequences

ROOT = Path(__file__).resolve().parents[1]


def write_image(path, value=100):
    cv2.imwrite(str(path), np.full((90, 120, 3), value, np.uint8))


def write_video(root, name, boxes):
    """Write a GOT-10k sequence with a frame for each of `boxes`; frame k has gray value 10 + k."""
    folder = root / name
    folder.mkdir(parents=True)
    for number in range(len(boxes)):
        write_image(folder / f"{number + 1:08d}.jpg", 10 + number)
    (folder / "groundtruth.txt").write_text("".join(f"{box}\n" for box in boxes))
    with (root / "list.txt").open("a") as names:
        names.write(f"{name}\n")


@pytest.fixture
def videos(tmp_path):
    root = tmp_path / "train"
    write_video(root, "car", ["20,20,30,20"] * 5)
    write_video(root, "dog", ["20,20,30,20", "nan,nan,nan,nan", "22,20,30,20", "22,20,3,2"])
    return root


@pytest.fixture
def stills(tmp_path):
    root = tmp_path / "stills"
    root.mkdir()
    for number in range(3):
        write_image(root / f"{number}.jpg")
    (root / "boxes.csv").write_text(
        "file,x,y,w,h,label\n0.jpg,10,10,40,30,cup\n2.jpg,0,0,20,20,cup\n0.jpg,50,10,20,30,cup\n"
    )
    return root


def content(path):
    db = sqlite3.connect(path)
    tables = (
        "SELECT name, kind FROM sequences",
        "SELECT sequence, frame, width, height FROM crops",
        "SELECT jpeg FROM images",
    )
    rows = [db.execute(f"{query} ORDER BY rowid").fetchall() for query in tables]
    db.close()
    return rows


def test_videos_and_stills_are_cut_out(videos, stills, tmp_path):
    report = prepare([videos, stills], tmp_path / "new" / "pairs.db", progress=False)
    store = CropStore(tmp_path / "new" / "pairs.db")
    assert store.names == ("car", "dog", "0.jpg", "1.jpg", "2.jpg")
    assert store.kinds == ("video", "video", "still", "still", "still")
    # Absent and tiny targets are left out.
    car, dog, images = [0, 1, 2, 3, 4], [0, 2], [0, 1, 0, 0]
    assert store.frames.tolist() == car + dog + images
    assert store.starts.tolist() == [0, 5, 7, 9, 10, 11]
    assert [round(store.read(i)[159, 159].mean()) for i in range(7)] == [10, 11, 12, 13, 14, 10, 12]
    # The exemplar's side is sqrt(55 * 45).
    assert store.sizes[0].tolist() == pytest.approx([30 * 127 / 49.75, 20 * 127 / 49.75], abs=0.1)
    assert (report.added, report.already_stored, report.sequences, report.crops) == (5, 0, 5, 11)
    assert report.megabytes > 0.01
    assert report.warnings == []


def test_image_without_boxes_is_the_target(stills, tmp_path):
    (stills / "boxes.csv").unlink()
    prepare([stills], tmp_path / "pairs.db", progress=False)
    store = CropStore(tmp_path / "pairs.db")
    assert len(store) == 3
    # The exemplar's side is sqrt(225 * 195).
    assert store.sizes[0] == pytest.approx([120 * 127 / 209.46, 90 * 127 / 209.46], abs=0.1)


@pytest.mark.parametrize(
    ("every", "limit", "frames"),
    [
        (1, None, [0, 1, 3, 4, 5, 6, 7, 8, 9]),
        (3, None, [0, 3, 6, 9]),
        (1, 3, [0, 5, 9]),
        (2, None, [0, 4, 6, 8]),
        (1, 99, [0, 1, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_frames_are_selected_as_asked(every, limit, frames):
    boxes = np.full((10, 4), 20.0)
    boxes[2] = np.nan
    assert select_frames(boxes, every, limit).tolist() == frames


def test_rerun_adds_only_what_is_new(videos, stills, tmp_path):
    out = tmp_path / "pairs.db"
    prepare([videos], out, progress=False)
    report = prepare([videos, stills], out, progress=False)
    assert (report.added, report.already_stored, report.sequences) == (3, 2, 5)
    again = prepare([videos, stills], out, progress=False)
    assert (again.added, again.already_stored, again.crops) == (0, 5, 11)
    with pytest.raises(ValueError, match="made with every 1, not 2"):
        prepare([videos], out, every=2, progress=False)


def test_sequences_that_data_no_longer_has_are_kept_and_counted(videos, tmp_path, capsys):
    out = tmp_path / "pairs.db"
    prepare([videos], out, progress=False)
    assert capsys.readouterr().err == ""
    (videos / "list.txt").write_text("dog\n")
    assert prepare([videos], out, progress=False).sequences == 2
    assert f"{out}: keeps 1 sequences of earlier runs that --data" in capsys.readouterr().err


def test_interrupted_run_goes_on(videos, stills, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.db", tmp_path / "broken.db"
    prepare([videos, stills], whole, progress=False)
    real, calls = module.make_crops, []

    def interrupted(job):
        calls.append(job.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(module, "COMMIT", 1)
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, "make_crops", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([videos, stills], broken, progress=False)
    assert "broken.db: 1 sequences are kept; the same command goes on" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unfinished crop store; rerun"):
        CropStore(broken)
    other = r"broken\.db\.unfinished: made with every 1, not 2; keep to that or delete this file"
    with pytest.raises(ValueError, match=other):
        prepare([videos, stills], broken, every=2, progress=False)
    monkeypatch.setattr(module, "make_crops", real)
    report = prepare([videos, stills], broken, progress=False)
    assert (report.added, report.already_stored) == (4, 1)  # the car was complete, the dog was not
    assert content(broken) == content(whole)


def test_an_interrupted_extension_goes_on(videos, stills, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.db", tmp_path / "pairs.db"
    prepare([videos, stills], whole, progress=False)
    prepare([videos], out, progress=False)
    real = module.make_crops

    def interrupted(job):
        if job.name == "2.jpg":
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(module, "COMMIT", 1)
    monkeypatch.setattr(module, "make_crops", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([videos, stills], out, progress=False)
    assert CropStore(out).names == ("car", "dog")
    monkeypatch.setattr(module, "make_crops", real)
    report = prepare([videos, stills], out, progress=False)
    assert (report.added, report.already_stored) == (1, 4)
    assert content(out) == content(whole)


def test_workers_make_the_same_store(videos, stills, tmp_path):
    prepare([videos, stills], tmp_path / "one.db", progress=False)
    prepare([videos, stills], tmp_path / "two.db", workers=2, progress=False)
    assert content(tmp_path / "one.db") == content(tmp_path / "two.db")


def test_broken_images_are_named_and_left_out(videos, stills, tmp_path, capsys):
    (videos / "car" / "00000003.jpg").write_bytes(b"no image")
    (stills / "2.jpg").write_bytes(b"")
    report = prepare([videos, stills], tmp_path / "pairs.db", progress=False)
    assert (report.sequences, report.crops) == (4, 9)
    car, still = report.warnings
    assert car.startswith("car: left out 1 of 5; first: frame 2: ")
    assert "00000003.jpg" in car
    assert still.startswith("2.jpg: left out 1 of 1; first: box 0: ")
    assert f"warning: {car}" in capsys.readouterr().err
    assert CropStore(tmp_path / "pairs.db").frames[:4].tolist() == [0, 1, 3, 4]


def test_box_outside_its_image_is_left_out(stills, tmp_path):
    (stills / "boxes.csv").write_text(
        "file,x,y,w,h\n0.jpg,500,10,40,30\n0.jpg,10,10,40,30\n1.jpg,10,10,-5,30\n"
    )
    report = prepare([stills], tmp_path / "pairs.db", progress=False)
    assert report.warnings == [
        "0.jpg: left out 1 of 2; first: box 0: box 500,10,40,30 lies outside the 120x90 frame",
        "1.jpg: left out 1 of 1; first: box 0: box 10,10,-5,30 has no area (w=-5, h=30); "
        "w and h must be above 0",
    ]
    assert CropStore(tmp_path / "pairs.db").names == ("0.jpg", "2.jpg")


def test_a_store_of_nothing_is_refused(stills, tmp_path):
    for image in stills.glob("*.jpg"):
        image.write_bytes(b"no image")
    message = r"stills: nothing could be prepared; 0\.jpg: left out 2 of 2; first: box 0"
    with pytest.raises(ValueError, match=message):
        prepare([stills], tmp_path / "pairs.db", progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x,y,w\n", r"boxes\.csv line 1: no column h; write file,x,y,w,h"),
        ("", r"boxes\.csv line 1: no column file, h, w, x, y"),
        (
            "file,x,y,w,h\n0.jpg,1,2,3,4\n0.jpg,1,2,three,4\n",
            r"boxes\.csv line 3: x,y,w,h are not four numbers",
        ),
        ("file,x,y,w,h\n0.jpg,1,2,3\n", r"boxes\.csv line 2: x,y,w,h are not four numbers"),
        ("file,x,y,w,h\n0.jpg,1,2,nan,4\n", r"boxes\.csv line 2: x,y,w,h are not four numbers"),
        (
            "file,x,y,w,h\n9.jpg,1,2,3,4\n",
            r"boxes\.csv line 2: there is no image '9\.jpg' beside it",
        ),
    ],
)
def test_a_faulty_table_of_boxes_is_named(stills, text, message):
    (stills / "boxes.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_stills(stills)


def break_some(videos):
    """Remove a frame of one sequence and the annotation of another."""
    (videos / "car" / "00000003.jpg").unlink()
    write_video(videos, "elk", ["20,20,30,20"] * 3)
    (videos / "elk" / "groundtruth.txt").unlink()


def test_broken_sequences_are_all_named_or_left_out(videos, stills, tmp_path, capsys):
    break_some(videos)
    out = tmp_path / "pairs.db"
    car = "sequence car: 4 frames .* number 3"
    elk = r"elk/groundtruth\.txt does not exist"
    said = f"^broken sequences: 2: {car} .*{elk}; mend them, or"
    with pytest.raises(ValueError, match=said):
        prepare([videos, stills], out, progress=False)
    assert not out.exists()
    report = prepare([videos, stills], out, skip_broken=True, progress=False)
    assert (report.sequences, len(report.broken), report.warnings) == (4, 2, [])
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: left out: ") for line in lines] == [True, True]
    for name in ("car", "dog", "elk"):
        (videos / name / "groundtruth.txt").write_text("1,2,3\n")
    message = r"nothing could be prepared; .*groundtruth\.txt line 1: '1,2,3' is not a box"
    with pytest.raises(ValueError, match=message):
        prepare([videos], tmp_path / "other.db", skip_broken=True, progress=False)


@pytest.mark.parametrize("options", [{"every": 0}, {"workers": 0}, {"max_per_sequence": 1}])
def test_settings_out_of_range_are_refused(videos, tmp_path, options):
    with pytest.raises(ValueError, match=r"(every|workers|-sequence) is [01]; give [12] or more"):
        prepare([videos], tmp_path / "pairs.db", **options)
    assert not (tmp_path / "pairs.db").exists()


def write_clip(root, count):
    """Write a video file of `count` frames; frame k has gray value 20 * k."""
    root.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
    for number in range(count):
        writer.write(np.full((96, 128, 3), 20 * number, np.uint8))
    writer.release()
    (root / "clip.txt").write_text("30,30,40,30\n" * count)


@pytest.mark.parametrize("workers", [1, 2])
def test_video_files_are_decoded_forward_in_chunks(tmp_path, monkeypatch, workers):
    write_clip(tmp_path / "clips", 12)
    monkeypatch.setattr(module, "CHUNK", 2)
    prepare([tmp_path / "clips"], tmp_path / "pairs.db", every=2, workers=workers, progress=False)
    store = CropStore(tmp_path / "pairs.db")
    assert store.frames.tolist() == [0, 2, 4, 6, 8, 10]
    means = [store.read(i)[159, 159].mean() for i in range(6)]
    assert means == pytest.approx([0, 40, 80, 120, 160, 200], abs=4)


def test_a_long_video_is_decoded_once_and_held_in_parts(tmp_path, monkeypatch):
    write_clip(tmp_path / "clips", 12)
    opened, sizes = [], []
    real_decode, real_make = sources._without_gaps, module.make_crops
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(
        sources, "_without_gaps", lambda reader: opened.append(reader.path) or real_decode(reader)
    )
    monkeypatch.setattr(
        module, "make_crops", lambda job: sizes.append(len(job.frames)) or real_make(job)
    )
    prepare([tmp_path / "clips"], tmp_path / "pairs.db", progress=False)
    assert sizes == [5, 5, 2]
    assert opened == [tmp_path / "clips" / "clip.avi"]


@pytest.mark.parametrize("workers", [1, 2])
def test_rerun_takes_in_what_was_repaired(videos, stills, tmp_path, workers):
    whole, mended = tmp_path / "whole.db", tmp_path / "mended.db"
    prepare([videos, stills], whole, progress=False)
    broken = [videos / "car" / "00000003.jpg", videos / "dog" / "00000001.jpg", stills / "2.jpg"]
    good = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"no image")
    assert prepare([videos, stills], mended, workers=workers, progress=False).crops == 8
    broken[0].write_bytes(good[0])
    broken[2].write_bytes(good[2])
    report = prepare([videos, stills], mended, workers=workers, progress=False)
    assert (report.added, report.already_stored, report.sequences, report.crops) == (2, 3, 5, 10)
    assert [line.split(";")[0] for line in report.warnings] == ["dog: left out 1 of 2"]
    broken[1].write_bytes(good[1])
    prepare([videos, stills], mended, workers=workers, progress=False)
    assert pictures(mended) == pictures(whole)
    assert prepare([videos, stills], mended, progress=False).warnings == []


@pytest.mark.parametrize("workers", [1, 2])
def test_rerun_cuts_out_again_what_has_changed(videos, stills, tmp_path, capsys, workers):
    whole, out = tmp_path / "whole.db", tmp_path / "pairs.db"
    prepare([videos, stills], out, progress=False)
    (videos / "dog" / "groundtruth.txt").write_text("30,20,30,20\n" * 4)
    write_image(videos / "car" / "00000003.jpg", 200)
    # The first box is too small, the second is unchanged.
    (stills / "boxes.csv").write_text("file,x,y,w,h\n0.jpg,10,10,4,3\n2.jpg,0,0,20,20\n")
    capsys.readouterr()
    report = prepare([videos, stills], out, workers=workers, progress=False)
    assert (report.added, report.already_stored, report.sequences) == (2, 2, 4)
    said = (
        "3 sequences have other boxes or frames than when they were cut out, and are cut out again"
    )
    assert capsys.readouterr().err == f"{out}: {said}: car, dog, 0.jpg\n"
    prepare([videos, stills], whole, progress=False)
    assert pictures(out) == pictures(whole)
    before = out.read_bytes()
    assert prepare([videos, stills], out, progress=False).already_stored == 4
    assert out.read_bytes() == before
    assert capsys.readouterr().err == ""


def test_changed_sequence_of_which_nothing_can_be_used_is_taken_out(videos, tmp_path):
    out = tmp_path / "pairs.db"
    prepare([videos], out, progress=False)
    for image in (videos / "car").glob("*.jpg"):
        image.write_bytes(b"no image")
    report = prepare([videos], out, progress=False)
    assert (report.added, report.sequences, report.changed) == (0, 1, ["car"])
    assert [line.split(";")[0] for line in report.warnings] == ["car: left out 5 of 5"]


def test_changed_video_file_is_cut_out_again(tmp_path):
    write_clip(tmp_path / "clips", 6)
    prepare([tmp_path / "clips"], tmp_path / "pairs.db", progress=False)
    (tmp_path / "clips" / "clip.txt").write_text("30,30,40,30\n" * 5 + "31,30,40,30\n")
    assert prepare([tmp_path / "clips"], tmp_path / "pairs.db", progress=False).changed == ["clip"]
    os.utime(tmp_path / "clips" / "clip.avi", (1, 1))
    assert prepare([tmp_path / "clips"], tmp_path / "pairs.db", progress=False).changed == ["clip"]


def test_stores_of_early_versions_are_taken_as_they_are(videos, tmp_path, capsys):
    out = tmp_path / "pairs.db"
    prepare([videos], out, progress=False)
    with sqlite3.connect(out) as db:
        db.execute("DROP TABLE origins")
    db.close()
    (videos / "dog" / "groundtruth.txt").write_text("30,20,30,20\n" * 4)
    assert prepare([videos], out, progress=False).already_stored == 2
    assert capsys.readouterr().err == ""
    assert CropStore(out).origins == (None, None)


def pictures(path):
    """The contents of a store whatever its order: frames and JPEGs by sequence."""
    store = CropStore(path)
    ends = zip(store.names, store.starts[:-1], store.starts[1:], strict=True)
    return {
        name: [(store.frames[i], store.jpeg(i)) for i in range(start, end)]
        for name, start, end in ends
    }


def test_with_nothing_left_to_do_the_store_is_not_touched(videos, stills, tmp_path):
    out = tmp_path / "pairs.db"
    # A fault that stays must not change that.
    (videos / "car" / "00000003.jpg").write_bytes(b"no image")
    (stills / "1.jpg").write_bytes(b"no image")
    first = prepare([videos, stills], out, progress=False)
    before = out.read_bytes()
    with CropWriter(out):  # another process is writing
        again = prepare([videos, stills], out, progress=False)
    assert out.read_bytes() == before
    assert (again.added, again.already_stored, again.crops) == (0, 5, first.crops)
    assert again.warnings == first.warnings
    (stills / "3.jpg").write_bytes((stills / "0.jpg").read_bytes())
    with CropWriter(out), pytest.raises(ValueError, match="is in use by process"):
        prepare([videos, stills], out, progress=False)


class TestTrainingData:
    def test_other_targets_of_a_held_out_video_are_held_out_too(self, tmp_path):
        write_clip(tmp_path / "raw", 6)
        (tmp_path / "tracks").mkdir()
        for number in (1, 2):
            (tmp_path / "tracks" / f"clip_{number}.avi").symlink_to(tmp_path / "raw" / "clip.avi")
            boxes = f"30,30,{30 + number},30\n" * 6
            (tmp_path / "tracks" / f"clip_{number}.txt").write_text(boxes)
        stores = open_stores([tmp_path / "tracks"], tmp_path / "cache")
        first = load_sequences(tmp_path / "tracks")[:1]
        assert find_held_out(stores, first) == [(0, 0), (0, 1)]

    def test_one_process_prepares_and_the_others_open(self, videos, tmp_path, capsys):
        with pytest.raises(FileNotFoundError, match="no such crop store"):
            open_stores([videos], tmp_path / "cache", prepare_missing=False)
        assert not (tmp_path / "cache").exists()
        assert capsys.readouterr().out == ""
        (first,) = open_stores([videos], tmp_path / "cache")
        before = first.path.read_bytes()
        with CropWriter(first.path):
            (other,) = open_stores([videos], tmp_path / "cache", prepare_missing=False)
        assert (other.path, other.names) == (first.path, ("car", "dog"))
        assert first.path.read_bytes() == before

    def test_corrected_boxes_are_trained_on(self, videos, tmp_path):
        (before,) = open_stores([videos], tmp_path / "cache")
        (videos / "car" / "groundtruth.txt").write_text("20,20,60,20\n" * 5)
        (after,) = open_stores([videos], tmp_path / "cache")
        assert (before.path, before.names) == (after.path, after.names[::-1])
        assert before.sizes[0, 0] < after.sizes[-1, 0]

    def test_held_out_is_what_is_the_same_and_not_what_is_called_the_same(self, videos, tmp_path):
        other, copy = tmp_path / "other", tmp_path / "copy"
        write_video(other, "car", ["22,20,30,20"] * 5)
        shutil.copytree(videos, copy)
        (tmp_path / "link").symlink_to(videos)
        stores = open_stores([videos, other], tmp_path / "cache")
        assert stores[0].names == ("car", "dog", "car")
        for root, rows in (
            (videos, [(0, 0), (0, 1)]),
            (tmp_path / "link", [(0, 0), (0, 1)]),
            (copy, [(0, 0), (0, 1)]),
            (other, [(0, 2)]),
        ):
            assert find_held_out(stores, load_sequences(root)) == rows
        with sqlite3.connect(stores[0].path) as db:
            db.execute("DROP TABLE origins")  # as an early version left it, with names alone
        db.close()
        assert find_held_out([CropStore(stores[0].path)], load_sequences(other)) == [(0, 0), (0, 2)]

    def test_broken_sequences_stop_it_or_are_left_out(self, videos, tmp_path, capsys):
        good, cache = tmp_path / "good", tmp_path / "cache"
        shutil.copytree(videos, good)
        break_some(videos)
        message = r"broken sequences: 2: .* --skip-broken"
        with pytest.raises(ValueError, match=message):
            open_stores([videos], cache)
        with pytest.raises(ValueError, match=message):
            hold_out([good], cache, videos, 4)
        capsys.readouterr()
        open_stores([videos], cache, skip_broken=True)
        assert capsys.readouterr().err.count("warning: left out: ") == 2
        assert hold_out([videos], cache, None, 4, skip_broken=True) == []
        assert capsys.readouterr().err == ""
        (sequence,) = hold_out([good], cache, videos, 4, skip_broken=True)
        assert sequence.name == "dog"
        assert capsys.readouterr().err.count("warning: left out: ") == 2
        hold_out([good], cache, videos, 4, skip_broken=True, prints=False)
        open_stores([videos], cache, skip_broken=True, prepare_missing=False)
        assert capsys.readouterr().err == ""

    def test_synthetic_videos_are_made_by_one_process_only(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            open_stores([], tmp_path / "cache", prepare_missing=False)
        assert not (tmp_path / "cache").exists()

    def test_says_that_stores_alone_give_no_validation(self, videos, tmp_path, capsys):
        store = tmp_path / "pairs.db"
        prepare([videos], store, progress=False)
        capsys.readouterr()
        assert hold_out([store], tmp_path, None, 4) == []
        assert capsys.readouterr().out.splitlines() == [
            "no validation during training: the data have no sequences to spare for it; "
            "give some with --val PATH"
        ]
        assert len(hold_out([store], tmp_path, videos, 4)) == 2
        hold_out([store], tmp_path, None, 0)
        hold_out([store], tmp_path, None, 4, prints=False)
        assert capsys.readouterr().out == ""


def run_tool(*arguments, path=""):
    command = [sys.executable, ROOT / "tools" / "prepare_pairs.py", *arguments]
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_tool_prepares_leaves_out_and_fails_in_one_line(videos, stills, tmp_path):
    done = run_tool(
        "--data", videos, "--data", stills, "--out", tmp_path / "pairs.db", "--every", "2"
    )
    assert done.returncode == 0
    assert "5 sequences, 9 crops" in done.stdout
    assert "5 added, 0 already there, 0 with parts left out" in done.stdout
    (videos / "car" / "00000003.jpg").unlink()
    done = run_tool("--data", videos, "--out", tmp_path / "fewer.db", "--skip-broken")
    assert done.returncode == 0
    assert "0 with parts left out\n1 broken sequences left out\n" in done.stdout
    failed = run_tool("--data", tmp_path / "nowhere", "--out", tmp_path / "other.db")
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "nowhere" in failed.stderr


def test_tool_says_why_opencv_does_not_load(tmp_path):
    fault = "libGL.so.1: cannot open shared object file"
    code = f"raise ImportError('{fault}: No such file or directory')\n"
    (tmp_path / "cv2.py").write_text(code)
    failed = run_tool("--data", tmp_path, "--out", tmp_path / "pairs.db", path=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {fault}")
    assert len(failed.stderr.splitlines()) == 1


def test_real_videos_are_cut_out(real_data, tmp_path):
    report = prepare(
        [real_data / "GOT-10k" / "train"], tmp_path / "pairs.db", max_per_sequence=2, progress=False
    )
    assert (report.sequences, report.crops, report.warnings) == (47, 94, [])
    store = CropStore(tmp_path / "pairs.db")
    sides = np.sqrt(np.prod(store.sizes + store.sizes.sum(axis=1, keepdims=True) / 2, axis=1))
    # The exemplar's square around every target is 127 pixels wide.
    assert sides == pytest.approx(127, abs=0.01)


@pytest.mark.parametrize("error", [OSError("handle is closed"), ValueError("bad value(s) in fds")])
def test_a_pool_that_breaks_while_it_takes_a_job_is_broken(error: Exception) -> None:
    class Pool:
        def submit(self, *_: object) -> None:
            raise error

    with pytest.raises(BrokenProcessPool):
        module._submit(Pool(), None)  # type: ignore[arg-type]
