"""Write and read a benchmark report: report.json, which is the report, and report.md and
report.html for readers.

A report is a plain dict as ``rbsf.eval.summary.summarise`` makes it; all scores are shares from 0
to 1, None where there is none.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbsf.eval.plots import PLOTS, plot_curves, tracker_color
from rbsf.eval.report_tables import (
    attribute_table,
    environment_table,
    find_tracker,
    labels,
    main_table,
    paper_table,
    sequence_table,
)
from rbsf.eval.tables import Table, markdown_text
from rbsf.system.files import write_atomically
from rbsf.system.text import read_text

if TYPE_CHECKING:
    from rbsf.eval.strips import Strip

FORMAT = "rbsf-benchmark-1"
FIELDS = (
    "dataset",
    "title",
    "protocol",
    "frames",
    "missing",
    "unreadable",
    "thresholds",
    "environment",
    "subject",
)
FIELDS += ("reference", "trackers", "attributes", "paper")
TRACKER_FIELDS = ("label", "key", "mean", "sequences", "failed")


def write_report(report: dict[str, Any], folder: Path, strips: list[Strip]) -> None:
    """Write the three files into ``folder``; each is whole or not there.

    Raises ValueError for a score that is not a number (NaN), OSError where a file cannot be
    written.
    """
    texts = {
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report, strips),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())


def load_report(path: str | Path) -> dict[str, Any]:
    """Read a report from report.json or the folder that holds it.

    Raises FileNotFoundError where there is none, ValueError where it is no report or one of a newer
    program.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"report {path} does not exist; eval/run_benchmarks.py writes it")
    try:
        report = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); give a report.json of eval/run_benchmarks.py"
        ) from error
    _check_format(report, path)
    return report


def _check_format(report: Any, path: Path) -> None:
    form = report.get("format") if isinstance(report, dict) else None
    if form != FORMAT:
        found = re.fullmatch(r"rbsf-benchmark-(\d+)", str(form))
        if found and int(found[1]) > int(FORMAT.rpartition("-")[2]):
            raise ValueError(
                f"{path} has the newer format {form}, this program reads {FORMAT}; update the program"
            )
        raise ValueError(
            f"{path} is not a benchmark report: its format is {form!r}, expected {FORMAT!r}"
        )
    missing = [field for field in FIELDS if field not in report]
    missing = missing or [
        f"tracker's {f}" for t in report["trackers"] for f in TRACKER_FIELDS if f not in t
    ]
    if missing:
        raise ValueError(
            f"{path} is damaged: it has no {', '.join(missing)}; run eval/run_benchmarks.py again"
        )


def summary(report: dict[str, Any]) -> str:
    """One sentence: the subject's AUC, and how much of the reference's that is."""
    subject, reference = (find_tracker(report, report[role]) for role in ("subject", "reference"))
    count = f"{report['frames']:,} frames"
    if not subject or not subject["mean"]:
        return f"{report['subject']}: nothing could be scored; {count}."
    auc = subject["mean"]["auc"]
    text = f"{report['subject']}: AUC {auc:.3f} over {len(subject['sequences'])} sequences, {count}"
    if reference and reference["mean"] and reference["mean"]["auc"]:
        other = reference["mean"]["auc"]
        text += f"; {auc / other:.1%} of the {other:.3f} of its reference, {report['reference']}"
    return text + "."


def problems(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What is not in the scores: (heading, a line each), without empty lists."""
    failed = [
        f"{t['label']}: {name}: {why}"
        for t in report["trackers"]
        for name, why in t["failed"].items()
    ]
    missing = [", ".join(report["missing"])] if report["missing"] else []
    parts = (
        (f"Missing ({len(report['missing'])}): of the published set, not in the folder", missing),
        (
            "Unreadable: not scored for any tracker",
            [f"{name}: {why}" for name, why in report["unreadable"].items()],
        ),
        ("Failed: not scored for that tracker", failed),
    )
    return [(heading, lines) for heading, lines in parts if lines]


def _sections(report: dict[str, Any]) -> dict[str, Table | None]:
    return {
        "Scores": main_table(report),
        "Beside the paper": paper_table(report),
        "By attribute": attribute_table(report),
        "By sequence": sequence_table(report),
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report without pictures."""
    parts = [
        f"# {markdown_text(report['title'])}",
        markdown_text(summary(report)),
        markdown_text(report["protocol"]),
    ]
    for heading, table in _sections(report).items():
        if table:
            parts += [f"## {heading}", markdown_text(table.caption), str(table)]
    parts += ["## Not scored"] if problems(report) else []
    for heading, lines in problems(report):
        parts += [
            f"**{markdown_text(heading)}**",
            "\n".join(f"- {markdown_text(line)}" for line in lines),
        ]
    command = " ".join(str(report["environment"].get("command", "")).split())
    parts += ["## Environment", f"    {command}", str(environment_table(report))]
    return "\n\n".join(parts) + "\n"


def to_html(report: dict[str, Any], strips: list[Strip]) -> str:
    """The report as one page that needs nothing else."""
    return render_page(
        "report.html.j2",
        report=report,
        summary=summary(report),
        sections=_sections(report),
        plots=[svg for name in PLOTS if (svg := plot_curves(report, name))],
        legend=[(label, tracker_color(index)) for index, label in enumerate(labels(report))],
        strips=strips,
        problems=problems(report),
        environment=environment_table(report),
    )


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this folder; all texts are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["breakable"] = lambda text: Markup("<wbr>").join(
        re.split(r"(?<=[-_])", text)
    )
    environment.filters["data_url"] = lambda jpeg: (
        "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    )
    return environment.get_template(template).render(**values) + "\n"
