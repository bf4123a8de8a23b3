"""Put benchmark reports side by side: trackers as rows, data sets as columns.

Trackers on the same data set are compared on the sequences that all of them have: mean AUC, and the
difference to the first tracker. Its 95 % interval comes from a paired bootstrap over sequences,
each with all its passes. Intervals of fewer than 10 sequences say little, and the tables say so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import check_not_input, check_writable, require, run

if TYPE_CHECKING:
    from rbsf.eval.report_form import Report, TrackerRow
    from rbsf.eval.tables import Cell, Table

EXAMPLE = "runs/a/reports/OTB100 runs/b/reports/OTB100 --out compare.html"
SHOWN = ("auc", "precision", "ao", "sr50")
ENDINGS = (".html", ".md", ".json")


@dataclass(frozen=True)
class Entry:
    """A tracker of one report, under the name of its row."""

    name: str
    report: Report
    tracker: TrackerRow


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE, takes="RUN ...")
    first.add_argument(
        "runs", nargs="+", metavar="RUN", help="A report.json, or the folder that holds it"
    )
    first.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="Write the tables to this file: .html, .md or .json (default: Markdown on the screen)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Read the reports, print the tables as Markdown, write them to --out."""
    args = parse_args(argv)
    require("eval")
    if args.out:
        if args.out.suffix not in ENDINGS:
            raise ValueError(f"--out {args.out}: give a name that ends in {', '.join(ENDINGS)}")
        for run_ in map(Path, args.runs):
            check_not_input("--out", args.out, run_ / "report.json" if run_.is_dir() else run_)
        check_writable(args.out)
    from rbsf.eval.report import load_report, render_page
    from rbsf.system.files import write_atomically
    from rbsf.system.text import encode

    tables = compare(name_entries(args.runs, [load_report(path) for path in args.runs]))
    text = to_markdown(tables)
    print(text, end="")
    if args.out:
        if args.out.suffix == ".html":
            text = render_page("compare.html.j2", tables=tables)
        if args.out.suffix == ".json":
            text = to_json(tables)
        write_atomically(args.out, encode(text))
    return 0


def name_entries(paths: list[str], reports: list[Report]) -> list[Entry]:
    """Name every tracker by label and constants, and also by its run if several share that name."""
    from rbsf.eval.report_tables import shown_name

    found = [  # each under the name of its run
        Entry(name, report, tracker)
        for name, report in zip(run_names(paths, reports), reports, strict=True)
        for tracker in report["trackers"]
    ]
    by_label: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        by_label[shown_name(entry.tracker)].append(entry)
    named = []
    for entry in found:
        label = shown_name(entry.tracker)
        name = label if _is_one_tracker(by_label[label]) else f"{label} ({entry.name})"
        named.append(replace(entry, name=name))
    return _add_keys(named)


def _is_one_tracker(entries: list[Entry]) -> bool:
    """Whether entries of one label are one row: one key, and no data set twice."""
    keys = {entry.tracker["key"] for entry in entries}
    datasets = {entry.report["dataset"] for entry in entries}
    return len(keys) == 1 and len(datasets) == len(entries)


def _add_keys(entries: list[Entry]) -> list[Entry]:
    """Add the key to a name that entries with different keys share.

    This happens if a run has other weights on another data set.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        keys[entry.name].add(entry.tracker["key"])
    named = []
    for entry in entries:
        several = len(keys[entry.name]) > 1
        name = f"{entry.name} {entry.tracker['key']}" if several else entry.name
        named.append(replace(entry, name=name))
    return named


def run_names(paths: list[str], reports: list[Report]) -> list[str]:
    """Short names of runs; their paths if two runs on one data set have the same short name.

    Raises ValueError if a report is given twice.
    """
    files = [_report_file(path) for path in paths]
    for file in files:
        if files.count(file) > 1:
            raise ValueError(f"report {file} is given twice; give each once")
    datasets = [report["dataset"] for report in reports]
    names = [_short(file.parent, data) for file, data in zip(files, datasets, strict=True)]
    distinct = set(zip(names, datasets, strict=True))
    return names if len(distinct) == len(names) else list(paths)


def _report_file(path: str) -> Path:
    whole = Path(path).resolve()
    return whole if path.endswith(".json") else whole / "report.json"


def _short(folder: Path, dataset: str) -> str:
    """The last part of a path that is neither the data set's name nor `reports`."""
    parts = [part for part in folder.parts if part not in (dataset, "reports")]
    return parts[-1] if parts else str(folder)


def compare(entries: list[Entry]) -> list[tuple[str, Table]]:
    """All tables, each with its heading.

    Raises ValueError if the trackers on a data set have no sequence in common.
    """
    datasets: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        datasets[entry.report["dataset"]].append(entry)
    tables = [("Scores", overview(entries))]
    for dataset, group in datasets.items():
        scored = [entry for entry in group if entry.tracker["sequences"]]
        if len(scored) > 1:
            tables.append((f"{dataset}, common sequences", common_table(dataset, scored)))
    return tables


def overview(entries: list[Entry]) -> Table:
    """Mean scores as the reports have them.

    A row is a tracker, a group of columns a data set with its split.
    """
    from rbsf.eval.report_tables import MEASURES
    from rbsf.eval.tables import Cell, Table, mark_best_rows

    titles = list(dict.fromkeys(entry.report["title"] for entry in entries))
    trackers = {(entry.name, entry.report["title"]): entry.tracker for entry in entries}
    most = dict.fromkeys(titles, 0)  # sequences that a tracker has scores of
    for (_, title), tracker in trackers.items():
        most[title] = max(most[title], len(tracker["sequences"]))
    rows = []
    for name in dict.fromkeys(entry.name for entry in entries):
        row = [Cell(name)]
        for title in titles:
            row += _means(trackers.get((name, title)), most[title])
        rows.append(row)
    width = 1 + len(titles) * len(SHOWN)
    caption = (
        "Means as each report has them, over the sequences that it names; the best of each column"
        " in bold, but for means over fewer sequences than others."
    )
    columns = ["tracker", *[MEASURES[key] for key in SHOWN] * len(titles)]
    groups = (("", 1), *((title, len(SHOWN)) for title in titles))
    return Table(caption, columns, mark_best_rows(rows, range(1, width)), groups)


def _means(tracker: TrackerRow | None, most: int) -> list[Cell]:
    """A tracker's mean scores; the first cell counts its sequences if they are under `most`."""
    from rbsf.eval.tables import number

    count = len(tracker["sequences"]) if tracker else 0
    means = (tracker and tracker["mean"]) or {}
    cells = [number(means.get(key), partial=count < most) for key in SHOWN]
    if cells[0].partial:
        cells[0] = replace(cells[0], tags=(f"{count} of {most} sequences",))
    return cells


def common_table(dataset: str, entries: list[Entry]) -> Table:
    """Mean AUC over the sequences that all `entries` have scores of, and the gap to the first."""
    import numpy as np

    from rbsf.datasets.video.sequences import whole_name
    from rbsf.eval.intervals import CAUTION, RESAMPLES, interval_cell, interval_of
    from rbsf.eval.tables import NOTHING, Cell, Table, mark_best_rows, number

    names = sorted(set.intersection(*(set(entry.tracker["sequences"]) for entry in entries)))
    if not names:
        fault = "the trackers have no sequence in common"
        raise ValueError(f"{dataset}: {fault}; give reports of the same sequences")
    wholes = [whole_name(name) for name in names]
    rows: list[list[Cell]] = []
    caution = ""
    for entry in entries:
        scores = np.array([entry.tracker["sequences"][name]["auc"] for name in names])
        if not rows:
            first, gap_cells = scores, [Cell(NOTHING), Cell(NOTHING)]
        else:
            gaps = scores - first
            interval = interval_of(gaps, wholes)
            gap_cells = [number(float(gaps.mean()), "+.3f"), interval_cell(interval)]
            if interval and interval.caution:
                caution = f" {CAUTION}"
        rows.append([Cell(entry.name), number(float(scores.mean())), *gap_cells])
    count, minus = len(set(wholes)), f"minus {entries[0].name}"
    scored = f"{count} sequences"
    if count < len(names):
        scored = f"{len(names)} passes of {scored}"
    caption = (
        f"Mean AUC over the {scored} of {dataset} that all {len(entries)} trackers have, and the"
        f" difference to {entries[0].name}: 95 % interval of a paired bootstrap over sequences"
        f" ({RESAMPLES:,} resamples).{caution}"
    )
    columns = ["tracker", "AUC", minus, "95 % interval"]
    return Table(caption, columns, mark_best_rows(rows, [1]))


def to_json(tables: list[tuple[str, Table]]) -> str:
    """The tables with all that their cells hold."""
    found = [{"heading": heading, **asdict(table)} for heading, table in tables]
    return json.dumps(found, indent=1) + "\n"


def to_markdown(tables: list[tuple[str, Table]]) -> str:
    """Lay the tables out under their headings."""
    from rbsf.eval.tables import markdown_text

    parts = []
    for heading, table in tables:
        title, caption = markdown_text(heading), markdown_text(table.caption)
        parts.append(f"## {title}\n\n{caption}\n\n{table}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    run(main)
