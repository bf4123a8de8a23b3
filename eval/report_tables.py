"""The tables of a benchmark report, from its dict (see ``rbsf.eval.report``)."""

from __future__ import annotations

import re
from typing import Any

from rbsf.eval.plots import tracker_color
from rbsf.eval.tables import NOTHING, Cell, Table, mark_best, mark_best_rows, number

MEASURES = {
    "auc": "AUC",
    "precision": "precision",
    "norm_precision": "norm. precision",
    "ao": "AO",
    "sr50": "SR0.5",
    "sr75": "SR0.75",
}
PAPER_MEASURES = {"success": "auc"}  # where the paper's name of a measure is not ours
TEACHER = "SiamFC"  # the paper's name of the float network that RB-SF learns from


def find_tracker(report: dict[str, Any], label: str | None) -> dict[str, Any] | None:
    """The tracker of that label, if the report has one."""
    return next((tracker for tracker in report["trackers"] if tracker["label"] == label), None)


def labels(report: dict[str, Any]) -> list[str]:
    """Labels of the trackers, in the order of their colours."""
    return [tracker["label"] for tracker in report["trackers"]]


def main_table(report: dict[str, Any]) -> Table:
    """Mean scores of every tracker, a row each."""
    rows = [_main_row(report, index) for index in range(len(report["trackers"]))]
    runs = max((tracker["runs"] for tracker in report["trackers"]), default=1)
    caption = f"Means over the sequences of {report['title']}; the best of each score in bold"
    partial = any(_part(report, tracker) for tracker in report["trackers"])
    caption += ", but for means over fewer sequences than others." if partial else "."
    caption += " After ±: standard deviation over runs." if runs > 1 else ""
    caption += " fps: frames per second in the tracker, decoding left out."
    columns = ["tracker", *MEASURES.values(), "fps", "file"]
    return Table(caption, columns, mark_best_rows(rows, range(1, 1 + len(MEASURES))))


def _main_row(report: dict[str, Any], index: int) -> list[Cell]:
    tracker = report["trackers"][index]
    roles = tuple(role for role in ("subject", "reference") if report[role] == tracker["label"])
    facts = (
        tracker["precision"],
        f"{tracker['runs']} runs" if tracker["runs"] > 1 else None,
        _part(report, tracker),
    )
    head = Cell(
        tracker["label"], tags=roles + tuple(filter(None, facts)), color=tracker_color(index)
    )
    mean, spread = tracker["mean"] or {}, tracker["spread"] or {}
    partial = _part(report, tracker) is not None
    scores = [number(mean.get(key), spread=spread.get(key), partial=partial) for key in MEASURES]
    return [head, *scores, _speed(tracker["fps"]), _size(tracker["bytes"])]


def _part(report: dict[str, Any], tracker: dict[str, Any]) -> str | None:
    """Says of a tracker without scores on some sequences how many its means are over."""
    count = len(tracker["sequences"])
    most = len({name for row in report["trackers"] for name in (*row["sequences"], *row["failed"])})
    return f"{count} of {most} sequences" if count < most else None


def _speed(fps: float | None) -> Cell:
    return number(fps, ".1f" if fps is None or fps < 100 else ",.0f")


def _size(size: int | None) -> Cell:
    if size is None:
        return Cell(NOTHING)
    return Cell(f"{size / 1e6:.2f} MB" if size >= 1e4 else f"{size} B", size)


def paper_table(report: dict[str, Any]) -> Table | None:
    """The paper's scores and ours, in columns apart; None where the paper has none on this data
    set.
    """
    paper = report["paper"]
    if not paper:
        return None
    measures = list(dict.fromkeys(key for scores in paper["scores"].values() for key in scores))
    ours = {
        name: [t for t in report["trackers"] if _is_paper(report, t, name)]
        for name in paper["scores"]
    }
    rows = [
        [Cell(name), *(number(scores.get(key)) for key in measures), *_our_cells(tracker, measures)]
        for name, scores in paper["scores"].items()
        for tracker in ours[name] or [None]
    ]
    heads = [MEASURES[PAPER_MEASURES.get(key, key)] for key in measures]
    groups = (
        ("", 1),
        (f"paper: all of {paper['dataset']}", len(heads)),
        (f"here: {report['title']}", 1 + len(heads)),
    )
    caption = (
        f"{paper['source']}. The paper's figures are of other training data and of the whole of {paper['dataset']}:"
        " they are for orientation, not for comparison."
    )
    return Table(caption, ["network", *heads, "tracker", *heads], rows, groups)


def _is_paper(report: dict[str, Any], tracker: dict[str, Any], name: str) -> bool:
    """Whether a tracker is the one that the paper calls ``name``: by its label, or as the float
    teacher.
    """
    plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in (tracker["label"], name)]
    return plain[0].startswith(plain[1]) or (
        name == TEACHER and tracker["label"] == report["reference"]
    )


def _our_cells(tracker: dict[str, Any] | None, measures: list[str]) -> list[Cell]:
    mean = (tracker and tracker["mean"]) or {}
    scores = [number(mean.get(PAPER_MEASURES.get(key, key))) for key in measures]
    return [Cell(tracker["label"] if tracker else NOTHING), *scores]


def attribute_table(report: dict[str, Any]) -> Table | None:
    """AUC of every tracker over the sequences of each attribute; None where there are no
    attributes.
    """
    found = {name for tracker in report["trackers"] for name in tracker["attributes"]}
    names = [name for name in report["attributes"] if name in found]
    names += sorted(found - set(names))
    rows = [_attribute_row(report, name) for name in names]
    caption = (
        f"Mean AUC over the sequences of {report['title']} with each attribute; the best in bold."
    )
    return Table(caption, ["attribute", "sequences", *labels(report)], rows) if rows else None


def _attribute_row(report: dict[str, Any], name: str) -> list[Cell]:
    scores = [tracker["attributes"].get(name, {}) for tracker in report["trackers"]]
    count = max(score.get("sequences", 0) for score in scores)
    head = Cell(name, detail=report["attributes"].get(name, ""))
    cells = [
        number(score.get("auc"), partial=score.get("sequences", 0) < count) for score in scores
    ]
    return [head, number(count, "d"), *mark_best(cells)]


def sequence_table(report: dict[str, Any]) -> Table:
    """AUC of every tracker on each sequence, and subject minus reference; where the subject loses
    most comes first.

    Without a reference the subject's worst sequences come first.
    """
    names = dict.fromkeys(
        n for t in report["trackers"] for part in ("sequences", "failed") for n in t[part]
    )
    rows = [_sequence_row(report, name) for name in names]
    columns = ["sequence", "frames", *labels(report)]
    caption = f"AUC on each sequence of {report['title']}; the best in bold."
    if find_tracker(report, report["reference"]):
        columns.append("gap")
        caption += f" gap: {report['subject']} minus {report['reference']}."
        sort = len(columns) - 1
    else:
        sort = columns.index(report["subject"], 2)
    rows.sort(key=lambda row: (row[sort].value is None, row[sort].value or 0.0, row[0].text))
    return Table(caption, columns, rows, sort=sort)


def _sequence_row(report: dict[str, Any], name: str) -> list[Cell]:
    scores = [tracker["sequences"].get(name, {}) for tracker in report["trackers"]]
    cells = [
        Cell("failed") if name in tracker["failed"] else number(score.get("auc"))
        for tracker, score in zip(report["trackers"], scores, strict=True)
    ]
    frames = next((score["frames"] for score in scores if score), None)
    row = [Cell(name), number(frames, "d"), *mark_best(cells)]
    if find_tracker(report, report["reference"]):
        row.append(number(sequence_gap(report, name), "+.3f"))
    return row


def sequence_gap(report: dict[str, Any], name: str) -> float | None:
    """AUC of the subject minus that of the reference on a sequence; None where either has no score."""
    subject, reference = (
        (find_tracker(report, report[role]) or {}).get("sequences", {}).get(name)
        for role in ("subject", "reference")
    )
    if not subject or not reference:
        return None
    return round(subject["auc"] - reference["auc"], 9) + 0.0  # + 0.0: no minus before zero


def environment_table(report: dict[str, Any]) -> Table:
    """What the run ran on; its command, which is long, stands apart."""
    rows = [
        [Cell(key), Cell(str(value))]
        for key, value in report["environment"].items()
        if key != "command"
    ]
    return Table("What the scores were made with.", ["item", "value"], rows)
