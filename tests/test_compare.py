"""Reports side by side: rows, columns, common sequences, the bootstrap, the program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, refused
from reports import make_report, make_tracker

from rbsf.eval.intervals import Interval, bootstrap, interval_of
from rbsf.eval.report import write_report
from rbsf.eval.tables import Table
from rbsf.tools.compare import compare, main, name_entries


def save(folder: Path, report: dict[str, Any]) -> str:
    write_report(report, folder, [])
    return str(folder)


def tables(*runs: tuple[str, dict[str, Any]]) -> dict[str, Table]:
    return dict(compare(name_entries([path for path, _ in runs], [report for _, report in runs])))


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def otb(*trackers: dict[str, Any], title: str = "OTB100 (2 of 100 sequences)") -> dict[str, Any]:
    return make_report(*trackers, title=title)


def uav(*trackers: dict[str, Any]) -> dict[str, Any]:
    return make_report(*trackers, dataset="UAV123", title="UAV123 (1 of 123 sequences)")


def test_data_sets_are_columns_with_their_split() -> None:
    found = tables(
        ("a/OTB100", otb(make_tracker("rbsf", {"Dog": 0.5}))),
        ("a/UAV123", uav(make_tracker("rbsf", {"car": 0.25}), make_tracker("static", {}))),
    )
    scores = found["Scores"]
    expected = (("", 1), ("OTB100 (2 of 100 sequences)", 4), ("UAV123 (1 of 123 sequences)", 4))
    assert scores.groups == expected
    assert scores.columns == ["tracker", *["AUC", "precision", "AO", "SR0.5"] * 2]
    assert rows(scores) == [["rbsf", *["0.500"] * 4, *["0.250"] * 4], ["static", *["–"] * 8]]
    assert list(found) == ["Scores"]  # within one data set there is nothing to compare


def test_mean_over_fewer_sequences_is_not_the_best() -> None:
    whole = [
        make_tracker(name, {"Dog": auc, "Girl": auc}) for name, auc in (("a", 0.5), ("b", 0.4))
    ]
    scores = tables(("x/OTB100", otb(*whole, make_tracker("c", {"Dog": 0.9}))))["Scores"]
    assert [row[1].best for row in scores.rows] == [True, False, False]
    assert "| c | 0.900 (1 of 2 sequences) | 0.900 |" in str(scores)


def test_common_sequences_by_hand() -> None:
    found = tables(
        ("runs/a/reports/OTB100", otb(make_tracker("rbsf", {"Dog": 0.5, "Girl": 0.3, "Man": 0.9}))),
        (
            "runs/b/reports/OTB100",
            otb(make_tracker("rbsf", {"Girl": 0.4, "Dog": 0.6, "Car": 0.0}), title="OTB100"),
        ),
    )
    assert [row[0] for row in rows(found["Scores"])] == ["rbsf (a)", "rbsf (b)"]
    table = found["OTB100, common sequences"]
    assert rows(table) == [
        ["rbsf (a)", "0.400", "–", "–"],
        ["rbsf (b)", "0.500", "+0.100", "+0.100 to +0.100"],
    ]
    assert "the 2 sequences of OTB100 that all 2 trackers have" in table.caption
    assert table.columns[2] == "minus rbsf (a)"


def test_trackers_of_one_report_are_compared_too() -> None:
    table = tables(("a", otb()))["OTB100, common sequences"]
    expected = [["rbsf", "0.550", "–"], ["teacher", "0.625", "+0.075"]]
    assert [row[:3] for row in rows(table)] == expected


def test_one_common_sequence_has_no_interval() -> None:
    report = otb(make_tracker("a", {"Dog": 0.5}), make_tracker("b", {"Dog": 0.25}))
    expected = ["b", "0.250", "-0.250", "–"]
    assert rows(tables(("x", report))["OTB100, common sequences"])[1] == expected


def test_bootstrap_interval_is_near_that_of_the_standard_error() -> None:
    # The mean of 50 gaps of 0 and 50 of 1 has a standard error of 0.05: 0.5 +- 1.96 * 0.05.
    gaps = np.tile([0.0, 1.0], 50)
    names = [str(i) for i in range(100)]
    low, high = bootstrap(gaps, names)
    assert low == pytest.approx(0.402, abs=0.011)
    assert high == pytest.approx(0.598, abs=0.011)
    assert bootstrap(gaps, names) == (low, high)


def test_an_interval_of_few_sequences_says_so_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"s{i}" for i in range(10)]
    few, many = (
        [make_tracker("a", dict.fromkeys(part, 0.5)), make_tracker("b", dict.fromkeys(part, 0.4))]
        for part in (names[:9], names)
    )
    run = save(tmp_path / "few", otb(*few))
    for name in ("out.html", "out.md", "out.json"):
        assert main([run, "--out", str(tmp_path / name)]) == 0
        text = (tmp_path / name).read_text()
        assert "9 sequences: this interval says little" in text
        assert "An interval of fewer than 10 sequences is too narrow" in text
    found = json.loads((tmp_path / "out.json").read_text())
    assert found[1]["rows"][1][3]["text"] == "-0.100 to -0.100"
    capsys.readouterr()
    assert main([save(tmp_path / "many", otb(*many))]) == 0
    assert "too narrow" not in capsys.readouterr().out
    assert interval_of(np.zeros(3), ["a", "a", "a"]) is None
    assert Interval(0.0, 0.1, 10).caution == ""


def test_constants_tell_rows_of_one_network_apart() -> None:
    fast = make_tracker("rbsf", {"Dog": 0.4}, key="rbsf-ffff", constants="fast.yaml")
    found = tables(("a/OTB100", otb()), ("b/OTB100", otb(fast)))
    assert [row[0] for row in rows(found["Scores"])] == ["rbsf", "teacher", "rbsf (fast.yaml)"]


def test_passes_of_one_sequence_are_one_draw() -> None:
    gaps = np.tile([0.0, 1.0], 50)
    four_each = bootstrap(gaps.repeat(4), [str(i // 4) for i in range(400)])
    # Repeating each gap does not halve the interval.
    assert four_each == pytest.approx(bootstrap(gaps, [str(i) for i in range(100)]))
    # A draw has only a, only b, or both: then the mean is 3 / 4.
    low, high = bootstrap(np.array([0.0, 1.0, 1.0, 1.0]), ["a", "b", "b", "b"])
    assert (low, high) == (0, 1)
    names = {f"{name}@{first}+9": 0.5 for name in ("Dog", "Girl") for first in (0, 20)}
    trackers = make_tracker("a", names), make_tracker("b", dict.fromkeys(names, 0.25))
    table = tables(("x", otb(*trackers, title="OTB100-every20")))["OTB100, common sequences"]
    assert "over the 4 passes of 2 sequences of OTB100" in table.caption
    assert rows(table)[1] == ["b", "0.250", "-0.250", "-0.250 to -0.250"]


def test_other_weights_under_one_label_are_rows_of_their_own() -> None:
    new = make_tracker("rbsf", {"car": 0.25}, key="rbsf-ffff")
    names = [row[0] for row in rows(tables(("a/OTB100", otb()), ("b/UAV123", uav(new)))["Scores"])]
    assert names == ["rbsf (a)", "teacher", "rbsf (b)"]
    names = [row[0] for row in rows(tables(("a/OTB100", otb()), ("a/UAV123", uav(new)))["Scores"])]
    assert names == ["rbsf (a) rbsf-1a2b", "teacher", "rbsf (a) rbsf-ffff"]


def test_runs_of_one_name_are_told_apart_by_their_paths() -> None:
    names = [row[0] for row in rows(tables(("x/a", otb()), ("y/a", otb()))["Scores"])]
    assert names == ["rbsf (x/a)", "teacher (x/a)", "rbsf (y/a)", "teacher (y/a)"]


def test_program_prints_markdown_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = otb(make_tracker("<script>x</script>", {"Dog": 0.5}), make_tracker("b", {"Dog": 0.25}))
    runs = [save(tmp_path / "a", evil), save(tmp_path / "b", uav()) + "/report.json"]
    assert main([*runs, "--out", str(tmp_path / "new/out.html")]) == 0
    shown = capsys.readouterr().out
    assert "| b | 0.250 | -0.250 | – |" in shown
    page = (tmp_path / "new/out.html").read_text()
    assert "<h2>OTB100, common sequences</h2>" in page
    assert "<script>x" not in page
    assert "http" not in page
    assert main([*runs, "--out", str(tmp_path / "out.md")]) == 0
    assert (tmp_path / "out.md").read_text() == shown


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        (
            otb(make_tracker("rbsf", {"Car": 0.5})),
            "OTB100: the trackers have no sequence in common",
        ),
        (otb() | {"format": "rbsf-benchmark-9"}, "newer format rbsf-benchmark-9"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(
    tmp_path: Path, second: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        main([save(tmp_path / "a", otb()), save(tmp_path / "b", second)])


def test_faults_of_the_command_line_are_named(tmp_path: Path) -> None:
    run = save(tmp_path / "a", otb())
    with pytest.raises(ValueError, match="is given twice"):
        main([run, run + "/report.json"])
    with pytest.raises(ValueError, match=r"out.txt: give a name that ends in .html, .md, .json"):
        main([run, "--out", str(tmp_path / "out.txt")])


def test_a_missing_report_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/compare.py"), str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    said = f"report {tmp_path / 'none'} does not exist; rbsf benchmark writes it"
    assert result.stderr == f"error: {said}\n"


DAMAGES: dict[str, tuple[Any, str]] = {
    "no object": ([], "not a benchmark report"),
    "a number for the trackers": ({"trackers": 3}, "its trackers are no list"),
    "no tracker": ({"trackers": []}, "its trackers are no list, or an empty one"),
    "a tracker that is a word": ({"trackers": ["rbsf"]}, "tracker 1 is no object"),
    "a tracker that is nothing": ({"trackers": [None]}, "tracker 1 is no object"),
    "a list for the data set": ({"dataset": ["OTB100"]}, "its dataset is no name"),
    "no title": ({"title": None}, "its title is no name"),
    "an object for a label": ({"label": {}}, "tracker 1 has a label that is no name"),
    "a number for a key": ({"key": 7}, "tracker 1 has a key that is no name"),
    "a list for a mean": ({"mean": [0.5]}, "tracker 1 has a mean"),
    "a word for a mean": ({"mean": "good"}, "tracker 1 has a mean"),
    "a word in a mean": ({"mean": {"auc": "0.5"}}, "tracker 1 has a mean"),
    "a list in a mean": ({"mean": {"ao": [1]}}, "tracker 1 has a mean"),
    "a mean above 1": ({"mean": {"auc": 50}}, "tracker 1 has a mean"),
    "a list for the sequences": ({"sequences": ["Dog"]}, "tracker 1 has sequences that are no"),
    "nothing for the sequences": ({"sequences": None}, "tracker 1 has sequences that are no"),
    "a number for a sequence": ({"sequences": {"Dog": 0.5}}, "tracker 1 has a sequence 'Dog'"),
    "a sequence without an AUC": ({"sequences": {"Dog": {}}}, "tracker 1 has a sequence 'Dog'"),
    "a word for an AUC": ({"sequences": {"Dog": {"auc": "a"}}}, "tracker 1 has a sequence 'Dog'"),
    "truth for an AUC": ({"sequences": {"Dog": {"auc": True}}}, "tracker 1 has a sequence 'Dog'"),
    "no AUC": ({"sequences": {"Dog": {"auc": None}}}, "tracker 1 has a sequence 'Dog'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    changes, message = DAMAGES[damage]
    report: Any = changes
    if isinstance(changes, dict):
        tracker = make_tracker("rbsf", {"Dog": 0.5})
        within = {key: value for key, value in changes.items() if key in tracker}
        report = otb(tracker | within) | {k: v for k, v in changes.items() if k not in within}
    (tmp_path / "report.json").write_text(json.dumps(report))
    said = refused(lambda: main([str(tmp_path)]), tmp_path / "report.json")
    assert message in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"format": NaN}', "it has NaN, which is no number"),
        (b'{"format": "\xff"}', "line 1: not UTF-8 text"),
        ('{"format": "ü"}'.encode("utf-16"), "it looks like UTF-16"),
        (b"", "is not JSON"),
    ],
)
def test_what_is_no_json_is_named_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "report.json").write_bytes(data)
    assert message in refused(lambda: main([str(tmp_path)]), tmp_path / "report.json")


def test_a_byte_order_mark_before_a_report_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(otb(make_tracker("rbsf", {"Dog": 0.5})))
    (tmp_path / "report.json").write_text(text, encoding="utf-8-sig")
    assert main([str(tmp_path)]) == 0
    assert "| rbsf | 0.500 |" in capsys.readouterr().out.replace("**", "")


def test_no_report_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("{}")
    for run in (path, tmp_path):
        with pytest.raises(ValueError, match=r"--out .*report\.json is the input itself"):
            main([str(run), "--out", str(path)])
    assert path.read_text() == "{}"
