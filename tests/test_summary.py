"""The dict that a report is made of: means, spread, speed, attributes, and failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import bare_sequence

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval import summary
from rbsf.eval.benchmarks import Split
from rbsf.eval.results import Run
from rbsf.eval.summary import Entrant, summarise

NAN = [float("nan")] * 4
# B overlaps A by a third, and C does not overlap it.
A, B, C = [10, 10, 10, 10], [15, 10, 10, 10], [40, 10, 10, 10]
# A box that never moves has overlaps of 1, 1, 1, 1 with Girl and of 1, 1/3 with Dog.
GIRL, DOG = bare_sequence("Girl", [A] * 4), bare_sequence("Dog", [A, B])
Reader = Callable[[Sequence], "Run | None"]


def boxes(found: dict[str, list[list[float]]], seconds: float = 0.5) -> Reader:
    """A function that reads one run's boxes; each frame takes `seconds`."""

    def load(sequence: Sequence) -> Run | None:
        rows = found.get(sequence.name)
        return None if rows is None else Run(np.array(rows, float), np.full(len(rows), seconds))

    return load


STILL = boxes({"Girl": [A] * 4, "Dog": [A] * 2})
LOST = boxes({"Girl": [A, A, C, C], "Dog": [A, C]}, 0.25)


def report(
    *entrants: Entrant, split: Split | None = None, attributes: tuple = ({}, {})
) -> dict[str, Any]:
    found = summarise(
        split or Split("OTB100", [GIRL, DOG]), list(entrants), None, {"cores": 2}, attributes
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_the_head_of_the_report_says_what_was_run() -> None:
    split = Split("OTB100", [GIRL, DOG], ["Basketball"], {"Man": "it is broken"})
    attributes = {"SV": "scale variation"}, {"Girl": {"SV"}, "Dog": set()}
    entrants = [
        Entrant("still", "static", [STILL]),
        Entrant("lost", "lost-1a2b3c4d", [LOST], 480, "float32"),
    ]
    found = summarise(split, entrants, "lost", {"cores": 2}, attributes)
    assert {
        key: found[key] for key in ("format", "dataset", "title", "frames", "missing", "unreadable")
    } == {
        "format": "rbsf-benchmark-1",
        "dataset": "OTB100",
        "title": "OTB100 (2 of 100 sequences)",
        "frames": 6,
        "missing": ["Basketball"],
        "unreadable": {"Man": "it is broken"},
    }
    assert found["subject"] == "still"
    assert found["reference"] == "lost"
    assert found["environment"] == {"cores": 2}
    assert found["attributes"] == {"SV": "scale variation"}
    assert found["paper"]["scores"]["SiamFC"] == {"precision": 0.808, "success": 0.602}
    expected = {"success": 21, "precision": 51, "norm_precision": 51}
    assert {name: len(values) for name, values in found["thresholds"].items()} == expected
    rows = [
        {key: row[key] for key in ("label", "key", "bytes", "precision", "runs")}
        for row in found["trackers"]
    ]
    assert rows == [
        {"label": "still", "key": "static", "bytes": None, "precision": None, "runs": 1},
        {"label": "lost", "key": "lost-1a2b3c4d", "bytes": 480, "precision": "float32", "runs": 1},
    ]


def test_means_are_over_sequences() -> None:
    row = report(Entrant("still", "static", [STILL]))["trackers"][0]
    assert row["sequences"]["Girl"] == {
        "auc": pytest.approx(20 / 21),
        "precision": 1,
        "norm_precision": 1,
        "ao": 1,
        "sr50": 1,
        "sr75": 1,
        "frames": 4,
        "fps": 2,
    }
    # Dog passes 20 and 7 of 21 thresholds. Its centre error of 5 pixels is half a width, and
    # counts at the last of 51 thresholds alone.
    assert row["sequences"]["Dog"] == {
        "auc": pytest.approx((20 + 7) / 42),
        "precision": 1,
        "norm_precision": pytest.approx((51 + 1) / 102),
        "ao": pytest.approx(2 / 3),
        "sr50": 0.5,
        "sr75": 0.5,
        "frames": 2,
        "fps": 2,
    }
    assert row["mean"] == {
        "auc": pytest.approx((40 + 27) / 84),
        "precision": 1,
        "norm_precision": pytest.approx((102 + 52) / 204),
        "ao": pytest.approx(5 / 6),
        "sr50": 0.75,
        "sr75": 0.75,
    }
    assert row["curves"]["success"][0] == 1
    assert row["curves"]["success"][6:8] == [1, 0.75]  # overlap > 0.3 and > 0.35
    assert row["curves"]["success"][20] == 0
    assert row["curves"]["precision"][4:6] == [0.75, 1]
    assert (row["spread"], row["failed"], row["attributes"]) == (None, {}, {})


def test_two_runs_have_a_spread() -> None:
    row = report(Entrant("mixed", "mixed", [STILL, LOST]))["trackers"][0]
    # The AO of the first run is (1 + 2/3) / 2, that of the second (1/2 + 1/2) / 2.
    assert row["runs"] == 2
    assert row["mean"]["ao"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert row["spread"]["ao"] == pytest.approx((5 / 6 - 1 / 2) / 2**0.5)
    assert row["spread"]["sr50"] == pytest.approx((3 / 4 - 1 / 2) / 2**0.5)
    assert row["sequences"]["Girl"]["ao"] == pytest.approx(3 / 4)
    assert row["sequences"]["Girl"]["frames"] == 4
    assert row["sequences"]["Girl"]["fps"] == pytest.approx(8 / 3)  # 8 frames in 2 + 1 seconds
    assert row["fps"] == pytest.approx(12 / 4.5)


def test_attributes_are_means_over_their_sequences() -> None:
    words = {"SV": "scale variation", "LR": "low resolution", "OV": "out of view"}
    of_sequence = {"Girl": {"SV"}, "Dog": {"SV", "LR"}}
    found = report(Entrant("still", "static", [STILL]), attributes=(words, of_sequence))
    row = found["trackers"][0]
    assert list(row["attributes"]) == ["LR", "SV"]
    assert row["attributes"]["LR"]["ao"] == pytest.approx(2 / 3)
    assert row["attributes"]["LR"]["sequences"] == 1
    assert row["attributes"]["SV"]["ao"] == pytest.approx(5 / 6)
    assert row["attributes"]["SV"]["sequences"] == 2


def test_sequence_without_a_result_is_left_out_and_said() -> None:
    only_girl = boxes({"Girl": [A] * 4})
    why = {
        "Dog": "its process was killed",
        "Girl": "of an earlier run",
        "Man": "not of this report",
    }
    rows = report(
        Entrant("failed", "failed", [only_girl], failures=why),
        Entrant("unknown", "unknown", [only_girl]),
        Entrant("one of two", "half", [STILL, only_girl]),
    )["trackers"]
    expected = [{"Dog": "its process was killed"}, {"Dog": "no result"}, {"Dog": "no result"}]
    assert [row["failed"] for row in rows] == expected
    assert all(list(row["sequences"]) == ["Girl"] for row in rows)
    assert all(row["mean"]["ao"] == 1 for row in rows)
    assert all(row["fps"] == 2 for row in rows)


def test_result_that_cannot_be_scored_is_said() -> None:
    def damaged(sequence: Sequence) -> Run | None:
        raise ValueError(f"{sequence.name}.txt is damaged")

    nowhere = boxes({"Girl": [A, NAN, A, A], "Dog": [A] * 2})
    found = report(Entrant("damaged", "a", [damaged]), Entrant("nowhere", "b", [nowhere]))
    rows = found["trackers"]
    assert rows[0]["failed"] == {"Girl": "Girl.txt is damaged", "Dog": "Dog.txt is damaged"}
    expected = [None, None, None, None, {}]
    assert [rows[0][key] for key in ("mean", "spread", "fps", "curves", "sequences")] == expected
    assert rows[1]["failed"] == {"Girl": "box of frame 1 is not finite"}
    assert rows[1]["mean"]["ao"] == pytest.approx(2 / 3)
    assert rows[1]["fps"] == 2


def test_there_is_no_speed_without_times() -> None:
    row = report(Entrant("published", "boxes", [boxes({"Girl": [A] * 4, "Dog": [A] * 2}, 0)]))[
        "trackers"
    ][0]
    assert row["fps"] is None
    assert row["sequences"]["Girl"]["fps"] is None
    assert row["mean"]["ao"] == pytest.approx(5 / 6)


def test_speed_is_of_frames_that_were_tracked() -> None:
    late = bare_sequence("Girl", [NAN, NAN, A, A])
    run = Run(np.array([[0.0] * 4] * 2 + [A] * 2), np.array([0, 0, 0.5, 0.5]))
    found = report(
        Entrant("still", "static", [lambda sequence: run]), split=Split("OTB100", [late])
    )
    assert found["trackers"][0]["fps"] == 2
    assert found["trackers"][0]["sequences"]["Girl"]["fps"] == 2


# ---- GOT-10k


def test_got10k_means_are_over_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "frame_size", lambda sequence: (80, 60))
    long = bare_sequence("GOT-10k_Val_000001", [A] * 4)
    short = bare_sequence("GOT-10k_Val_000002", [A, B])
    still = boxes({long.name: [A] * 4, short.name: [A] * 2})
    split = Split("GOT-10k-val", [long, short])
    words = {"cut": "the frame's edge cuts the target"}
    of_sequence = {long.name: {"cut"}, short.name: {"cut"}}
    found = report(
        Entrant("still", "static", [still]), split=split, attributes=(words, of_sequence)
    )
    row = found["trackers"][0]
    assert found["title"] == "GOT-10k-val (2 of 180 sequences)"
    assert found["paper"] is None
    assert row["sequences"][long.name]["frames"] == 3  # the first frame does not count
    assert row["sequences"][short.name]["ao"] == pytest.approx(1 / 3)
    assert row["mean"]["ao"] == pytest.approx((3 + 1 / 3) / 4)
    assert row["mean"]["sr50"] == 0.75
    assert row["attributes"]["cut"]["ao"] == pytest.approx((3 + 1 / 3) / 4)
    assert row["fps"] == 2  # over all six frames


def test_got10k_boxes_are_clipped_to_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = bare_sequence("GOT-10k_Val_000001", [[0, 0, 20, 20]] * 2)
    monkeypatch.setattr(Sequence, "image", lambda self, index: np.zeros((60, 80, 3), np.uint8))
    assert summary.frame_size(sequence) == (80, 60)
    outside = boxes({sequence.name: [[0, 0, 20, 20], [-10, 0, 20, 20]]})
    row = report(Entrant("still", "static", [outside]), split=Split("GOT-10k-val", [sequence]))[
        "trackers"
    ][0]
    assert row["mean"]["ao"] == 1  # the toolkit moves corners into the frame and keeps sizes


def test_got10k_test_split_has_speed_but_no_scores() -> None:
    sequences = [bare_sequence(f"GOT-10k_Test_{i:06d}", [A, NAN, NAN]) for i in (1, 2)]
    still = boxes({sequence.name: [A] * 3 for sequence in sequences})
    row = report(Entrant("still", "static", [still]), split=Split("GOT-10k-test", sequences))[
        "trackers"
    ][0]
    expected = [None, None, None, {}, {}]
    assert [row[key] for key in ("mean", "spread", "curves", "sequences", "failed")] == expected
    assert row["fps"] == 2


def test_got10k_test_split_says_what_is_missing() -> None:
    sequences = [bare_sequence(f"GOT-10k_Test_{i:06d}", [A, NAN, NAN]) for i in (1, 2)]
    still = boxes({sequences[0].name: [A] * 3})
    row = report(Entrant("still", "static", [still]), split=Split("GOT-10k-test", sequences))[
        "trackers"
    ][0]
    assert row["failed"] == {"GOT-10k_Test_000002": "no result"}
