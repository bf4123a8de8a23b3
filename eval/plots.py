"""Curves of a benchmark report as inline SVG in the page's text colour, and trackers' colours."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any, NamedTuple

from rbsf.eval.report_form import Report
from rbsf.system.text import one_line

# Each has a contrast of at least 3.5 with white and with the background of the dark page.
COLORS = [
    "#2f7fd6",
    "#d1660f",
    "#2f9440",
    "#e0434f",
    "#9468dc",
    "#a87038",
    "#d4509f",
    "#12938f",
    "#8c861a",
    "#7f8894",
]
STYLES = ("-", "--", "-.", ":")
INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: Any = {
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
}
SIZE = (4.4, 3.1)  # width and height in inches, without the legend
LINE = 0.19  # height of a line of the legend in inches

PLOTS = {  # {curve: (title, x label, its score)}
    "success": ("Success", "overlap threshold", "auc"),
    "precision": ("Precision", "centre error threshold (pixels)", "precision"),
    "norm_precision": (
        "Normalised precision",
        "normalised centre error threshold",
        "norm_precision",
    ),
}


def tracker_color(index: int) -> str:
    """Colour of the tracker at that place in a report, as #rrggbb."""
    return COLORS[index % len(COLORS)]


def tracker_style(index: int) -> str:
    """Line style of the tracker; together with the colour it is unique among 20."""
    return STYLES[index % len(STYLES)]


def plot_curves(report: Report, name: str) -> str:
    """SVG element of the curves called `name`, a key of `PLOTS`; empty if no tracker has any.

    The legend is sorted by score. Equal reports give equal text.
    """
    title, label, key = PLOTS[name]
    drawn = _ranked(report, name, key)
    if not drawn:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        height = SIZE[1] + LINE * len(drawn)
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        thresholds = report["thresholds"][name]
        axes = _axes(figure, title, label, thresholds)
        lines, texts = [], []
        for tracker in drawn:
            lines += axes.plot(
                thresholds,
                tracker.curve,
                color=tracker_color(tracker.place),
                linestyle=tracker_style(tracker.place),
                linewidth=2.4 if tracker.label == report["subject"] else 1.4,
            )
            texts.append(f"{tracker.score:.3f}  {tracker.label}")
        _legend(figure, lines, texts)
        entries = map(one_line, texts)
        return _to_svg(figure, name, f"{title} plot. {'; '.join(entries)}")


class _Drawn(NamedTuple):
    """A tracker in a plot."""

    place: int  # in the report, from 0
    label: str
    score: float
    curve: list[float]


def _ranked(report: Report, name: str, key: str) -> list[_Drawn]:
    """The trackers that have the curve `name`, the highest score `key` first."""
    drawn = []
    for place, tracker in enumerate(report["trackers"]):
        if tracker["mean"] and tracker["curves"]:
            score, curve = tracker["mean"][key], tracker["curves"][name]
            drawn.append(_Drawn(place, tracker["label"], score, curve))
    return sorted(drawn, key=lambda tracker: -tracker.score)


def _legend(figure: Any, lines: list[Any], texts: list[str]) -> None:
    legend = figure.legend(
        lines, texts, loc="outside lower left", frameon=False, handlelength=3, labelspacing=0.35
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _axes(figure: Any, title: str, label: str, thresholds: list[float]) -> Any:
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
    axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1))
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel("share of frames", color=INK)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(color=INK, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    return axes


def _to_svg(figure: Any, prefix: str, description: str) -> str:
    """The figure as an <svg> element: scalable, with ids that begin with `prefix`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    return text.replace(INK, "currentColor")
