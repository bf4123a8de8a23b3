"""The tables of a benchmark report, from its contents (see `rbsf.eval.report_form`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from rbsf.eval.plots import tracker_color
from rbsf.eval.report_form import ROLES, Report, Role, TrackerRow
from rbsf.eval.tables import NOTHING, Cell, Table, mark_best, mark_best_rows, number

MEASURES = {
    "auc": "AUC",
    "precision": "precision",
    "norm_precision": "norm. precision",
    "ao": "AO",
    "sr50": "SR0.5",
    "sr75": "SR0.75",
}
PAPER_MEASURES = {"success": "auc"}  # measures with another name in the paper: {its name: ours}
TEACHER = "SiamFC"  # the paper's name for the float network that RB-SF learns from


def find_tracker(report: Report, label: str | None) -> TrackerRow | None:
    """The tracker of that label; None if the report has none."""
    return next((tracker for tracker in report["trackers"] if tracker["label"] == label), None)


def with_constants(label: str, constants: str) -> str:
    """A tracker's label, with the name of constants that replace its own: `rbsf (fast.yaml)`.

    This distinguishes two rows of the same weights.
    """
    return f"{label} ({constants})" if constants else label


def shown_name(tracker: TrackerRow) -> str:
    """The name of a tracker in tables."""
    return with_constants(tracker["label"], tracker.get("constants", ""))  # old reports have none


def shown_names(report: Report) -> list[str]:
    """The names of the trackers in tables, in the order of `labels`."""
    return [shown_name(tracker) for tracker in report["trackers"]]


def labels(report: Report) -> list[str]:
    """Labels of the trackers, in the order of their colours."""
    return [tracker["label"] for tracker in report["trackers"]]


def main_table(report: Report) -> Table:
    """Mean scores of every tracker, a row each."""
    trackers = report["trackers"]
    rows = [_main_row(report, index) for index in range(len(trackers))]
    rows = mark_best_rows(rows, range(1, 1 + len(MEASURES)))
    partial = any(_part(report, tracker) for tracker in trackers)
    several = any(tracker["runs"] > 1 for tracker in trackers)
    caption = f"Means over the sequences of {report['title']}; the best of each score in bold"
    caption += ", but for means over fewer sequences than others." if partial else "."
    caption += " After ±: standard deviation over runs." if several else ""
    caption += " AO: mean overlap. SR0.5, SR0.75: shares of frames whose overlap is greater."
    caption += " subject: the tracker that the report is about."
    caption += " fps: frames per second in the tracker, decoding left out."
    return Table(caption, ["tracker", *MEASURES.values(), "fps", "file"], rows)


def _main_row(report: Report, index: int) -> list[Cell]:
    tracker = report["trackers"][index]
    tags = tuple(_tags(report, tracker))
    head = Cell(shown_name(tracker), tags=tags, color=tracker_color(index))
    mean = tracker["mean"] or {}
    spread = tracker["spread"] or {}
    partial = _part(report, tracker) is not None
    scores = [number(mean.get(key), spread=spread.get(key), partial=partial) for key in MEASURES]
    return [head, *scores, _speed(tracker["fps"]), _size(tracker["bytes"])]


def _tags(report: Report, tracker: TrackerRow) -> list[str]:
    """What the main table says about a tracker besides its label."""
    tags: list[str] = [role for role in ROLES if report[role] == tracker["label"]]
    if tracker["precision"]:
        tags.append(tracker["precision"])
    if tracker["runs"] > 1:
        tags.append(f"{tracker['runs']} runs")
    if part := _part(report, tracker):
        tags.append(part)
    return tags


def _part(report: Report, tracker: TrackerRow) -> str | None:
    """On how many sequences a tracker has scores; None if it has scores on all."""
    count = len(tracker["sequences"])
    tried = {name for row in report["trackers"] for name in (*row["sequences"], *row["failed"])}
    most = len(tried)
    return f"{count} of {most} sequences" if count < most else None


def _speed(fps: float | None) -> Cell:
    return number(fps, ".1f" if fps is None or fps < 100 else ",.0f")


def _size(size: int | None) -> Cell:
    if size is None:
        return Cell(NOTHING)
    return Cell(f"{size / 1e6:.2f} MB" if size >= 1e4 else f"{size} B", size)


def paper_table(report: Report) -> Table | None:
    """The paper's scores beside ours, in separate columns; None if the paper has none."""
    paper = report["paper"]
    if not paper:
        return None
    measures = list(dict.fromkeys(chain.from_iterable(paper["scores"].values())))
    rows = [row for name in paper["scores"] for row in _paper_rows(report, name, measures)]
    heads = [MEASURES[_our_key(key)] for key in measures]
    whole = f"all of {paper['dataset']}"
    groups = (
        ("", 1),
        (f"paper: {whole}", len(heads)),
        (f"here: {report['title']}", 1 + len(heads)),
    )
    caption = (
        f"{paper['source']}. The paper's figures are of other training data and of the whole of"
        f" {paper['dataset']}: they are for orientation, not for comparison."
    )
    return Table(caption, ["network", *heads, "tracker", *heads], rows, groups)


def _paper_rows(report: Report, name: str, measures: list[str]) -> list[list[Cell]]:
    """The paper's scores of its tracker `name` beside ours: a row for each of ours, or one row."""
    assert report["paper"] is not None  # for the type checker
    scores = report["paper"]["scores"][name]
    theirs = [number(scores.get(key)) for key in measures]
    ours = [tracker for tracker in report["trackers"] if _is_paper(report, tracker, name)]
    shown: list[TrackerRow | None] = [*ours] or [None]
    return [[Cell(name), *theirs, *_our_cells(tracker, measures)] for tracker in shown]


def _is_paper(report: Report, tracker: TrackerRow, name: str) -> bool:
    """Whether a tracker is the paper's `name`: by its label, or as the float teacher."""
    if _plain(tracker["label"]).startswith(_plain(name)):
        return True
    return name == TEACHER and tracker["label"] == report["reference"]


def _plain(text: str) -> str:
    """The letters and digits of a text, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _our_key(key: str) -> str:
    """Our name for one of the paper's measures."""
    return PAPER_MEASURES.get(key, key)


def _our_cells(tracker: TrackerRow | None, measures: Iterable[str]) -> list[Cell]:
    label = NOTHING
    mean: dict[str, float] = {}
    if tracker:
        label = shown_name(tracker)
        mean = tracker["mean"] or {}
    return [Cell(label), *(number(mean.get(_our_key(key))) for key in measures)]


def attribute_table(report: Report) -> Table | None:
    """AUC of every tracker over the sequences of each attribute; None without attributes."""
    found = {name for tracker in report["trackers"] for name in tracker["attributes"]}
    if not found:
        return None
    explained = [name for name in report["attributes"] if name in found]
    names = explained + sorted(found - set(explained))
    rows = [_attribute_row(report, name) for name in names]
    caption = (
        f"Mean AUC over the sequences of {report['title']} with each attribute; the best in bold."
    )
    return Table(caption, ["attribute", "sequences", *shown_names(report)], rows)


def _attribute_row(report: Report, name: str) -> list[Cell]:
    scores = [tracker["attributes"].get(name, {}) for tracker in report["trackers"]]
    counts = [score.get("sequences", 0) for score in scores]
    most = max(counts)
    cells = []
    for score, count in zip(scores, counts, strict=True):
        cells.append(number(score.get("auc"), partial=count < most))
    head = Cell(name, detail=report["attributes"].get(name, ""))
    return [head, number(most, "d"), *mark_best(cells)]


def sequence_table(report: Report) -> Table:
    """AUC of every tracker on each sequence, and the gap: subject minus reference.

    The sequences with the lowest gap come first; without a reference, those with the subject's
    lowest AUC.
    """
    names: dict[str, None] = {}  # only keys, in order
    for tracker in report["trackers"]:
        names |= dict.fromkeys([*tracker["sequences"], *tracker["failed"]])
    rows = [_sequence_row(report, name) for name in names]
    columns = ["sequence", "frames", *shown_names(report)]
    caption = f"AUC on each sequence of {report['title']}; the best in bold."
    if find_tracker(report, report["reference"]):
        sort = len(columns)
        columns.append("gap")
        caption += f" gap: {report['subject']} minus {report['reference']}."
    else:
        sort = 2 + labels(report).index(report["subject"])

    def order(row: list[Cell]) -> tuple[bool, float, str]:
        value = row[sort].value
        return value is None, value or 0.0, row[0].text

    return Table(caption, columns, sorted(rows, key=order), sort=sort)


def _sequence_row(report: Report, name: str) -> list[Cell]:
    cells = []
    frames = None
    for tracker in report["trackers"]:
        score = tracker["sequences"].get(name, {})
        frames = frames or score.get("frames")
        failed = name in tracker["failed"]
        cells.append(Cell("failed") if failed else number(score.get("auc")))
    row = [Cell(name), number(frames, "d"), *mark_best(cells)]
    if find_tracker(report, report["reference"]):
        row.append(number(sequence_gap(report, name), "+.3f"))
    return row


def sequence_gap(report: Report, name: str) -> float | None:
    """AUC of the subject minus that of the reference on a sequence; None without both scores."""
    subject = _auc(report, "subject", name)
    reference = _auc(report, "reference", name)
    if subject is None or reference is None:
        return None
    return round(subject - reference, 9) + 0.0  # + 0.0: no minus before zero


def _auc(report: Report, role: Role, name: str) -> float | None:
    """AUC of the tracker in that role on a sequence."""
    tracker = find_tracker(report, report[role])
    if not tracker or name not in tracker["sequences"]:
        return None
    return tracker["sequences"][name]["auc"]


def environment_table(report: Report) -> Table:
    """The run's environment, without its command, which is long and shown separately."""
    facts = {key: value for key, value in report["environment"].items() if key != "command"}
    rows = [[Cell(key), Cell(str(value))] for key, value in facts.items()]
    return Table("What the scores were made with.", ["item", "value"], rows)
