"""Tables of trainings, as configs/tables/NAME.yaml has them: their cells, how these are run, what
they have given.

Those of classifiers are the paper's, ours beside its figures; for those of trackers see
`rbsf.tools.tracker_studies`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rbsf.shipped import CONFIGS
from rbsf.system.files import write_atomically
from rbsf.system.yaml_file import read_yaml_file
from rbsf.tools.recipes.classifier import RESULT, ClassifierConfig, ClassifierRecipe, with_defaults
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import TrainConfig
from rbsf.train.config import check_settings, from_settings, read_yaml
from rbsf.train.loop import CHECKPOINT
from rbsf.train.run_config import RunConfig
from rbsf.train.trainer import Recipe, run

TABLES = CONFIGS / "tables"
KEYS = {"title", "trains", "config", "set", "columns", "rows"}
REQUIRED = {"title", "config", "rows"}
PART_KEYS = {"config", "set", "paper", "metric"}  # of a row or column
METRICS = ("top1", "top5")
TRAINS: dict[str, type[RunConfig]] = {"classifier": ClassifierConfig, "tracker": TrainConfig}
CONFIGURE: dict[type, Callable[[dict[str, Any]], Any]] = {
    ClassifierConfig: with_defaults,
    TrainConfig: partial(from_settings, TrainConfig),
}
RECIPES: dict[type, type[Recipe]] = {ClassifierConfig: ClassifierRecipe, TrainConfig: SiameseRecipe}


@dataclass(frozen=True)
class Cell:
    """A training, and the figure of the paper, in percent, that its `metric`, top1 or top5, is to
    be compared with.

    A table of trackers has rows alone and no figures of the paper: `column` is empty, `paper` is
    nan.
    """

    row: str
    column: str
    paper: float
    metric: str
    config: Any  # of the class that the table trains

    @property
    def name(self) -> str:
        """Row and column."""
        return ", ".join(filter(None, (self.row, self.column)))


@dataclass(frozen=True)
class Study:
    """`title` and cells, row by row; `trains` is a key of TRAINS."""

    title: str
    cells: list[Cell]
    trains: str = "classifier"


def read_study(
    name: str, overrides: dict[str, Any], given: dict[str, dict[str, Any]] | None = None
) -> Study:
    """The table of configs/tables/NAME.yaml, or of the file `name` where it ends in .yaml.

    A cell's settings are those of the file `config` of its row or of the table, then those `given`
    for what the table trains, `set` of the table, of the column and of the row, and last the
    overrides, which all cells get; below them all, of classifiers, the defaults of the method.
    FileNotFoundError, or ValueError that names the file and what does not fit.
    """
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    content = _read_content(path)
    cls = TRAINS[content["trains"]]
    base = {
        **(given or {}).get(content["trains"], {}),
        **check_settings(cls, content["set"], f"{path}: set"),
    }
    cells = _cells(path, content, base, check_settings(cls, overrides, "--set"))
    return Study(content["title"], list(cells), content["trains"])


def _read_content(path: Path) -> dict[str, Any]:
    """The file with all KEYS."""
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in TABLES.glob("*.yaml")))
        raise FileNotFoundError(
            f"no table {path}; there are {known}, table6, or a .yaml file of your own"
        )
    content = read_yaml_file(path)
    if not isinstance(content, dict) or not REQUIRED <= content.keys() <= KEYS:
        raise ValueError(
            f"{path}: expected the keys {', '.join(sorted(REQUIRED))}, perhaps trains, set, columns"
        )
    content = {"trains": "classifier", "set": {}, "columns": {"": {}}, **content}
    if content["trains"] not in [*TRAINS]:
        raise ValueError(f"{path}: trains is {content['trains']!r}; expected {' or '.join(TRAINS)}")
    for kind, needed, form in (
        ("title", str, "text"),
        ("config", str, "FILE"),
        ("set", dict, "{name: value, ...}"),
    ):
        if not isinstance(content[kind], needed):
            raise ValueError(f"{path}: {kind} is {content[kind]!r}; expected {form}")
    for kind in ("columns", "rows"):
        parts = content[kind]
        if not isinstance(parts, dict) or not parts:
            raise ValueError(
                f"{path}: {kind} is {parts!r}; expected `name: {{set: {{...}}}}` for each"
            )
        for name, part in parts.items():
            _check_part(part, f"{path}: {name}")
    return content


def _check_part(part: Any, where: str) -> None:
    """Raise ValueError where a row or column is not what it should be."""
    if (
        not isinstance(part, dict)
        or not part.keys() <= PART_KEYS
        or not isinstance(part.get("set", {}), dict)
    ):
        raise ValueError(
            f"{where} is {part!r}; expected {{set: {{name: value, ...}}}}, perhaps with config: FILE"
        )
    config, paper, metric = (
        part.get("config", ""),
        part.get("paper", []),
        part.get("metric", METRICS[0]),
    )
    if not isinstance(config, str):
        raise ValueError(f"{where}: config is {config!r}; expected the name of a file in configs/")
    if not isinstance(paper, list) or not all(isinstance(figure, int | float) for figure in paper):
        raise ValueError(f"{where}: paper is {paper!r}; expected a list of numbers, one a column")
    if metric not in METRICS:
        raise ValueError(f"{where}: metric is {metric!r}; expected {' or '.join(METRICS)}")


def _cells(
    path: Path, content: dict[str, Any], base: dict[str, Any], overrides: dict[str, Any]
) -> Iterator[Cell]:
    cls = TRAINS[content["trains"]]
    for row_name, row in content["rows"].items():
        file = read_yaml(cls, CONFIGS / (row.get("config") or content["config"]))
        figures = row.get("paper", [] if cls is ClassifierConfig else [math.nan])
        if len(figures) != len(content["columns"]):
            raise ValueError(
                f"{path}: row {row_name!r} has {len(figures)} figures for {len(content['columns'])}"
            )
        for (column_name, column), paper in zip(content["columns"].items(), figures, strict=True):
            own = check_settings(
                cls, {**column.get("set", {}), **row.get("set", {})}, f"{path}: {row_name}"
            )
            config = CONFIGURE[cls]({**file, **base, **own, **overrides})
            yield Cell(
                str(row_name), str(column_name), paper, column.get("metric", METRICS[0]), config
            )


def folder_of(config: RunConfig, out: Path) -> Path:
    """Where the training of a cell lives: cells of several tables with the same settings share it."""
    return out / config.folder_name()


def state_of(config: RunConfig, out: Path) -> str:
    """`done`, `half done` or `to do`."""
    folder = folder_of(config, out)
    begun = (folder / CHECKPOINT).is_file()
    return "done" if (folder / config.result_file).is_file() else "half done" if begun else "to do"


def run_cell(config: RunConfig, out: Path) -> int:
    """Train unless its result is there, from its last checkpoint where it has one; the exit code of
    the training.
    """
    folder, state = folder_of(config, out), state_of(config, out)
    if state == "done":
        return 0
    own = dataclasses.replace(config, out=str(folder), resume=state == "half done")
    return run(RECIPES[type(config)], own)


def result_of(config: ClassifierConfig, out: Path) -> dict[str, float] | None:
    """What the training of a classifier gave; None where it is not done."""
    path = folder_of(config, out) / RESULT
    return json.loads(path.read_text()) if path.is_file() else None


def as_markdown(table: Study, seeds: list[int], out: Path) -> str:
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
            (
                cell.row,
                cell.column,
                f"{cell.paper:.2f}",
                ours,
                difference,
                str(cell.config.loop.epochs),
                images,
                count,
            )
        )
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table.title}\n\n{lines}\n"


def read_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """(epoch, error in percent) of a training's log.csv: of `train`, a mean of each epoch, and of
    `test`.
    """
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


def plot_curves(table: Study, seed: int, out: Path, path: Path) -> bool:
    """Draw training and test error of the table's rows over epochs, as figure 2; False where no row
    has a log.
    """
    from matplotlib.figure import Figure

    logs = [
        folder_of(dataclasses.replace(cell.config, seed=seed), out) / "log.csv"
        for cell in table.cells
    ]
    if not any(log.is_file() for log in logs):
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (cell, log) in enumerate(zip(table.cells, logs, strict=True)):
        for kind, points in (read_curves(log) if log.is_file() else {}).items():
            style = "--" if kind == "train" else "-"
            axes.plot(
                *zip(*points, strict=True), style, color=f"C{number}", label=f"{cell.row}, {kind}"
            )
    axes.set(title=table.title, xlabel="epoch", ylabel="top-1 error, %")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
    return True
