"""What a training run leaves to read: a CSV, a picture of it, TensorBoard events if installed."""

from __future__ import annotations

import csv
import io
import time
import warnings
from pathlib import Path

from rbsf.system.files import write_atomically
from rbsf.system.text import read_text


class History:
    """Rows of numbers by step: `log.csv`, `losses.png`, and `tensorboard/` where that is installed."""

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        """Start a history, or continue the one in `folder` up to `resume_step` (what came later is
        dropped).
        """
        self.folder, self.rows = folder, []  # type: Path, list[dict[str, float]]
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

    def write(self, final: bool = False) -> None:
        """Write the CSV, and the picture if it is the `final` one or a minute old: it takes a
        second to draw.
        """
        if not self.rows:
            return
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder / "log.csv", text.getvalue().encode())
        if final or time.monotonic() - self.drawn > 60:
            self._draw(self.folder / "losses.png")
            self.drawn = time.monotonic()

    def _draw(self, path: Path) -> None:
        """Draw the curves. What the user's Matplotlib is set to must not end a training."""
        try:
            write_atomically(path, self._plot)
        except Exception as error:
            warnings.warn(f"{path} is not drawn: {error}", stacklevel=2)

    def _plot(self, path: Path) -> None:
        from matplotlib.figure import Figure

        names = [
            n
            for n in dict.fromkeys(k for row in self.rows for k in row)
            if n not in ("step", "epoch", "rate") and not n.endswith("_per_s")
        ]
        columns = min(3, len(names))
        lines = -(-len(names) // columns)
        figure = Figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes in places[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(places, names, strict=False):
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
            axes.set(title=name.replace("_", " "), xlabel="step")
            axes.grid(alpha=0.3)
        figure.savefig(path, dpi=100)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each with its `step`; what is empty is left out.

    Raises ValueError that names the file and line for what is no such row.
    """
    rows = []
    reader = csv.DictReader(read_text(path).splitlines())
    try:
        for row in reader:
            rows.append({name: float(value) for name, value in row.items() if value})
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


def _tensorboard(folder: Path, purge_step: int):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step or None)
    except ImportError:
        return None
    except Exception as error:  # its libraries do not fit each other, or the folder's name
        warnings.warn(f"no TensorBoard log in {folder}: {error}", stacklevel=2)
        return None
