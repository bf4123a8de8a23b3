from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_videos import misleading

import rbsf.datasets.video.sequences
from rbsf.datasets.video.index import Record, load_index, save_index
from rbsf.datasets.video.layouts import find_entries
from rbsf.datasets.video.sequences import Sequence, load_sequences, read_boxes
from rbsf.datasets.video.writer import VideoWriter

BOXES = ["10,20,30,40", "11,21,30,40", "12,22,31,41"]
BOXES_FAR = ["90,90,30,40", "91,91,30,40"]  # outside the frames of `write_frames`


def write_frames(folder: Path, numbers: range, pattern: str = "{:08d}.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(
            str(folder / pattern.format(number)), np.full((80, 80, 3), 10 * number % 256, np.uint8)
        )


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_got10k(root: Path, names: tuple[str, ...] = ("b", "a")) -> Path:
    for name in names:
        write_frames(root / name, range(1, 4))
        write_lines(root / name / "groundtruth.txt", BOXES)
    write_lines(root / "list.txt", list(names))
    return root


def make_otb(root: Path, name: str, frames: range, annotations: dict[str, list[str]]) -> None:
    write_frames(root / name / "img", frames, "{:04d}.jpg")
    for file, lines in annotations.items():
        write_lines(root / name / file, lines)


def summary(sequences: list[Sequence]) -> list[tuple[str, int, list[float]]]:
    return [(s.name, len(s), s.boxes[0].tolist()) for s in sequences]


# --- layouts


def test_got10k_keeps_the_order_of_its_list_and_its_boxes(tmp_path: Path) -> None:
    sequences = load_sequences(make_got10k(tmp_path))
    assert summary(sequences) == [("b", 3, [10, 20, 30, 40]), ("a", 3, [10, 20, 30, 40])]
    assert sequences[0].frames[2] == str(tmp_path / "b" / "00000003.jpg")
    assert sequences[0].boxes.dtype == np.float64
    assert [int(image.mean()) for image in sequences[0]] == [10, 20, 30]
    assert sequences[0].image(1).shape == (80, 80, 3)


def test_a_single_split_is_entered_and_several_must_be_chosen_from(tmp_path: Path) -> None:
    make_got10k(tmp_path / "val")
    assert len(load_sequences(tmp_path)) == 2
    make_got10k(tmp_path / "train")
    message = r"holds the splits train, val; choose one, for example .*train"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)


def test_the_test_split_alone_may_have_the_first_box_only(tmp_path: Path) -> None:
    write_lines(make_got10k(tmp_path) / "a" / "groundtruth.txt", BOXES[:1])
    with pytest.raises(ValueError, match=r"sequence a: 3 frames .* but 1 boxes"):
        load_sequences(tmp_path, names=["a"])
    (tmp_path / "a").rename(tmp_path / "GOT-10k_Test_000001")
    write_lines(tmp_path / "list.txt", ["GOT-10k_Test_000001"])
    boxes = load_sequences(tmp_path)[0].boxes
    assert boxes[0].tolist() == [10, 20, 30, 40]
    assert np.isnan(boxes[1:]).all()
    assert boxes.shape == (3, 4)


def test_got10k_tells_absent_targets_by_a_label(tmp_path: Path) -> None:
    write_lines(make_got10k(tmp_path) / "a" / "absence.label", ["0", "1", "0"])
    boxes = load_sequences(tmp_path, names=["a"])[0].boxes
    assert np.isnan(boxes).all(axis=1).tolist() == [False, True, False]
    write_lines(tmp_path / "a" / "absence.label", ["0", "1"])
    with pytest.raises(ValueError, match=r"absence\.label: 2 labels for 3 boxes"):
        load_sequences(tmp_path)


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_otb_counts_from_one_with_any_separator(tmp_path: Path, separator: str) -> None:
    lines = [line.replace(",", separator) for line in BOXES]
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": lines})
    assert summary(load_sequences(tmp_path)) == [("Dog", 3, [9, 19, 30, 40])]
    # The folder of one sequence is a dataset too.
    assert summary(load_sequences(tmp_path / "Dog")) == [("Dog", 3, [9, 19, 30, 40])]


def test_a_sequence_without_its_frames_is_named(tmp_path: Path) -> None:
    for name in ("Dog", "Cat"):
        make_otb(tmp_path, name, range(1, 4), {"groundtruth_rect.txt": BOXES})
    shutil.rmtree(tmp_path / "Cat" / "img")
    with pytest.warns(UserWarning, match="Cat: left out, it has boxes but no folder img"):
        assert len(load_sequences(tmp_path)) == 1


def test_two_targets_are_found_in_both_stylings(tmp_path: Path) -> None:
    two = {"groundtruth_rect.1.txt": BOXES, "groundtruth_rect.2.txt": ["50,60,7,8", *BOXES[1:]]}
    make_otb(tmp_path / "dot", "Jogging", range(1, 4), two)
    make_otb(
        tmp_path / "dot",
        "Human4",
        range(1, 4),
        {"groundtruth_rect.1.txt": [], "groundtruth_rect.2.txt": BOXES},
    )
    make_otb(tmp_path / "dash", "Human4-2", range(1, 4), {"groundtruth_rect.txt": BOXES})
    for number, boxes in enumerate(two.values(), 1):
        make_otb(
            tmp_path / "dash", f"Jogging-{number}", range(1, 4), {"groundtruth_rect.txt": boxes}
        )
    expected = [
        ("Human4", 3, [9, 19, 30, 40]),
        ("Jogging.1", 3, [9, 19, 30, 40]),
        ("Jogging.2", 3, [49, 59, 7, 8]),
    ]
    assert summary(load_sequences(tmp_path / "dot")) == expected
    assert summary(load_sequences(tmp_path / "dash")) == expected
    assert [s.name for s in load_sequences(tmp_path / "dot", names=["Jogging-2"])] == ["Jogging.2"]


@pytest.mark.parametrize(
    ("name", "frames", "first", "last"),
    [
        ("David", range(298, 773), 300, 770),
        ("David", range(300, 771), 300, 770),
        ("Diving", range(1, 220), 1, 215),
    ],
)
def test_otb_annotates_only_some_frames(
    tmp_path: Path, name: str, frames: range, first: int, last: int
) -> None:
    folder = tmp_path / name / "img"
    folder.mkdir(parents=True)
    for number in frames:
        (folder / f"{number:04d}.jpg").touch()
    write_lines(tmp_path / name / "groundtruth_rect.txt", (last - first + 1) * ["1,1,5,5"])
    sequence = load_sequences(tmp_path)[0]
    expected = [f"{first:04d}.jpg", f"{last:04d}.jpg"]
    assert [Path(sequence.frames[i]).name for i in (0, -1)] == expected


@pytest.mark.parametrize(
    ("version", "first", "last"), [("UAV123", 415, 1993), ("UAV123_10fps", 139, 665)]
)
def test_uav123_cuts_several_sequences_from_one_folder(
    tmp_path: Path, version: str, first: int, last: int
) -> None:
    folder = tmp_path / "data_seq" / version / "car16"
    folder.mkdir(parents=True)
    for number in range(1, last + 10):
        (folder / f"{number:06d}.jpg").touch()
    lines = ["NaN,NaN,NaN,NaN", *(last - first) * ["5,6,7,8"]]
    write_lines(tmp_path / "anno" / version / "car16_2.txt", lines)
    sequence = load_sequences(tmp_path)[0]
    assert sequence.name == "car16_2"
    expected = [f"{first:06d}.jpg", f"{last:06d}.jpg"]
    assert [Path(sequence.frames[i]).name for i in (0, -1)] == expected
    assert np.isnan(sequence.boxes[0]).all()
    assert sequence.boxes[1].tolist() == [4, 5, 7, 8]


def test_uav123_is_also_handed_on_in_otbs_form(tmp_path: Path) -> None:
    make_otb(tmp_path, "boat5", range(1, 4), {"groundtruth_rect.txt": BOXES})
    assert summary(load_sequences(tmp_path, "uav123")) == [("boat5", 3, [9, 19, 30, 40])]


def test_videos_with_boxes_beside_them_are_found(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 25) as video:
        for level in (40, 120, 200):
            video.write(np.full((48, 64, 3), level, np.uint8))
    write_lines(tmp_path / "clip.txt", BOXES)
    (tmp_path / ".clip.4711.mp4").write_bytes(b"half-written")
    for root in (tmp_path, tmp_path / "clip.mp4"):
        (sequence,) = load_sequences(root)
        assert summary([sequence]) == [("clip", 3, [10, 20, 30, 40])]
        for view in (
            sequence,
            pickle.loads(pickle.dumps(sequence)),
        ):  # pickled, as worker processes get it
            assert [round(image.mean(), -1) for image in view] == [40, 120, 200]
            assert round(view.image(1).mean(), -1) == 120
    (tmp_path / "clip.txt").rename(tmp_path / "clip.TXT")
    assert summary(load_sequences(tmp_path)) == [("clip", 3, [10, 20, 30, 40])]
    (tmp_path / "clip.TXT").unlink()
    write_lines(tmp_path / "clip.txt", BOXES[:2])
    message = r"sequence clip: 3 frames in .*clip\.mp4 but 2 boxes in .*clip\.txt"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)


@pytest.mark.parametrize(
    ("name", "said", "shown"), [("a.mkv", 50, 40), ("a.avi", 30, 40), ("a.mp4", 40, 20)]
)
def test_boxes_are_counted_against_decoded_frames(
    tmp_path: Path, name: str, said: int, shown: int
) -> None:
    misleading(tmp_path / name, said)
    write_lines(tmp_path / "a.txt", [BOXES[0]] * shown)
    assert len(list(load_sequences(tmp_path)[0])) == shown
    write_lines(tmp_path / "a.txt", [BOXES[0]] * (shown + 1))
    message = rf"sequence a: {shown} frames in .*a\.\w+ but {shown + 1} boxes in"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)


@pytest.mark.parametrize(
    ("folder", "count", "frames"),
    [
        ("GOT-10k/train", 47, 10848),
        ("GOT-10k/val", 12, 2818),
        ("OTB", 15, 2970),
        ("UAV123_10fps", 6, 822),
    ],
)
def test_real_data_sets_have_their_known_numbers(
    real_data: Path, folder: str, count: int, frames: int
) -> None:
    sequences = load_sequences(real_data / folder)
    assert (len(sequences), sum(map(len, sequences))) == (count, frames)
    for sequence in sequences[:3]:
        height, width, _ = sequence.image(0).shape
        x, y, w, h = sequence.boxes[0]
        assert -1 <= x <= x + w <= width + 1
        assert -1 <= y <= y + h <= height + 1


def test_real_otb_boxes_are_shifted_to_zero(real_data: Path) -> None:
    expected = [50, 46, 25, 62]
    assert load_sequences(real_data / "OTB", names=["Couple"])[0].boxes[0].tolist() == expected


# --- bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3", "line 2: '1,2,3' is not a box"),
        ("1,2,3,4,5,6,7,8", "line 2: .* is not a box; write x,y,w,h"),
        ("1,2,x,4", "line 2: '1,2,x,4' is not a box"),
        ("1,2,-3,4", "line 2: '1,2,-3,4' is not a box"),
        ("1,nan,3,4", "line 2: '1,nan,3,4' is not a box"),
        ("1,2,inf,4", "line 2: '1,2,inf,4' is not a box"),
        ("", "line 2: '' is not a box"),
    ],
)
def test_a_line_that_is_no_box_is_named(tmp_path: Path, line: str, message: str) -> None:
    write_lines(tmp_path / "groundtruth.txt", [BOXES[0], line, BOXES[2]])
    with pytest.raises(ValueError, match=rf"groundtruth\.txt {message}"):
        read_boxes(tmp_path / "groundtruth.txt")


def test_absent_targets_become_nan(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", ["1,2,3,4", "NaN,NaN,NaN,NaN", "0,0,0,0", "5 6 7 8"])
    expected = [False, True, True, False]
    assert np.isnan(read_boxes(tmp_path / "a.txt")).all(axis=1).tolist() == expected


def test_a_byte_order_mark_is_no_part_of_a_box_or_name(tmp_path: Path) -> None:
    for path in (make_got10k(tmp_path) / "list.txt", tmp_path / "b" / "groundtruth.txt"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert summary(load_sequences(tmp_path))[0] == ("b", 3, [10, 20, 30, 40])


@pytest.mark.parametrize(
    ("lines", "message"),
    [([], r"a\.txt is empty"), (["nan,nan,nan,nan", "0,0,0,0"], "absent from all 2 frames")],
)
def test_an_annotation_without_a_box_is_named(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    write_lines(tmp_path / "a.txt", lines)
    with pytest.raises(ValueError, match=message):
        read_boxes(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.1,0.2,0.3,0.4"] * 3, "line 1: '0.1,0.2,0.3,0.4': no number is above 1; .* in pixels"),
        (["500,500,10,10"] * 3, "line 1: '500,500,10,10' lies outside the 80x80 frame"),
        (
            [BOXES[0], "81,2,3,4", "81,2,3,4"],
            "line 2: '81,2,3,4' lies, as most boxes do, outside the 80x80 frame",
        ),
        (
            ["10,20,40,50", "20,25,50,55", "30,30,60,60"],
            "line 3: '30,30,60,60' reaches outside the 80x80 frame; .* x,y,w,h, not two corners",
        ),
    ],
)
def test_boxes_that_cannot_be_pixels_are_named(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": lines})
    make_otb(tmp_path, "Cat", range(1, 4), {"groundtruth_rect.txt": BOXES})
    broken: dict[str, str] = {}
    assert [s.name for s in load_sequences(tmp_path, broken=broken)] == ["Cat"]
    assert re.search(rf"Dog/groundtruth_rect\.txt {message}", broken["Dog"])


@pytest.mark.parametrize(
    "lines",
    [
        ["70,70,20,20", "90,90,20,20", "70,70,20,20"],  # the target leaves, as in UAV123
        ["10,20,75,30", "12,20,76,30", "14,20,74,30"],  # a close target, wider than its x
        ["nan,nan,nan,nan", "10,20,30,40", "300,20,30,40"],
        ["1,1,1,1", "1,1,2,2", "1,1,2,2"],
    ],
)
def test_boxes_may_leave_the_frame(tmp_path: Path, lines: list[str]) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": lines})
    assert len(load_sequences(tmp_path)) == 1


def test_boxes_are_judged_by_their_own_frames_size(tmp_path: Path) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": [BOXES[0], *BOXES_FAR]})
    for name in ("0002.jpg", "0003.jpg"):
        cv2.imwrite(str(tmp_path / "Dog" / "img" / name), np.zeros((160, 160, 3), np.uint8))
    assert len(load_sequences(tmp_path)) == 1


def test_a_damaged_first_frame_is_not_told_of_when_boxes_are_read(tmp_path: Path) -> None:
    make_otb(tmp_path, "Dog", range(1, 4), {"groundtruth_rect.txt": BOXES})
    (tmp_path / "Dog" / "img" / "0001.jpg").write_bytes(b"")
    assert len(load_sequences(tmp_path)) == 1


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    (make_got10k(tmp_path) / "a" / "00000002.jpg").unlink()
    message = r"sequence a: 2 frames in .* but 3 boxes in .*; frame number 2 is missing"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)
    assert len(load_sequences(tmp_path, names=["b"])) == 1


def test_an_annotation_shorter_than_its_frames_is_named(tmp_path: Path) -> None:
    write_lines(make_got10k(tmp_path) / "a" / "groundtruth.txt", BOXES[:2])
    message = r"sequence a: 3 frames in .*a but 2 boxes in .*groundtruth\.txt"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)
    make_otb(tmp_path / "otb", "Dog", range(1, 4), {"groundtruth_rect.txt": BOXES[:1]})
    with pytest.raises(ValueError, match=r"sequence Dog: 3 frames in .* but 1 boxes"):
        load_sequences(tmp_path / "otb")


def test_a_sequence_without_frames_or_annotation_is_named(tmp_path: Path) -> None:
    make_got10k(tmp_path)
    (tmp_path / "a" / "groundtruth.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"a/groundtruth\.txt does not exist"):
        load_sequences(tmp_path)
    write_lines(tmp_path / "anno" / "UAV123" / "bike1.txt", BOXES)
    message = r"sequence bike1: folder of frames .*data_seq/UAV123/bike1 does not"
    with pytest.raises(FileNotFoundError, match=message):
        load_sequences(tmp_path, "uav123")


def test_an_empty_or_partly_unpacked_list_is_told(tmp_path: Path) -> None:
    write_lines(make_got10k(tmp_path) / "list.txt", ["a", "c", "d"])
    broken: dict[str, str] = {}
    assert [s.name for s in load_sequences(tmp_path, broken=broken)] == ["a"]
    assert broken == {
        name: f"annotation {tmp_path}/{name}/groundtruth.txt does not exist" for name in "cd"
    }
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"list\.txt is empty"):
        load_sequences(tmp_path)


def test_unknown_names_and_empty_choices_are_told(tmp_path: Path) -> None:
    make_got10k(tmp_path)
    with pytest.raises(ValueError, match=r"has no sequence 'z'; it has 2: b, a"):
        load_sequences(tmp_path, names=["a", "z"])
    with pytest.raises(ValueError, match="asked for an empty list of sequences"):
        load_sequences(tmp_path, names=[])


def test_an_unknown_root_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    (tmp_path / "a.txt").touch()
    message = r"looked for list\.txt .* found 1 folders \(stuff \.\.\.\) and 1 files"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path)
    message = r"looked for NAME/img/ with NAME/groundtruth_rect\.txt; found"
    with pytest.raises(ValueError, match=message):
        load_sequences(tmp_path, "otb")
    with pytest.raises(ValueError, match="layout 'vot' is not known; choose from got10k, otb"):
        load_sequences(tmp_path, "vot")
    with pytest.raises(ValueError, match=r"a\.txt is not a video"):
        load_sequences(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"dataset .*gone does not exist"):
        load_sequences(tmp_path / "gone")


# --- the index


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that are listed from here on; every dataset counts as large."""
    listed: list[str] = []
    real = rbsf.datasets.video.sequences.list_images

    def count(folder: Path) -> list[str]:
        listed.append(Path(folder).name)
        return real(folder)

    monkeypatch.setattr(rbsf.datasets.video.sequences, "list_images", count)
    monkeypatch.setattr(rbsf.datasets.video.sequences, "MIN_INDEXED", 1)
    return listed


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setenv("RBSF_CACHE", str(folder))
    return folder


def test_a_second_load_lists_nothing_and_is_equal(
    tmp_path: Path, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = make_got10k(tmp_path / "data"), use_cache(monkeypatch, tmp_path / "cache")
    first = load_sequences(root)
    assert listings == ["b", "a"]
    second = load_sequences(root)
    assert listings == ["b", "a"]
    for one, other in zip(first, second, strict=True):
        assert (one.name, one.frames) == (other.name, other.frames)
        assert np.array_equal(one.boxes, other.boxes)
    assert [f.suffix for f in cache.iterdir()] == [".npz"]


def change_boxes(root: Path) -> None:
    write_lines(root / "a" / "groundtruth.txt", ["1,2,3,4", *BOXES[1:]])


def add_label(root: Path) -> None:
    write_lines(root / "a" / "absence.label", ["0", "0", "1"])


def change_frames(root: Path) -> None:
    (root / "a" / "00000003.jpg").rename(root / "a" / "00000004.jpg")


def drop_sequence(root: Path) -> None:
    write_lines(root / "list.txt", ["a"])


@pytest.mark.parametrize("change", [change_boxes, add_label, change_frames, drop_sequence])
def test_a_changed_dataset_is_read_anew(
    tmp_path: Path, listings: list[str], change: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_got10k(tmp_path / "data")
    use_cache(monkeypatch, tmp_path / "cache")
    load_sequences(root)
    listings.clear()
    assert callable(change)
    change(root)
    fresh = load_sequences(root)
    assert "a" in listings
    assert re.sub(r"\D", "", Path(fresh[-1].frames[2]).name) == (
        "00000004" if change is change_frames else "00000003"
    )
    assert fresh[-1].boxes[0, 0] == (1 if change is change_boxes else 10)
    assert np.isnan(fresh[-1].boxes[2, 0]) == (change is add_label)


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_a_damaged_index_is_made_anew(
    tmp_path: Path, listings: list[str], content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = make_got10k(tmp_path / "data"), use_cache(monkeypatch, tmp_path / "cache")
    load_sequences(root)
    path = next(cache.iterdir())
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    assert len(load_sequences(root)) == 2
    assert listings == 2 * ["b", "a"]
    load_sequences(root)
    assert listings == 2 * ["b", "a"]


def test_the_index_goes_to_the_folder_that_the_environment_names(
    tmp_path: Path, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSF_CACHE", str(tmp_path / "elsewhere"))
    load_sequences(make_got10k(tmp_path / "data"))
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_an_index_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    root = make_got10k(tmp_path / "data")
    use_cache(monkeypatch, tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="index not kept"):
        assert len(load_sequences(root)) == 2


def test_entries_are_found_without_reading_them(tmp_path: Path) -> None:
    (make_got10k(tmp_path) / "a" / "groundtruth.txt").write_text("rubbish")
    assert [entry.name for entry in find_entries(tmp_path)] == ["b", "a"]


def test_an_index_with_a_damaged_byte_is_none_or_whole(tmp_path):
    path, boxes = tmp_path / "index.npz", np.arange(12.0).reshape(3, 4)
    save_index(path, "key", [Record(["1.jpg", "2.jpg", "3.jpg"], boxes)])
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        records = load_index(path, "key")
        assert records is None or (
            records[0].files[0] == "1.jpg" and np.array_equal(records[0].boxes, boxes)
        )


@pytest.mark.parametrize(
    ("known", "head"),
    [("-xx-xx", "a@1+3"), ("xx----", "a@0+3"), ("----xx", "a@4+2"), ("------", "a@0+3")],
)
def test_a_head_begins_with_the_first_known_box(known: str, head: str) -> None:
    boxes = np.array([[1.0, 2, 3, 4] if each == "x" else [np.nan] * 4 for each in known])
    sequence = Sequence("a", tuple(known), boxes)
    assert sequence.annotated().tolist() == [i for i, each in enumerate(known) if each == "x"]
    assert sequence.head(3).name == head
