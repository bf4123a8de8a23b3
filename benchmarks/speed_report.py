"""Shows the figures of `engine_speed.py` as tables and as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbsf.eval.tables import Cell, Table, number

TITLES = {"backbones": "backbone, 3 crops of 255 x 255", "updates": "update, per frame"}


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables; ratios are to the packed engine with its best instruction set."""
    parts = []
    for key, title in TITLES.items():
        for threads, rows in found[key].items():
            base = rows["packed RB-SF"] if key == "updates" else next(iter(rows.values()))
            heads = [f"{title}, threads: {threads}", "ms", "x packed"]
            cells = [_row(name, (ms, ".2f"), (ms / base, ".2f")) for name, ms in rows.items()]
            parts.append(str(Table("", heads, cells)))
    if found["start"]:
        heads = ["a tracking process", "start-up, s", "peak memory, MB"]
        cells = [_row(name, (s, ".2f"), (mb, ".0f")) for name, (s, mb) in found["start"].items()]
        parts.append(str(Table("", heads, cells)))
    return "\n\n".join(parts) + "\n"


def _row(name: str, *figures: tuple[float, str]) -> list[Cell]:
    """A row of figures, each with its format."""
    return [Cell(name), *(number(value, form) for value, form in figures)]


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of all medians: one panel for backbones and one for trackers, if they were timed."""
    from matplotlib.figure import Figure

    panels = [key for key in TITLES if found[key]]
    figure = Figure(figsize=(5.5 * len(panels), 5.5), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        height = 0.8 / len(found[key])
        for offset, (threads, rows) in enumerate(found[key].items()):
            places = [i + offset * height for i in range(len(rows))]
            label = f"threads: {threads}"
            bars = axes.barh(places, list(rows.values()), height * 0.92, label=label)
            axes.bar_label(bars, fmt=" %.1f", fontsize=7)
        axes.set_yticks([i + 0.2 for i in range(len(rows))], list(rows))
        axes.invert_yaxis()
        longest = max(max(rows.values()) for rows in found[key].values())
        axes.set(title=TITLES[key], xlabel="milliseconds (log scale)")
        axes.set(xscale="log", xlim=(1, 2 * longest))
        axes.legend()
    figure.savefig(path, dpi=110)
