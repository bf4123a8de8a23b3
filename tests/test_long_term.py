"""Long-term scores on runs counted by hand, and departures made from footage."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rbsf.datasets.synthetic.departures import cut, hide, leave
from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.long_term import Counts, LongRun, score_long
from rbsf.eval.reliability import calibration_error, reliability
from rbsf.eval.run_long_term import main

HERE, AWAY = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]
ABSENT = [np.nan] * 4


def sequence_of(boxes: list[list[float]]) -> Sequence:
    return Sequence("a", ("",) * len(boxes), np.array(boxes))


def run_of(boxes: list[list[float]], scores: list[float], lost: list[int]) -> LongRun:
    return LongRun(np.array(boxes), np.array(scores), np.array(lost, bool))


def test_counts_and_shares_by_hand():
    truth = [HERE, HERE, HERE, HERE, ABSENT, ABSENT, HERE]
    run = run_of([HERE, HERE, AWAY, HERE, HERE, HERE, HERE], [1.0] * 7, [0, 0, 0, 1, 0, 1, 0])
    scores = score_long([(run, sequence_of(truth))])
    assert scores.counts == Counts(
        tracked=2, failed=1, missed=1, false_positives=1, true_negatives=1
    )
    assert scores.noticed == pytest.approx(1 / 3)  # of frames 2, 4 and 5
    assert scores.false_alarms == pytest.approx(1 / 3)  # of frames 1, 3 and 6
    assert scores.found == 1.0
    assert scores.jumps == 0.0


def test_the_overlap_after_the_last_return_is_that_of_all_frames_from_there():
    truth = sequence_of([HERE, ABSENT, HERE, ABSENT, HERE, HERE, HERE, HERE])
    boxes = [HERE, HERE, HERE, HERE, AWAY, HERE, HERE, HERE]
    scores = score_long([(run_of(boxes, [1.0] * 8, [0] * 8), truth)])
    assert scores.after == pytest.approx(3 / 4)
    stays = score_long([(run_of([HERE] * 2, [1.0] * 2, [0] * 2), sequence_of([HERE, HERE]))])
    assert np.isnan(stays.after)


def test_f_is_taken_at_the_best_threshold():
    """Frames with a high score overlap, those with a low one do not: dropping these is best."""
    truth = [HERE, HERE, HERE, ABSENT, ABSENT]
    run = run_of([HERE] * 5, [1.0, 0.9, 0.8, 0.1, 0.2], [0] * 5)
    scores = score_long([(run, sequence_of(truth))])
    assert (scores.f, scores.precision, scores.recall) == pytest.approx((1, 1, 1))
    worse = run_of([HERE] * 5, [1.0, 0.2, 0.2, 0.2, 0.2], [0] * 5)
    scores = score_long([(worse, sequence_of(truth))])
    assert (scores.precision, scores.recall) == pytest.approx((0.5, 1))
    assert scores.f == pytest.approx(2 / 3)


def test_f_of_targets_that_never_show_is_nan():
    run = run_of([HERE] * 3, [1.0, 0.9, 0.8], [0] * 3)
    scores = score_long([(run, sequence_of([HERE, ABSENT, ABSENT]))])
    assert np.isnan([scores.f, scores.precision, scores.recall]).all()


def test_a_score_is_reliable_where_it_is_the_share_of_hits():
    scores = np.array([0.25, 0.25, 0.25, 0.25, 0.96, 1.0])
    hits = np.array([True, False, False, False, True, False])
    bins = reliability(scores, hits)
    assert bins == [(4, 0.25, 0.25), (2, 0.98, 0.5)]
    assert calibration_error(bins) == pytest.approx(2 / 6 * 0.48)


def test_a_jump_is_ten_frames_in_a_row_elsewhere():
    truth = sequence_of([HERE] * 12)
    for wrong, jumps in ((9, 0.0), (10, 1.0)):
        boxes = [HERE, *[AWAY] * wrong, *[HERE] * (11 - wrong)]
        assert score_long([(run_of(boxes, [1.0] * 12, [0] * 12), truth)]).jumps == jumps


def test_a_target_that_is_found_too_late_is_not_found():
    truth = sequence_of([HERE, ABSENT, *[HERE] * 30])
    for late, found in ((24, 1.0), (25, 0.0)):
        lost = [0, 1, *[1] * late, *[0] * (30 - late)]
        assert score_long([(run_of([HERE] * 32, [1.0] * 32, lost), truth)]).found == found


def test_a_target_that_never_returns_cannot_be_found():
    truth = sequence_of([HERE, HERE, ABSENT, ABSENT])
    assert np.isnan(score_long([(run_of([HERE] * 4, [1.0] * 4, [0, 0, 1, 1]), truth)]).found)


def test_a_run_begins_at_the_first_true_box():
    truth = sequence_of([ABSENT, ABSENT, HERE, HERE, AWAY])
    scores = score_long([(run_of([HERE] * 3, [1.0] * 3, [0] * 3), truth)])
    assert scores.counts == Counts(tracked=1, failed=1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Sequence:
    """A bright square that drifts to the left in the right half of 300 frames."""
    folder = tmp_path_factory.mktemp("footage") / "square"
    folder.mkdir()
    boxes = []
    for number in range(300):
        image = np.full((60, 200, 3), 40, np.uint8)
        x = 120 - number // 15
        image[20:40, x : x + 20] = 255
        cv2.imwrite(str(folder / f"{number:04}.png"), image)
        boxes.append([x, 20.0, 20.0, 20.0])
    np.savetxt(folder / "groundtruth.txt", boxes, "%g", ",")
    files = tuple(str(path) for path in sorted(folder.glob("*.png")))
    return Sequence("square", files, np.array(boxes, float))


@pytest.mark.parametrize("make", [leave, hide, cut])
def test_boxes_are_where_the_target_shows(make, footage):
    made = make(footage, 200, 3)
    for index in range(len(made)):
        image, box = made.image(index), made.boxes[index]
        bright = (image > 250).all(2)
        if np.isnan(box[0]):
            assert bright.sum() < 0.25 * 400
            continue
        left, right = np.clip([box[0], box[0] + 20], 0, image.shape[1]).astype(int)
        assert bright[20:40, left:right].sum() == bright.sum()
        assert bright.sum() >= 0.15 * 400


def test_a_target_that_leaves_returns_and_one_behind_a_pillar_too(footage):
    for make, least in ((leave, 25), (hide, 18)):
        made = make(footage, 200, 3)
        absent = np.isnan(made.boxes[:, 0])
        assert absent.sum() >= least
        assert not absent[:20].any()
        returns = np.flatnonzero(absent)[-1] + 1
        assert len(made) - returns >= 50


def test_a_part_of_a_departure_has_its_own_frames(footage):
    made = leave(footage, 200, 3)
    part = made.part(40, 60)
    assert len(part) == 20
    for index in (0, 19):
        np.testing.assert_array_equal(part.image(index), made.image(40 + index))


def test_departures_repeat_by_their_seed(footage):
    one, same, other = (leave(footage, 200, seed) for seed in (1, 1, 2))
    assert one.views == same.views
    assert one.views != other.views


def test_footage_that_is_too_short_gives_none(footage):
    assert leave(footage.part(0, 100), 200, 0) is None


def test_the_program_writes_a_table(footage, tmp_path, capsys):
    root = Path(footage.frames[0]).parents[1]
    flags = ["--root", str(root), "--tracker", "static", "--out", str(tmp_path)]
    assert main([*flags, "--departures", "leave", "cut"]) == 0
    assert "| static | 2 | 0." in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "reliability.png")).shape[2] == 3
    figures = json.loads((tmp_path / "long.json").read_text())["static"]
    assert figures["counts"]["true_negatives"] == 0
    assert figures["noticed"] == 0.0


def test_two_trackers_of_one_name_are_refused(footage, tmp_path):
    root = Path(footage.frames[0]).parents[1]
    flags = ["--root", str(root), "--tracker", "a=static", "--tracker", "a=static"]
    with pytest.raises(ValueError, match="2 trackers are called a; give them labels"):
        main([*flags, "--out", str(tmp_path)])


def test_a_tracker_that_fails_takes_no_other_results(footage, tmp_path, capsys):
    root = Path(footage.frames[0]).parents[1]
    code = "class Boom:\n def init(self, image, box): ...\n def update(self, image): 1 / 0\n"
    (tmp_path / "boom.py").write_text(code)
    flags = ["--root", str(root), "--tracker", "static", "--tracker", f"{tmp_path}/boom.py:Boom"]
    assert main([*flags, "--as-they-are", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "| static | 1 |" in said.out
    assert "Boom is not scored on square" in said.err
    assert "static" in json.loads((tmp_path / "out" / "long.json").read_text())


def test_what_never_happened_is_null(footage, tmp_path):
    root = Path(footage.frames[0]).parents[1]
    flags = ["--root", str(root), "--tracker", "static", "--out", str(tmp_path), "--as-they-are"]
    assert main(flags) == 0
    figures = json.loads((tmp_path / "long.json").read_text(), parse_constant=pytest.fail)["static"]
    assert figures["found"] is None


def test_a_bad_image_ends_no_run(footage, tmp_path, capsys):
    from shutil import copytree

    folder = Path(footage.frames[0]).parent
    for name in ("good", "bad"):
        copytree(folder, tmp_path / "root" / name)
    (tmp_path / "root" / "bad" / Path(footage.frames[3]).name).write_bytes(b"what")
    flags = ["--root", str(tmp_path / "root"), "--tracker", "static", "--as-they-are"]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "error: static is not scored on bad: image" in said.err
    assert "| static |" in said.out
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        main([*flags, "--out", str(tmp_path / "file")])


def test_a_bad_first_image_ends_no_run(footage, tmp_path, capsys):
    from shutil import copytree

    folder = Path(footage.frames[0]).parent
    for name in ("good", "bad"):
        copytree(folder, tmp_path / "root" / name)
    (tmp_path / "root" / "bad" / Path(footage.frames[0]).name).write_bytes(b"what")
    flags = ["--root", str(tmp_path / "root"), "--tracker", "static"]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "error: no tracker is scored on bad: image" in said.err
    assert "| static |" in said.out


def test_a_sequence_that_cannot_be_read_ends_no_run(footage, tmp_path, capsys):
    from shutil import copytree

    folder = Path(footage.frames[0]).parent
    for name in ("good", "bad"):
        copytree(folder, tmp_path / "root" / name)
    (tmp_path / "root" / "bad" / "groundtruth.txt").write_text("what\n")
    flags = ["--root", str(tmp_path / "root"), "--tracker", "static", "--as-they-are"]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "error: no tracker is scored on bad: " in said.err
    assert "| static | 1 |" in said.out
    both = ["--sequences", "good", "--sequences", "bad"]
    assert main([*flags, *both, "--out", str(tmp_path / "both")]) == 1
    assert "| static | 1 |" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no sequence could be tracked: .* bad: .*groundtruth"):
        main([*flags, "--sequences", "bad", "--out", str(tmp_path / "none")])
