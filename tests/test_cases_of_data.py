"""Data that caused users trouble: each is read correctly, or refused in a line that says why."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import write_otb
from requirements import case
from test_sequences import BOXES, make_got10k, make_otb, write_lines

from rbsf.datasets.images.decode import CentreCrop, decode_crop
from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.images.labelled import open_labelled
from rbsf.datasets.images.mnist import open_mnist
from rbsf.datasets.images.pickles import parse_pickle
from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.prepare import find_jobs, prepare
from rbsf.datasets.pairs.stills import read_stills
from rbsf.datasets.synthetic.videos import write_video
from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.run_benchmarks import main as run_benchmarks
from rbsf.system.text import read_text
from rbsf.tools.classify import list_images

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
    with pytest.raises(ValueError, match=r"is a folder; give a file"):
        read_text(tmp_path)
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


# ---- images by class


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def class_folder(root: Path) -> Path:
    for split in ("train", "val"):
        for name in ("blue", "red"):
            write_image(root / split / name / "0.png")
    return root


def test_images_in_folders_below_a_class_are_taken() -> None:
    train, val = open_labelled("folder", case("15-nested-class-folder"))
    assert (len(train), len(val)) == (16, 8)
    assert isinstance(train, FolderData)
    assert train.files[8:] == [
        *(f"red/00{number}.png" for number in range(4)),
        *(f"red/2023/00{number}.png" for number in range(4, 8)),
    ]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root = class_folder(tmp_path)
    (root / "train" / "red" / "again").symlink_to(root / "train" / "red")
    write_image(tmp_path / "elsewhere" / "1.png")
    (root / "train" / "red" / "more").symlink_to(tmp_path / "elsewhere")
    train, _ = open_labelled("folder", root)
    assert isinstance(train, FolderData)
    assert train.files == ["blue/0.png", "red/0.png", "red/more/1.png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train/loose.png", r"train: 1 images beside the folders of classes are left out"),
        ("train/red/a.gif", r"red: 1 files have no suffix of an image .* left out, such as a\.gif"),
    ],
)
def test_images_that_are_left_out_are_named(tmp_path: Path, name: str, words: str) -> None:
    write_image(class_folder(tmp_path) / name)
    with pytest.warns(UserWarning, match=words):
        assert len(open_labelled("folder", tmp_path)[0]) == 2


def flat_validation(root: Path) -> Path:
    shutil.rmtree(class_folder(root) / "val")
    for name in ("a.png", "b.png"):
        write_image(root / "val" / name)
    write_lines(root / "val" / "val_annotations.txt", ["a.png\tred\t0", "b.png\tblue\t0"])
    return root


def test_a_hidden_folder_beside_flat_images_is_no_class(tmp_path: Path) -> None:
    (flat_validation(tmp_path) / "val" / ".ipynb_checkpoints").mkdir()
    _, val = open_labelled("folder", tmp_path)
    assert isinstance(val, FolderData)
    assert (val.files, val.labels.tolist()) == (["a.png", "b.png"], [1, 0])


def test_an_image_of_two_classes_is_refused(tmp_path: Path) -> None:
    labels = flat_validation(tmp_path) / "val" / "val_annotations.txt"
    write_lines(labels, ["a.png\tred\t0", "b.png\tblue\t0", "a.png\tblue\t0"])
    with pytest.raises(ValueError, match=r"val_annotations\.txt: image a has two classes"):
        open_labelled("folder", tmp_path)


def test_two_images_of_one_label_are_refused(tmp_path: Path) -> None:
    write_image(flat_validation(tmp_path) / "val" / "a.jpg")
    with pytest.raises(ValueError, match=r"val_annotations\.txt: image a is of several files"):
        open_labelled("folder", tmp_path)


def test_labels_of_another_encoding_are_told(tmp_path: Path) -> None:
    labels = flat_validation(tmp_path) / "val" / "val_annotations.txt"
    labels.write_bytes(labels.read_bytes() + "c.png\trötlich\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"val_annotations\.txt line 3: not UTF-8 text"):
        open_labelled("folder", tmp_path)


def test_classes_need_names_that_are_utf8(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(class_folder(tmp_path)) + b"/train/caf\xe9"))
    write_image(odd / "0.png")
    with pytest.raises(ValueError, match=r"the name of caf\\xe9 is not valid UTF-8"):
        open_labelled("folder", tmp_path)


def test_only_images_that_are_not_hidden_are_classed() -> None:
    photos = case("16-classify-hidden-files") / "photos"
    assert [path.name for path in list_images(photos)] == ["a.png", "z.png"]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_by_the_names_of_archives(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbsf.datasets.images.mnist.COUNTS", counts := {"train": 4, "t10k": 2})
    for split, count in counts.items():
        for kind, shape in {"images-idx3": (count, 28, 28), "labels-idx1": (count,)}.items():
            head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            content = head + bytes(int(np.prod(shape)))
            name = f"{split}-{kind}-ubyte".replace("-idx", ".idx")
            if packed:
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (tmp_path / name).write_bytes(content)
    train, test = open_mnist(tmp_path)
    assert (len(train), len(test)) == (4, 2)


def test_no_images_are_as_wrong_for_counting_as_for_reading(tmp_path: Path) -> None:
    train, _ = open_labelled("folder", class_folder(tmp_path))
    for ask in (train.batch_count, lambda size, limit: train.batches(size, 0, 0, limit=limit)):
        with pytest.raises(ValueError, match="limit is 0; give a number of images from 1"):
            ask(1, limit=0)


# ---- images with boxes


def test_a_rotation_noted_by_a_camera_is_applied(tmp_path: Path) -> None:
    """The targets are squares of more contrast than what is around them."""
    prepare([case("P2-exif-stills")], tmp_path / "pairs.db", progress=False)
    store = CropStore(tmp_path / "pairs.db")
    crops = [store.read(index) for index in range(len(store))]
    assert len(crops) == 8
    for crop in crops:
        assert crop[130:188, 130:188].std() > 1.5 * crop[200:260, 60:260].std()
        assert crop[:90, :].std() < 10  # above the upright image, where it is filled up


def test_whole_images_as_targets_are_told(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png")
    write_lines(tmp_path / "boxes.csv", ["file,x,y,w,h", "1.png,10,10,30,30"])
    with pytest.warns(UserWarning, match=r"boxes\.csv: 2 images have no row, such as 0\.png"):
        assert len(read_stills(tmp_path)) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file,x,y,w,h\nä.png,1,2,3,4\n".encode("latin1"), "line 2: not UTF-8 text"),
        ("file,x,y,w,h\na.png,1,2,3,4\n".encode("utf-16"), "line 1: not UTF-8 text"),
        (b"file,x,y,w,h\na.png,0,0,1e300,20\n", "line 2: x,y,w,h are not four numbers"),
        (b'file,x,y,w,h\n"' + b"a" * 200_000, "field larger than field limit"),
        (b"file,x,y,w,h\rb.png,1,2,3,4\r", "line 2: there is no image 'b.png'"),
        (b"file,x,y,w,h\na.png,20,5,20,5,32,0,32,0\n", "line 2: it has more fields than the 5"),
        (b"file,x,y,w,h,x\na.png,1,2,3,4,5\n", "line 1: the column x is there twice"),
    ],
)
def test_a_faulty_table_of_boxes_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"boxes\.csv.*{re.escape(words)}"):
        read_stills(tmp_path)


def test_sequences_in_a_folder_that_is_taken_for_stills_are_named(tmp_path: Path) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": BOXES})
    (tmp_path / "clip.mp4").touch()
    write_image(tmp_path / "preview.png")
    write_lines(tmp_path / "boxes.csv", ["file,x,y,w,h", "preview.png,1,1,9,9"])
    with pytest.warns(UserWarning, match=r"2 beside its images left out.*: Dog, clip\.mp4$"):
        assert [job.kind for job in find_jobs(tmp_path, 1, None, [])] == ["still"]


@pytest.mark.parametrize("layout", ["otb", "got10k", "videos"])
def test_a_picture_beside_sequences_is_left_out_by_name(tmp_path: Path, layout: str) -> None:
    if layout == "otb":
        make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": BOXES})
    elif layout == "got10k":
        make_got10k(tmp_path, names=("Dog",))
    else:
        write_video(tmp_path / "Dog.mp4", seed=1, frames=3, size=(64, 64))
    write_image(tmp_path / "thumb.png")
    with pytest.warns(UserWarning, match="1 images beside its sequences are left out: thumb.png;"):
        jobs = find_jobs(tmp_path, 1, None, [])
    assert [(job.name, job.kind) for job in jobs] == [("Dog", "video")]


def test_what_is_no_sequence_leaves_a_folder_of_images_one(tmp_path: Path) -> None:
    """A list of the images, a video without boxes, and folders of classes are no sequences."""
    write_image(tmp_path / "a.png")
    write_lines(tmp_path / "list.txt", ["a.png"])
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "cups").mkdir()
    write_image(tmp_path / "cups" / "b.png")
    with pytest.warns(UserWarning, match=r"2 beside its images left out.*: clip\.mp4, cups$"):
        assert [job.kind for job in find_jobs(tmp_path, 1, None, [])] == ["still"]


def test_odd_names_are_read(tmp_path: Path) -> None:
    names = ["1²2.png", "١٢.png", "a\nb.png", "%s{}.png"]
    for name in [*names, os.fsdecode(b"caf\xe9.png")]:
        write_image(tmp_path / name)
    report = prepare([tmp_path], tmp_path / "out" / "pairs.db", progress=False)
    assert report.warnings == []
    found = CropStore(tmp_path / "out" / "pairs.db").names
    assert sorted(found) == sorted([*names, "caf\\xe9.png"])


def test_a_sequence_whose_name_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    for name in ("Dog", "Girl"):
        make_otb(tmp_path, name, range(1, 4), {"groundtruth_rect.txt": BOXES})
    (tmp_path / "Girl").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    broken: dict[str, str] = {}
    assert [s.name for s in load_sequences(tmp_path, broken=broken)] == ["Dog"]
    assert broken == {"caf\\xe9": "sequence caf\\xe9: its name is not valid UTF-8; rename it"}


# ---- files that cost far more than their size


@pytest.mark.parametrize("name", ["pickle_laughs_encode.pkl", "pickle_bytearray8b.pkl"])
def test_pickles_that_expand_are_refused(name: str) -> None:
    path = case("hostile") / name
    with pytest.raises(ValueError, match=name):
        parse_pickle(path.read_bytes(), path)


TUPLES = b")" + b"2\x86" * 60  # each holds the one before twice
ENCODE = b"c_codecs\nencode\nq\x00X\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x01"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + TUPLES + b"K\x01s.",
        b"\x80\x02(" + TUPLES + b"K\x01d.",
        b"\x80\x04\x8f(" + TUPLES + b"\x90.",
        b"\x80\x02" + ENCODE + b"0](" + b"h\x00h\x01\x85R" * 100_000 + b"e.",
        b"\x80\x02c_codecs\nencode\n" + TUPLES + b"\x85R.",
        b"\x80\x02cnumpy\ndtype\n" + TUPLES + b"\x85R.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x02\x00\x00\x00x.",
        b"\x80\x04\x95\x00\x00\x00\x00\x02\x00\x00\x00x.",
    ],
    ids=["key", "dict", "set", "encoded often", "encoded", "dtype", "bytes", "frame"],
)
def test_other_pickles_that_expand_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^train: "):
        parse_pickle(content, Path("train"))


def test_a_store_that_computes_is_refused() -> None:
    words = r"db_view_meta\.db: a database, but not a crop store \(it has the view 'meta'\)"
    path = case("hostile") / "db_view_meta.db"
    with pytest.raises(ValueError, match=words):
        CropStore(path)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON crops BEGIN DELETE FROM crops; END", "the trigger 't'"),
        ("CREATE VIEW v AS SELECT 1", "the view 'v'"),
        ("CREATE INDEX i ON crops (abs(frame))", "the index 'i'"),
        ("CREATE TABLE g (a, b AS (a + 1))", "the table 'g'"),
        ("UPDATE crops SET frame = 'what'", "its table of crops is damaged"),
        ("UPDATE crops SET width = -1", "its table of crops is damaged"),
        ("UPDATE crops SET sequence = 99", "its table of crops is damaged"),
    ],
)
def test_a_store_that_was_changed_is_refused(tmp_path: Path, statement: str, words: str) -> None:
    write_image(tmp_path / "stills" / "a.png")
    path = tmp_path / "pairs.db"
    prepare([tmp_path / "stills"], path, progress=False)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    with pytest.raises(ValueError, match=rf"pairs\.db: .*{re.escape(words)}"):
        CropStore(path)


def test_a_crop_that_claims_another_size_is_damaged(tmp_path: Path) -> None:
    write_image(tmp_path / "stills" / "a.png")
    path = tmp_path / "pairs.db"
    prepare([tmp_path / "stills"], path, progress=False)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE images SET jpeg = ?", (claiming(60_000, 17_000),))
    with pytest.raises(ValueError, match="crop 0 is damaged"):
        CropStore(path).read(0)


def claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header says that it is of another size."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_an_image_over_the_limit_is_left_out_of_a_preparation(tmp_path: Path) -> None:
    write_image(tmp_path / "stills" / "a.png")
    (tmp_path / "stills" / "b.jpg").write_bytes(claiming(60_000, 60_000))
    shutil.copy(case("hostile") / "image.png-hang-9ce8f1fd.png", tmp_path / "stills" / "c.png")
    report = prepare([tmp_path / "stills"], tmp_path / "pairs.db", progress=False)
    assert report.crops == 1
    assert [warning.partition(":")[0] for warning in report.warnings] == ["b.jpg", "c.png"]
    assert "b.jpg is larger than OpenCV reads; scale it down" in report.warnings[0]


def test_no_crop_is_cut_of_an_image_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "1000000")
    crop = CentreCrop(1.0)
    with pytest.raises(ValueError, match="larger than OpenCV reads"):
        decode_crop(claiming(1001, 1000), crop, 32)
    with pytest.raises(ValueError, match="is damaged"):  # read, but few pixels are in the file
        decode_crop(claiming(1000, 1000), crop, 32)
    hostile = (case("hostile") / "image.png-hang-9ce8f1fd.png").read_bytes()
    with pytest.raises(ValueError, match="is cut short"):
        decode_crop(hostile, crop, 32)
