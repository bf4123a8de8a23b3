"""Writes and reads a benchmark report: report.json, and report.md and report.html for readers.

`rbsf.eval.summary.summarise` makes a report's contents; `rbsf.eval.report_form` describes them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbsf.eval.plots import PLOTS, plot_curves, tracker_color
from rbsf.eval.report_form import Report
from rbsf.eval.report_tables import (
    attribute_table,
    environment_table,
    find_tracker,
    main_table,
    paper_table,
    sequence_table,
    shown_name,
    shown_names,
)
from rbsf.eval.tables import Table, markdown_text
from rbsf.system.files import write_atomically
from rbsf.system.text import encode, one_line, read_text

if TYPE_CHECKING:
    from rbsf.eval.strips import Strip

FORMAT = "rbsf-benchmark-1"
TRACKER_FIELDS = ("label", "key", "mean", "sequences", "failed")  # those that are checked


def write_report(report: Report, folder: Path, strips: list[Strip]) -> None:
    """Write the three files into `folder`, each completely or not at all.

    Raises ValueError for a score that is not a number (NaN), and OSError if a file cannot be
    written.
    """
    texts = {
        "report.json": to_json(report),
        "report.md": to_markdown(report),
        "report.html": to_html(report, strips),
    }
    for name, text in texts.items():
        write_atomically(folder / name, encode(text))


def to_json(report: Report) -> str:
    """The text of report.json. Raises ValueError for a score that is not a number (NaN)."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def load_report(path: str | Path) -> Report:
    """Read a report from report.json or the folder that holds it.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not a report or comes
    from a newer program.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"report {path} does not exist; rbsf benchmark writes it")
    try:
        report = json.loads(read_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); give a report.json of rbsf benchmark"
        ) from error
    _check_format(report, path)
    return report


def _check_format(report: Any, path: Path) -> None:
    """Raise ValueError if a file holds no report, a newer one or a damaged one."""
    form = report.get("format") if isinstance(report, dict) else None
    if form != FORMAT:
        if _is_newer(str(form)):
            raise ValueError(
                f"{path} has the newer format {form}, this program reads {FORMAT};"
                " update the program"
            )
        raise ValueError(
            f"{path} is not a benchmark report: its format is {form!r}, expected {FORMAT!r}"
        )
    try:
        _check_parts(report)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; run rbsf benchmark again") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which is no number")


def _is_newer(form: str) -> bool:
    """Whether a format is this program's with a higher number."""
    name, _, number = FORMAT.rpartition("-")
    found = re.fullmatch(rf"{name}-(\d+)", form)
    return found is not None and int(found[1]) > int(number)


def _check_parts(report: Report) -> None:
    """Raise ValueError, which says in words what is wrong, for the first part that is wrong."""
    _check_fields(report, Report.__annotations__, "")
    for field in ("dataset", "title"):
        _require(_is_name(report[field]), f"its {field} is no name")
    trackers = report["trackers"]
    is_list = isinstance(trackers, list) and bool(trackers)
    _require(is_list, "its trackers are no list, or an empty one")
    for number, tracker in enumerate(trackers, 1):
        _check_tracker(tracker, f"tracker {number}")


def _check_tracker(tracker: Any, name: str) -> None:
    _require(isinstance(tracker, dict), f"{name} is no object with names")
    _check_fields(tracker, TRACKER_FIELDS, "tracker's ")
    for field in ("label", "key"):
        _require(_is_name(tracker[field]), f"{name} has a {field} that is no name")
    shares = _are_scores(tracker["mean"] or {})
    _require(shares, f"{name} has a mean that is not made of shares from 0 to 1")
    sequences = tracker["sequences"]
    _require(isinstance(sequences, dict), f"{name} has sequences that are no object with names")
    for sequence, scores in sequences.items():
        good = isinstance(scores, dict) and _is_share(scores.get("auc"))
        _require(good, f"{name} has a sequence {sequence!r} whose auc is no share from 0 to 1")


def _check_fields(part: Any, fields: Iterable[str], owner: str) -> None:
    missing = [f"{owner}{field}" for field in fields if field not in part]
    _require(not missing, f"it has no {', '.join(missing)}")


def _require(good: bool, fault: str) -> None:
    if not good:
        raise ValueError(fault)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _are_scores(mean: Any) -> bool:
    return isinstance(mean, dict) and all(
        value is None or _is_share(value) for value in mean.values()
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def summary(report: Report) -> str:
    """One sentence: the subject's AUC, and what share of the reference's AUC that is."""
    name = report["subject"]
    count = f"{report['frames']:,} frames"
    subject = find_tracker(report, name)
    if not subject or not subject["mean"]:
        return f"{name}: nothing could be scored; {count}."
    auc = subject["mean"]["auc"]
    text = (
        f"{shown_name(subject)}: AUC {auc:.3f} over {len(subject['sequences'])} sequences, {count}"
    )
    reference = find_tracker(report, report["reference"])
    if reference and reference["mean"] and reference["mean"]["auc"]:
        other = reference["mean"]["auc"]
        text += f"; {auc / other:.1%} of the {other:.3f} of its reference, {shown_name(reference)}"
    return text + "."


def problems(report: Report) -> list[tuple[str, list[str]]]:
    """What the scores do not include: headings, each with its lines."""
    found = []
    if missing := report["missing"]:
        heading = f"Missing ({len(missing)}): of the published set, not in the folder"
        found.append((heading, [", ".join(missing)]))
    if unreadable := unreadable_lines(report):
        found.append(("Unreadable: not scored for any tracker", unreadable))
    if failed := failed_lines(report):
        found.append(("Failed: not scored for that tracker", failed))
    return found


def failures(report: Report) -> list[str]:
    """Everything that went wrong, one line for each fault."""
    return [*unreadable_lines(report), *failed_lines(report)]


def unreadable_lines(report: Report) -> list[str]:
    """A line for each sequence that could not be read."""
    return [f"{name}: {why}" for name, why in report["unreadable"].items()]


def failed_lines(report: Report) -> list[str]:
    """A line for each tracker and sequence on which it failed."""
    lines = []
    for tracker in report["trackers"]:
        lines += [f"{tracker['label']}: {name}: {why}" for name, why in tracker["failed"].items()]
    return lines


def _sections(report: Report) -> dict[str, Table]:
    """The tables of the report, by their headings."""
    tables = {
        "Scores": main_table(report),
        "Beside the paper": paper_table(report),
        "By attribute": attribute_table(report),
        "By sequence": sequence_table(report),
    }
    return {heading: table for heading, table in tables.items() if table}


def to_markdown(report: Report) -> str:
    """The report without pictures."""
    parts = [
        f"# {markdown_text(report['title'])}",
        markdown_text(summary(report)),
        markdown_text(report["protocol"]),
    ]
    for heading, table in _sections(report).items():
        parts += [f"## {heading}", markdown_text(table.caption), str(table)]
    not_scored = problems(report)
    if not_scored:
        parts.append("## Not scored")
    for heading, lines in not_scored:
        items = [f"- {markdown_text(line)}" for line in lines]
        parts += [f"**{markdown_text(heading)}**", "\n".join(items)]
    command = one_line(report["environment"].get("command", ""))
    parts += ["## Environment", f"    {command}", str(environment_table(report))]
    return "\n\n".join(parts) + "\n"


def to_html(report: Report, strips: list[Strip]) -> str:
    """The report as one page that needs no other file."""
    plots = [plot_curves(report, name) for name in PLOTS]
    legend = [(label, tracker_color(index)) for index, label in enumerate(shown_names(report))]
    return render_page(
        "report.html.j2",
        report=report,
        summary=summary(report),
        sections=_sections(report),
        plots=[svg for svg in plots if svg],
        legend=legend,
        strips=strips,
        problems=problems(report),
        environment=environment_table(report),
    )


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this folder; all texts are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["data_url"] = _data_url
    return environment.get_template(template).render(**values) + "\n"


def _breakable(text: str) -> Any:
    """A text that a page may break behind each - and _."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[-_])", text))


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
