"""Logs of a training run: a CSV file, a plot of it, and TensorBoard events if installed."""

from __future__ import annotations

import csv
import io
import time
import warnings
from pathlib import Path
from typing import Any

from rbsf.system.files import write_atomically
from rbsf.system.text import read_text

VALIDATED = "val_"  # the names of a validation's figures begin so


class History:
    """Rows of numbers by step.

    They are written to `log.csv`, `losses.png`, and `tensorboard/` if TensorBoard is installed.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        """Start a history, or continue the one in `folder` from `resume_step`.

        Rows of later steps are dropped.
        """
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        if resume_step and (folder / "log.csv").is_file():
            rows = read_log(folder / "log.csv")
            self.rows = [row for row in rows if row["step"] <= resume_step]
        self.drawn = time.monotonic()
        self._events = _tensorboard(folder, resume_step)

    def add(self, step: int, **values: float) -> None:
        """Append a row."""
        self.rows.append({"step": step, **values})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def has_figures(self, step: int) -> bool:
        """Whether a validation after this step was logged."""
        names = {name for row in self.rows if row["step"] == step for name in row}
        return any(name.startswith(VALIDATED) for name in names)

    def write(self, final: bool = False) -> None:
        """Write the CSV, and the picture if it is the `final` one or the last is a minute old.

        Drawing the picture takes a second.
        """
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / "log.csv", text.getvalue().encode())
        if final or time.monotonic() - self.drawn > 60:
            self._draw(self.folder / "losses.png")
            self.drawn = time.monotonic()

    def _draw(self, path: Path) -> None:
        """Draw the curves; an error, as from Matplotlib's settings, only gives a warning."""
        try:
            write_atomically(path, self._plot)
        except Exception as error:
            warnings.warn(f"{path} is not drawn: {error}", stacklevel=2)

    def _columns(self) -> list[str]:
        """Names of all values, in order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def _plot(self, path: Path) -> None:
        """Draw each value over the steps."""
        from matplotlib.figure import Figure

        names = [name for name in self._columns() if _is_drawn(name)]
        columns = min(3, len(names))
        lines = -(-len(names) // columns)
        figure = Figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes in places[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(places, names, strict=False):
            self._plot_value(axes, name)
        figure.savefig(path, dpi=100)

    def _plot_value(self, axes: Any, name: str) -> None:
        rows = [row for row in self.rows if name in row]
        steps, values = [row["step"] for row in rows], [row[name] for row in rows]
        axes.plot(steps, values, marker="." if len(rows) < 50 else None)
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each with its `step`; empty fields are left out.

    Raises ValueError that names the file and line if a line is not such a row.
    """
    rows = []
    reader = csv.DictReader(read_text(path).splitlines())
    try:
        for row in reader:
            rows.append({name: _number(name, value) for name, value in row.items() if value})
            if "step" not in rows[-1]:
                raise ValueError("no step")
    except (
        AttributeError,
        TypeError,
        ValueError,
        csv.Error,
    ) as error:  # a row longer than its head
        where = f"{path} line {reader.line_num}"
        advice = "repair that line, or remove the file to start the log anew"
        raise ValueError(f"{where}: no row of a training's log ({error}); {advice}") from None
    return rows


def _number(name: str, text: str) -> float:
    """The number in a field; steps and epochs are whole ones."""
    number = float(text)
    return int(number) if name in ("step", "epoch") else number


def _is_drawn(name: str) -> bool:
    """Whether the picture shows the values called `name`."""
    return name not in ("step", "epoch", "rate") and not name.endswith("_per_s")


def _tensorboard(folder: Path, purge_step: int) -> Any:
    """A writer of TensorBoard events; None if TensorBoard is not installed or fails."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step or None)
    except ImportError:
        return None
    except Exception as error:  # its libraries do not fit each other, or it refuses the folder name
        warnings.warn(f"no TensorBoard log in {folder}: {error}", stacklevel=2)
        return None
