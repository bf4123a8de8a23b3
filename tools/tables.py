"""A table of the paper: its cells as trainings, what they have given so far, and both side by side."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from rbsf.files import write_atomically
from rbsf.train.config import check_settings, read_yaml
from rbsf.train.loop import CHECKPOINT
from tools.classifying import RESULT, ClassifierConfig, train_all
from tools.runs import CONFIGS

TABLES = CONFIGS / "tables"
KEYS = {"title", "config", "columns", "rows"}


@dataclass(frozen=True)
class Cell:
    """A figure of the paper, in percent, and the training that gives ours: its `metric`, top1 or top5."""

    row: str
    column: str
    paper: float
    metric: str
    config: ClassifierConfig


@dataclass(frozen=True)
class Table:
    """`title` and cells, row by row."""

    title: str
    cells: list[Cell]


def read_table(name: str, overrides: dict[str, Any]) -> Table:
    """The table of configs/tables/NAME.yaml; `overrides` are settings that all its cells get.

    A cell's settings are those of the file `config` of its row or of the table, then `set` of its column, `set` of its
    row, and the overrides.  ValueError names the file and what does not fit.
    """
    path = TABLES / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.keys() != KEYS:
        raise ValueError(f"{path}: expected the keys {', '.join(sorted(KEYS))}")
    return Table(content["title"], list(_cells(path, content, check_settings(ClassifierConfig, overrides, "--set"))))


def _cells(path: Path, content: dict[str, Any], overrides: dict[str, Any]) -> Iterator[Cell]:
    for row_name, row in content["rows"].items():
        base = read_yaml(ClassifierConfig, CONFIGS / (row.get("config") or content["config"]))
        if len(row["paper"]) != len(content["columns"]):
            raise ValueError(f"{path}: row {row_name!r} has {len(row['paper'])} figures for {len(content['columns'])}")
        for (column_name, column), paper in zip(content["columns"].items(), row["paper"], strict=True):
            own = {**column.get("set", {}), **row.get("set", {})}
            settings = {**base, **check_settings(ClassifierConfig, own, f"{path}: {row_name}"), **overrides}
            config = ClassifierConfig(**settings)
            yield Cell(row_name, column_name, paper, column.get("metric", "top1"), config)


def folder_of(config: ClassifierConfig, out: Path) -> Path:
    """Where the training of a cell lives: cells of several tables with the same settings share it."""
    return out / config.folder_name()


def run_cell(config: ClassifierConfig, out: Path) -> int:
    """Train unless its result is there, from its last checkpoint where it has one; the exit code of the training."""
    folder = folder_of(config, out)
    if (folder / RESULT).is_file():
        return 0
    return train_all(dataclasses.replace(config, out=str(folder), resume=(folder / CHECKPOINT).is_file()))


def result_of(config: ClassifierConfig, out: Path) -> dict[str, float] | None:
    """What the training of a cell gave; None where it is not done."""
    path = folder_of(config, out) / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def as_markdown(table: Table, seeds: list[int], out: Path) -> str:
    """Paper, ours, difference, epochs, training images and seeds of every cell."""
    heads = ("", "", "paper", "ours", "difference", "epochs", "images an epoch", "seeds")
    rows = [heads, tuple("---" if i < 2 else "---:" for i in range(len(heads)))]
    for cell in table.cells:
        configs = [dataclasses.replace(cell.config, seed=seed) for seed in seeds]
        results = [result for config in configs if (result := result_of(config, out)) is not None]
        figures = [result[cell.metric] for result in results]
        ours, difference, images = "not run", "", ""
        if figures:
            spread = f" ± {stdev(figures):.2f}" if len(figures) > 1 else ""
            ours, difference = f"{mean(figures):.2f}{spread}", f"{mean(figures) - cell.paper:+.2f}"
            images = f"{results[0]['images']:,}"
        count = str(len(figures)) if figures else ""
        rows.append(
            (cell.row, cell.column, f"{cell.paper:.2f}", ours, difference, str(cell.config.epochs), images, count)
        )
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table.title}\n\n{lines}\n"


def read_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """(epoch, error in percent) of a training's log.csv: of `train`, a mean of each epoch, and of `test`."""
    curves: dict[str, list[tuple[float, float]]] = {"train": [], "test": []}
    errors: list[float] = []
    with open(log, newline="") as file:
        for row in csv.DictReader(file):
            if row.get("error"):
                errors.append(100 * float(row["error"]))
            if row.get("val_top1"):  # the last row of an epoch
                epoch = len(curves["test"]) + 1.0
                curves["test"].append((epoch, 100 - float(row["val_top1"])))
                curves["train"] += [(epoch, mean(errors))] if errors else []
                errors = []
    return curves


def plot_curves(table: Table, seed: int, out: Path, path: Path) -> bool:
    """Draw training and test error of the table's rows over epochs, as figure 2; False where no row has a log."""
    from matplotlib.figure import Figure

    logs = [folder_of(dataclasses.replace(cell.config, seed=seed), out) / "log.csv" for cell in table.cells]
    if not any(log.is_file() for log in logs):
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (cell, log) in enumerate(zip(table.cells, logs, strict=True)):
        for kind, points in (read_curves(log) if log.is_file() else {}).items():
            style = "--" if kind == "train" else "-"
            axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=f"{cell.row}, {kind}")
    axes.set(title=table.title, xlabel="epoch", ylabel="top-1 error, %")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
    return True
