"""Put benchmark reports side by side: trackers as rows, data sets as columns.

    python tools/compare.py runs/a/reports/OTB100 runs/b/reports/OTB100 --out compare.html

Trackers on the same data set are compared on the sequences that all of them have: mean AUC, and the
difference to the first with a 95 % interval by a paired bootstrap over sequences, each with all its
passes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import check_writable, require, run

if TYPE_CHECKING:
    import numpy as np

    from rbsf.eval.tables import Cell, Table

SHOWN = ("auc", "precision", "ao", "sr50")
RESAMPLES, SEED = 10_000, 0


@dataclass(frozen=True)
class Entry:
    """A tracker of one report, under the name of its row."""

    name: str
    report: dict[str, Any]
    tracker: dict[str, Any]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="report.json, or the folder that holds it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=".html or .md (default: Markdown on the screen)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Read the reports, print the tables as Markdown, write them to --out."""
    args = parse_args(argv)
    require("eval")
    if args.out:
        if args.out.suffix not in (".html", ".md"):
            raise ValueError(f"--out {args.out}: give a name that ends in .html or .md")
        check_writable(args.out)
    from rbsf.eval.report import load_report, render_page
    from rbsf.system.files import write_atomically

    tables = compare(name_entries(args.runs, [load_report(path) for path in args.runs]))
    text = to_markdown(tables)
    print(text, end="")
    if args.out:
        page = render_page("compare.html.j2", tables=tables) if args.out.suffix == ".html" else text
        write_atomically(args.out, page.encode())
    return 0


def name_entries(paths: list[str], reports: list[dict[str, Any]]) -> list[Entry]:
    """Name every tracker by its label, with its run where one label stands for several.

    One label is one row where its key is the same everywhere and no data set has it twice.
    """
    pairs = [(report, tracker) for report in reports for tracker in report["trackers"]]
    runs = [
        name
        for name, report in zip(run_names(paths, reports), reports, strict=True)
        for _ in report["trackers"]
    ]
    names = []
    for run_name, (_, tracker) in zip(runs, pairs, strict=True):
        same = [(r, t) for r, t in pairs if t["label"] == tracker["label"]]
        one = len({t["key"] for _, t in same}) == 1 and len({r["dataset"] for r, _ in same}) == len(
            same
        )
        names.append(tracker["label"] if one else f"{tracker['label']} ({run_name})")
    keys = {(name, tracker["key"]) for name, (_, tracker) in zip(names, pairs, strict=True)}
    shared = Counter(name for name, _ in keys)  # other weights on another data set of the same run
    return [
        Entry(f"{name} {tracker['key']}" if shared[name] > 1 else name, report, tracker)
        for name, (report, tracker) in zip(names, pairs, strict=True)
    ]


def run_names(paths: list[str], reports: list[dict[str, Any]]) -> list[str]:
    """Short names of runs, such as tell apart those of one data set, else the paths.

    Raises ValueError where a report is given twice.
    """
    twice = [path for path, count in Counter(map(_file, paths)).items() if count > 1]
    if twice:
        raise ValueError(f"report {twice[0]} is given twice; give each once")
    names = [
        _short(_file(path).parent, report["dataset"])
        for path, report in zip(paths, reports, strict=True)
    ]
    taken = Counter((name, report["dataset"]) for name, report in zip(names, reports, strict=True))
    return names if max(taken.values()) == 1 else list(paths)


def _file(path: str) -> Path:
    return Path(path).resolve() if path.endswith(".json") else Path(path).resolve() / "report.json"


def _short(folder: Path, dataset: str) -> str:
    """The last folder's name that is not the data set's, nor ``reports``."""
    return [part for part in folder.parts if part not in (dataset, "reports")][-1]


def compare(entries: list[Entry]) -> list[tuple[str, Table]]:
    """All tables, each with its heading. Raises ValueError where trackers on a data set have no
    sequence in common.
    """
    datasets: dict[str, list[Entry]] = {}
    for entry in entries:
        datasets.setdefault(entry.report["dataset"], []).append(entry)
    tables = [("Scores", overview(entries))]
    for dataset, group in datasets.items():
        scored = [entry for entry in group if entry.tracker["sequences"]]
        if len(scored) > 1:
            tables.append((f"{dataset}, common sequences", common_table(dataset, scored)))
    return tables


def overview(entries: list[Entry]) -> Table:
    """Mean scores as the reports have them: a row a tracker, a group of columns a data set with its
    split.
    """
    from rbsf.eval.report_tables import MEASURES
    from rbsf.eval.tables import Cell, Table, mark_best_rows

    titles = list(dict.fromkeys(entry.report["title"] for entry in entries))
    trackers = {(entry.name, entry.report["title"]): entry.tracker for entry in entries}
    most = {
        title: max(len(t["sequences"]) for (_, its), t in trackers.items() if its == title)
        for title in titles
    }
    rows = [
        [
            Cell(name),
            *(
                cell
                for title in titles
                for cell in _means(trackers.get((name, title)), most[title])
            ),
        ]
        for name in dict.fromkeys(entry.name for entry in entries)
    ]
    width = 1 + len(titles) * len(SHOWN)
    return Table(
        "Means as each report has them, over the sequences that it names; the best of each column in bold,"
        " but for means over fewer sequences than others.",
        ["tracker", *[MEASURES[key] for key in SHOWN] * len(titles)],
        mark_best_rows(rows, range(1, width)),
        (("", 1), *((title, len(SHOWN)) for title in titles)),
    )


def _means(tracker: dict[str, Any] | None, most: int) -> list[Cell]:
    """A tracker's mean scores, the first of them saying where they are over less than ``most``
    sequences.
    """
    from rbsf.eval.tables import number

    count = len(tracker["sequences"]) if tracker else 0
    means = (tracker and tracker["mean"]) or {}
    first, *others = (number(means.get(key), partial=count < most) for key in SHOWN)
    return [
        replace(first, tags=(f"{count} of {most} sequences",)) if first.partial else first,
        *others,
    ]


def common_table(dataset: str, entries: list[Entry]) -> Table:
    """Mean AUC over the sequences that all ``entries`` have scores of, and the difference to the
    first entry.
    """
    import numpy as np

    from rbsf.datasets.video.sequences import whole_name
    from rbsf.eval.tables import NOTHING, Cell, Table, mark_best_rows, number

    names = sorted(set.intersection(*(set(entry.tracker["sequences"]) for entry in entries)))
    if not names:
        raise ValueError(
            f"{dataset}: the trackers have no sequence in common; give reports of the same sequences"
        )
    wholes = [whole_name(name) for name in names]
    scores = np.array(
        [[entry.tracker["sequences"][name]["auc"] for name in names] for entry in entries]
    )
    rows = [
        [
            Cell(entry.name),
            number(float(row.mean())),
            *(_gap_cells(row - scores[0], wholes) if i else [Cell(NOTHING)] * 2),
        ]
        for i, (entry, row) in enumerate(zip(entries, scores, strict=True))
    ]
    first, count = entries[0].name, len(set(wholes))
    scored = (
        f"{count} sequences" if count == len(names) else f"{len(names)} passes of {count} sequences"
    )
    return Table(
        f"Mean AUC over the {scored} of {dataset} that all {len(entries)} trackers have, and the"
        f" difference to {first}: 95 % interval of a paired bootstrap over sequences ({RESAMPLES:,} resamples).",
        ["tracker", "AUC", f"minus {first}", "95 % interval"],
        mark_best_rows(rows, [1]),
    )


def _gap_cells(gaps: np.ndarray, sequences: list[str]) -> list[Any]:
    from rbsf.eval.tables import NOTHING, Cell, number

    if len(set(sequences)) < 2:
        return [number(float(gaps.mean()), "+.3f"), Cell(NOTHING)]
    low, high = bootstrap_interval(gaps, sequences)
    return [number(float(gaps.mean()), "+.3f"), Cell(f"{low:+.3f} to {high:+.3f}", low)]


def bootstrap_interval(gaps: np.ndarray, sequences: list[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``gaps`` (P,), a difference per pass; equal input,
    equal output.

    Passes of one of ``sequences`` (P names) are no draws of their own: they come and go together.
    """
    import numpy as np

    _, which = np.unique(sequences, return_inverse=True)
    sums, counts = np.bincount(which, gaps), np.bincount(which)
    draws = np.random.default_rng(SEED).integers(0, len(counts), (RESAMPLES, len(counts)))
    low, high = np.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def to_markdown(tables: list[tuple[str, Table]]) -> str:
    """Lay the tables out under their headings."""
    from rbsf.eval.tables import markdown_text

    parts = [
        f"## {markdown_text(heading)}\n\n{markdown_text(table.caption)}\n\n{table}\n"
        for heading, table in tables
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    run(main)
