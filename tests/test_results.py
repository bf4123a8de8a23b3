"""Result files: both formats on disk, what is read back, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import bare_sequence, write_otb

from rbsf.datasets.synthetic.videos import write_video
from rbsf.datasets.video.sequences import Sequence, load_sequences
from rbsf.eval.results import ResultStore, Run, fingerprint, read_result_folder, stamp

NAN = float("nan")
BOXES = [[10.0, 10.0, 10.0, 10.0], [11.23456, 12.0, 10.5, 9.0]]
VAL = "GOT-10k_Val_000001"


def run_of(*seconds: float, shift: float = 0.0) -> Run:
    return Run(np.array(BOXES) + np.array([shift, 0, 0, 0]), np.array(seconds))


@pytest.fixture
def girl() -> Sequence:
    return bare_sequence("Girl", [[10, 10, 10, 10], [12, 10, 10, 10]], one_based=True)


@pytest.fixture
def val() -> Sequence:
    return bare_sequence(VAL, [[10, 10, 10, 10], [12, 10, 10, 10]])


@pytest.fixture
def otb(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "ours")


@pytest.fixture
def got10k(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "ours", per_sequence=True)


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def check(found: Run | None, shift: float, seconds: list[float]) -> None:
    assert found is not None
    rounded = np.array([[10 + shift, 10, 10, 10], [11.235 + shift, 12, 10.5, 9]])
    np.testing.assert_allclose(found.boxes, rounded, atol=1e-12)
    assert found.seconds.tolist() == seconds


# ---- the form of OTB and UAV123


def test_boxes_count_from_1_where_the_data_set_does(
    otb: ResultStore, girl: Sequence, tmp_path: Path
) -> None:
    otb.save(girl, run_of(0.5, 0.0123456789))
    assert tree(tmp_path) == ["ours/Girl.txt", "ours/times/Girl_time.txt"]
    expected = "11.000,11.000,10.000,10.000\n12.235,13.000,10.500,9.000\n"
    assert (tmp_path / "ours/Girl.txt").read_text() == expected
    nothing = hashlib.sha256().hexdigest()
    digest = hashlib.sha256(f"Girl 2 [[10.0, 10.0, 10.0, 10.0]] {nothing}".encode()).hexdigest()[
        :16
    ]
    times = (tmp_path / "ours/times/Girl_time.txt").read_text()
    assert times == f"# {stamp(girl)} {digest}\n0.50000000\n0.01234568\n"
    check(otb.load(girl), 0, [0.5, 0.01234568])


def test_boxes_count_from_0_elsewhere(otb: ResultStore, girl: Sequence, tmp_path: Path) -> None:
    otb.save(dataclasses.replace(girl, one_based=False), run_of(0.5, 0.25))
    expected = "10.000,10.000,10.000,10.000\n11.235,12.000,10.500,9.000\n"
    assert (tmp_path / "ours/Girl.txt").read_text() == expected


def test_each_further_run_has_a_folder(otb: ResultStore, girl: Sequence, tmp_path: Path) -> None:
    otb.save(girl, run_of(0.5, 0.25, shift=1), 2)
    assert tree(tmp_path) == ["ours.run2/Girl.txt", "ours.run2/times/Girl_time.txt"]
    assert otb.load(girl) is None
    otb.save(girl, run_of(0.1, 0.2))
    check(otb.load(girl, 2), 1, [0.5, 0.25])
    check(otb.load(girl), 0, [0.1, 0.2])


def test_toolkit_reads_the_same_of_otb(otb: ResultStore, girl: Sequence) -> None:
    otb.save(girl, run_of(0.5, 0.25))
    # This is how got10k.experiments.otb reads them.
    boxes = np.loadtxt(otb.boxes_path("Girl"), delimiter=",")
    assert boxes.tolist() == [[11, 11, 10, 10], [12.235, 13, 10.5, 9]]
    assert np.loadtxt(otb.times_path("Girl")).tolist() == [0.5, 0.25]


# ---- the form of GOT-10k


def test_got10k_has_a_column_of_times_a_run(
    got10k: ResultStore, val: Sequence, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        got10k.save(val, run_of(number, number / 4, shift=number), number)
    files = [f"ours/{VAL}/{VAL}_{end}.txt" for end in ("001", "002", "003", "time")]
    assert tree(tmp_path) == files
    times = (tmp_path / files[-1]).read_text().splitlines()
    assert times == [
        f"# {stamp(val)} {fingerprint(val)}",
        "1.00000000,2.00000000,3.00000000",
        "0.25000000,0.50000000,0.75000000",
    ]
    for number in (1, 2, 3):
        check(got10k.load(val, number), number, [number, number / 4])
    assert got10k.load(val, 4) is None


def test_toolkit_reads_the_same_of_got10k(got10k: ResultStore, val: Sequence) -> None:
    for number in (1, 2):
        got10k.save(val, run_of(number, number / 4), number)
    # This is how got10k.experiments.got10k reads them.
    boxes = np.loadtxt(got10k.boxes_path(VAL, 2), delimiter=",")
    assert boxes.tolist() == [[10, 10, 10, 10], [11.235, 12, 10.5, 9]]
    assert np.loadtxt(got10k.times_path(VAL), delimiter=",").tolist() == [[1, 2], [0.25, 0.5]]


def test_got10k_runs_may_come_in_any_order(got10k: ResultStore, val: Sequence) -> None:
    got10k.save(val, run_of(0.5, 0.25, shift=2), 2)
    expected = ["nan,0.50000000", "nan,0.25000000"]
    assert got10k.times_path(VAL).read_text().splitlines()[1:] == expected
    assert got10k.load(val) is None
    assert got10k.load(val, 3) is None
    check(got10k.load(val, 2), 2, [0.5, 0.25])
    got10k.save(val, run_of(0.1, 0.2))
    check(got10k.load(val), 0, [0.1, 0.2])
    check(got10k.load(val, 2), 2, [0.5, 0.25])


def test_got10k_runs_of_other_frames_are_dropped(got10k: ResultStore, val: Sequence) -> None:
    got10k.save(val, run_of(0.5, 0.25), 1)
    moved = dataclasses.replace(val, boxes=val.boxes + 1)
    got10k.save(moved, run_of(0.1, 0.2), 2)
    assert got10k.load(moved, 1) is None
    assert got10k.load(val, 1) is None
    check(got10k.load(moved, 2), 0, [0.1, 0.2])


def test_got10k_saves_over_damaged_times(got10k: ResultStore, val: Sequence) -> None:
    got10k.save(val, run_of(0.5, 0.25))
    got10k.times_path(VAL).write_text(f"# {stamp(val)} {fingerprint(val)}\nwhat\n")
    got10k.save(val, run_of(0.1, 0.2), 2)
    assert got10k.load(val) is None
    check(got10k.load(val, 2), 0, [0.1, 0.2])


# ---- what is read back


@pytest.mark.parametrize("form", ["otb", "got10k"])
def test_nothing_is_there_without_boxes_or_times(
    form: str, girl: Sequence, val: Sequence, request: pytest.FixtureRequest
) -> None:
    store, sequence = request.getfixturevalue(form), girl if form == "otb" else val
    assert store.load(sequence) is None
    store.save(sequence, run_of(0.5, 0.25))
    store.times_path(sequence.name).unlink()
    assert store.load(sequence) is None
    store.save(sequence, run_of(0.5, 0.25))
    store.forget(sequence.name)
    assert store.load(sequence) is None
    store.forget(sequence.name)  # a second time does no harm


def test_forgets_one_run_alone(
    got10k: ResultStore, otb: ResultStore, girl: Sequence, val: Sequence
) -> None:
    for store, sequence in ((got10k, val), (otb, girl)):
        for number in (1, 2):
            store.save(sequence, run_of(0.5, 0.25), number)
        store.forget(sequence.name, 2)
        assert store.load(sequence) is not None
        assert store.load(sequence, 2) is None


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": np.array([[11.0, 10, 10, 10], [12, 10, 10, 10]])},
        {"boxes": np.array([[10.0, 10, 10, 10]] * 3), "frames": ("a", "b", "c")},
        {"boxes": np.array([[NAN] * 4, [12, 10, 10, 10]])},
    ],
    ids=["first box", "length", "first frame"],
)
def test_result_of_another_sequence_is_none(otb: ResultStore, girl: Sequence, change: dict) -> None:
    otb.save(girl, run_of(0.5, 0.25))
    assert otb.load(dataclasses.replace(girl, **change)) is None


def test_later_boxes_and_the_place_do_not_matter(otb: ResultStore, girl: Sequence) -> None:
    otb.save(girl, run_of(0.5, 0.25))
    boxes = np.array([[10.0, 10, 10, 10], [50, 50, 10, 10]])
    assert (
        otb.load(dataclasses.replace(girl, boxes=boxes, frames=("elsewhere/1.jpg", "2.jpg")))
        is not None
    )


@pytest.mark.parametrize("folder", ["OTB", "OTB #2"])
def test_changed_frames_are_another_sequence(otb: ResultStore, tmp_path: Path, folder: str) -> None:
    write_otb(tmp_path / folder, "Girl", [[11, 11, 10, 10]] * 3)
    girl = load_sequences(tmp_path / folder, "otb")[0]
    otb.save(girl, Run(girl.boxes, np.ones(3)))
    assert otb.load(girl) is not None
    middle = Path(girl.frames[1])
    before = middle.read_bytes()
    for after in (before + b"!", before[:-1] + b"!"):  # of another size, and of the same size
        middle.write_bytes(after)
        os.utime(middle, (1, len(after)))
        assert otb.load(girl) is None
    middle.write_bytes(before)  # as a copy would, with another time
    assert otb.load(girl) is not None


def test_changed_video_is_another_sequence(otb: ResultStore, tmp_path: Path) -> None:
    write_video(tmp_path / "a#b" / "Girl.mp4", 0, 3, (96, 64))
    (girl,) = load_sequences(tmp_path / "a#b")
    otb.save(girl, Run(girl.boxes, np.ones(3)))
    (tmp_path / "link").symlink_to(tmp_path / "a#b")
    assert otb.load(load_sequences(tmp_path / "link")[0]) is not None
    text = (tmp_path / "a#b" / "Girl.txt").read_text()
    write_video(tmp_path / "a#b" / "Girl.mp4", 1, 3, (96, 64))
    (tmp_path / "a#b" / "Girl.txt").write_text(text)
    assert otb.load(girl) is None


@pytest.mark.parametrize(
    "header", ["", "# 0123456789abcdef\n", "\udcff\n"], ids=["none", "another", "not text"]
)
def test_times_of_another_origin_are_none(otb: ResultStore, girl: Sequence, header: str) -> None:
    otb.save(girl, run_of(0.5, 0.25))
    otb.times_path("Girl").write_bytes(f"{header}0.5\n0.25\n".encode(errors="surrogateescape"))
    assert otb.load(girl) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"what\n", r"Girl\.txt line 1: 'what' is no list of numbers"),
        (b"1;2;3;4\n" * 2, r"Girl\.txt line 1: '1;2;3;4' is no list of numbers"),
        (b"", r"Girl\.txt is empty"),
        (b"\xff\xfe\n", r"Girl\.txt line 1: not UTF-8 text"),
        (b"1,2,3\n4,5,6\n", r"Girl\.txt line 1: found 3 values, expected 4"),
        (b"1,2,3,4\n\n5,6,7\n", r"Girl\.txt line 3: found 3 values, expected 4"),
        (b"1,2,3,4\nnan,2,3,4\n", r"Girl\.txt: box 2 of 2 is not finite"),
        (b"1,2,3,4\n", r"Girl\.txt holds 1 boxes but the sequence 2 frames"),
    ],
)
def test_damaged_boxes_are_named(
    otb: ResultStore, girl: Sequence, content: bytes, fault: str
) -> None:
    otb.save(girl, run_of(0.5, 0.25))
    otb.boxes_path("Girl").write_bytes(content)
    message = fault + ".*; replace it, or delete it to run the sequence again"
    with pytest.raises(ValueError, match=message) as caught:
        otb.load(girl)
    assert "\n" not in str(caught.value)
    # Another tracker's file cannot be run again.
    message = fault + ".*; write a line x,y,w,h for each frame, with commas"
    with pytest.raises(ValueError, match=message):
        read_result_folder(otb.folder)(girl)


def test_boxes_that_begin_elsewhere_are_told(tmp_path: Path) -> None:
    sequence = bare_sequence("Girl", [[50, 60, 30, 40], [52, 60, 30, 40]])
    (tmp_path / "Girl.txt").write_text("50,60,80,100\n" * 2)  # corners
    with pytest.warns(UserWarning, match=r"Girl\.txt: its first box is .*, not 50, 60, 30, 40"):
        read_result_folder(tmp_path)(sequence)


def test_a_result_may_lack_boxes_where_none_is_scored(tmp_path: Path) -> None:
    nan = [NAN] * 4
    sequence = bare_sequence("Girl", [nan, [10, 10, 10, 10], nan, [12, 10, 10, 10]])
    (tmp_path / "Girl.txt").write_text("nan,nan,nan,nan\n" * 3 + "# end\n12,10,10,10\n")
    found = read_result_folder(tmp_path)(sequence)
    assert found.boxes[3].tolist() == [12, 10, 10, 10]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [("0.5\n", "holds 1 times but the sequence 2 frames"), ("0.5\nwhat\n", "line 3: 'what'")],
)
@pytest.mark.parametrize("form", ["otb", "got10k"])
def test_damaged_times_are_named(
    form: str, girl: Sequence, val: Sequence, rows: str, fault: str, request: pytest.FixtureRequest
) -> None:
    store, sequence = request.getfixturevalue(form), girl if form == "otb" else val
    store.save(sequence, run_of(0.5, 0.25))
    store.times_path(sequence.name).write_text(
        f"# {stamp(sequence)} {fingerprint(sequence)}\n{rows}"
    )
    with pytest.raises(ValueError, match=f"{sequence.name}_time.txt {fault}"):
        store.load(sequence)


# ---- failures


@pytest.mark.parametrize("form", ["otb", "got10k"])
def test_failure_is_kept_until_the_sequence_is_tracked(
    form: str, girl: Sequence, val: Sequence, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store, sequence = request.getfixturevalue(form), girl if form == "otb" else val
    other = bare_sequence("Jogging.1", [[1, 1, 5, 5]])
    assert store.failures() == {}
    store.save_failure(sequence, "image 0002.jpg is empty")
    store.save_failure(other, "its process was killed (SIGKILL)")
    expected = "image 0002.jpg is empty\n"
    assert (tmp_path / "ours/failed" / f"{sequence.name}.txt").read_text() == expected
    assert store.failures() == {
        sequence.name: "image 0002.jpg is empty",
        "Jogging.1": "its process was killed (SIGKILL)",
    }
    store.save(sequence, run_of(0.5, 0.25))
    assert store.failures() == {"Jogging.1": "its process was killed (SIGKILL)"}


def test_file_of_a_killed_write_is_no_failure(
    otb: ResultStore, girl: Sequence, tmp_path: Path
) -> None:
    otb.save_failure(girl, "it is broken")
    (tmp_path / "ours/failed/.Dog.4711.txt").write_text("it is")
    assert otb.failures() == {"Girl": "it is broken"}


# ---- boxes that exist already


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Girl.txt", "Girl"),
        ("Jogging-1.txt", "Jogging.1"),
        ("Jogging.1.txt", "Jogging.1"),
        ("Jogging-1.txt", "Jogging-1"),
        ("Human4.2.txt", "Human4"),
    ],
)
def test_a_flat_folder_is_read(tmp_path: Path, file: str, name: str, separator: str) -> None:
    lines = [["11", "11", "10", "10"], ["12.5", "13", "10", "9"]]
    (tmp_path / file).write_text("".join(separator.join(line) + "\n" for line in lines))
    found = read_result_folder(tmp_path)(
        bare_sequence(name, [[10, 10, 10, 10]] * 2, one_based=True)
    )
    assert found.boxes.tolist() == [[10, 10, 10, 10], [11.5, 12, 10, 9]]
    assert found.seconds.tolist() == [0, 0]


def test_a_folder_of_got10ks_form_is_read(tmp_path: Path, val: Sequence) -> None:
    (tmp_path / VAL).mkdir()
    (tmp_path / VAL / f"{VAL}_001.txt").write_text("10,10,10,10\n11,10,10,10\n")
    # The first of two runs is shown.
    (tmp_path / VAL / f"{VAL}_002.txt").write_text("0,0,1,1\n" * 2)
    read = read_result_folder(tmp_path)
    found = read(val)
    assert found.boxes.tolist() == [[10, 10, 10, 10], [11, 10, 10, 10]]
    assert found.seconds.tolist() == [0, 0]
    (tmp_path / VAL / f"{VAL}_time.txt").write_text("0.5,7\n0.25,7\n")
    found = read(val)
    assert found.seconds.tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match=r"no result: there is no .*GOT-10k_Val_000002\.txt"):
        read(bare_sequence("GOT-10k_Val_000002", [[1, 1, 5, 5]]))


@pytest.mark.parametrize("place", ["times/Jogging-1_time.txt", "Jogging-1_time.txt"])
@pytest.mark.parametrize(
    ("times", "seconds"),
    [("0.5\n0.25\n", [0.5, 0.25]), ("nan\n0.25\n", [0, 0.25]), ("0.5\n", [0, 0])],
)
def test_times_beside_a_flat_folder_are_read(
    tmp_path: Path, place: str, times: str, seconds: list[float]
) -> None:
    (tmp_path / "Jogging-1.txt").write_text("10,10,10,10\n" * 2)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(times)
    found = read_result_folder(tmp_path)(bare_sequence("Jogging.1", [[10, 10, 10, 10]] * 2))
    assert found.seconds.tolist() == seconds


def test_times_beside_a_name_that_ends_like_a_run_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "cl"
    folder.mkdir()
    (folder / "clip_001.txt").write_text("10,10,10,10\n" * 2)
    (folder / "clip_001_time.txt").write_text("0.5\n0.25\n")
    found = read_result_folder(folder)(bare_sequence("clip_001", [[10, 10, 10, 10]] * 2))
    assert found.seconds.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("form", ["otb", "got10k"])
def test_a_folder_of_our_own_results_is_read(
    form: str, girl: Sequence, val: Sequence, request: pytest.FixtureRequest
) -> None:
    store, sequence = request.getfixturevalue(form), girl if form == "otb" else val
    store.save(sequence, run_of(0.5, 0.25))
    check(read_result_folder(store.folder)(sequence), 0, [0.5, 0.25])


def test_a_result_of_another_length_is_refused(tmp_path: Path, girl: Sequence) -> None:
    (tmp_path / "Girl.txt").write_text("1,2,3,4\n" * 3)
    with pytest.raises(ValueError, match=r"Girl\.txt holds 3 boxes but the sequence 2 frames"):
        read_result_folder(tmp_path)(girl)


def test_a_run_beside_others_is_read_unless_it_is_a_sequence_itself(tmp_path: Path) -> None:
    clip = bare_sequence("clip", [[10, 10, 10, 10]] * 2)
    (tmp_path / "clip_001.txt").write_text("10,10,10,10\n" * 2)
    assert len(read_result_folder(tmp_path)(clip).boxes) == 2
    with pytest.raises(ValueError, match=r"no result: there is no .*clip\.txt"):
        read_result_folder(tmp_path, {"clip", "clip_001"})(clip)
    (tmp_path / "clip.txt").write_text("11,10,10,10\n" * 2)
    with pytest.raises(ValueError, match=r"clip\.txt and .*clip_001\.txt are all of clip; keep"):
        read_result_folder(tmp_path)(clip)
    found = read_result_folder(tmp_path, {"clip", "clip_001"})(clip)
    assert found.boxes[0, 0] == 11


def test_a_name_in_other_letters_is_told(tmp_path: Path, girl: Sequence) -> None:
    (tmp_path / "girl.txt").write_text("10,10,10,10\n" * 2)
    with pytest.raises(ValueError, match=r"no result; .*girl\.txt differs in .*: name it as Girl"):
        read_result_folder(tmp_path)(girl)


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Girl.csv").touch()
    with pytest.raises(ValueError, match=r"holds no results: expected NAME\.txt.* found Girl\.csv"):
        read_result_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"results folder .*nowhere does not exist"):
        read_result_folder(tmp_path / "nowhere")
