"""Tables of trainings from configs/tables/NAME.yaml: cells, their runs and their results.

Tables of classifiers are the paper's, with our figures beside its own. Code that is special to
tables of trackers is in `rbsf.tools.tables.tracker_studies`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from rbsf.eval.tables import Cell, Table, average, markdown_text, number
from rbsf.shipped import CONFIGS
from rbsf.system.files import write_atomically
from rbsf.system.yaml_file import read_yaml_file
from rbsf.tools.recipes.classifier import ClassifierRecipe
from rbsf.tools.recipes.classifier_config import RESULT, ClassifierConfig, with_defaults
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.train import CHECKPOINT
from rbsf.train.config import check_settings, from_settings, read_yaml
from rbsf.train.log import read_log
from rbsf.train.trainer import Recipe, run

TABLES = CONFIGS / "tables"
KEYS = {"title", "trains", "config", "set", "columns", "rows"}
REQUIRED = {"title", "config", "rows"}
PART_KEYS = {"config", "set", "paper", "metric"}  # keys of a row or column
METRICS = ("top1", "top5")
EMPTY = Cell("")  # of a table where there is no figure
FORMS: dict[str, tuple[type, str]] = {  # by key: its type, and how to write it
    "title": (str, "text"),
    "config": (str, "FILE"),
    "set": (dict, "{name: value, ...}"),
}
TableConfig = ClassifierConfig | SiameseConfig  # the settings of a cell
TRAINS: dict[str, type[TableConfig]] = {"classifier": ClassifierConfig, "tracker": SiameseConfig}
CONFIGURE: dict[type, Callable[[dict[str, Any]], Any]] = {
    ClassifierConfig: with_defaults,
    SiameseConfig: partial(from_settings, SiameseConfig),
}
RECIPES: dict[type, type[Recipe]] = {
    ClassifierConfig: ClassifierRecipe,
    SiameseConfig: SiameseRecipe,
}


@dataclass(frozen=True)
class Training:
    """A training, and the figure of the paper to compare it with.

    A table of trackers has only rows and no figures of the paper: `column` is empty, `paper` is
    nan.
    """

    row: str
    column: str
    paper: float  # in percent
    metric: str  # what is compared: top1 or top5
    config: Any  # an object of the class that the table trains

    @property
    def name(self) -> str:
        """Row and column."""
        return ", ".join(filter(None, (self.row, self.column)))


@dataclass(frozen=True)
class Study:
    """`title` and cells, row by row; `trains` is a key of TRAINS."""

    title: str
    cells: list[Training]
    trains: str = "classifier"


def read_study(
    name: str, overrides: dict[str, Any], given: dict[str, dict[str, Any]] | None = None
) -> Study:
    """The table of configs/tables/NAME.yaml, or of the file `name` if it ends in .yaml.

    The settings of a cell come from these places; a later one overrides all before it:

    1. for classifiers, the defaults of the method,
    2. the file `config` of the row, or else of the table,
    3. the settings `given` for what the table trains,
    4. `set` of the table,
    5. `set` of the column,
    6. `set` of the row,
    7. `overrides`.

    Raises FileNotFoundError, or ValueError naming the file and what does not fit.
    """
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    content = _read_content(path)
    cls = TRAINS[content["trains"]]
    of_kind = (given or {}).get(content["trains"], {})
    base = of_kind | check_settings(cls, content["set"], f"{path}: set")
    cells = _cells(path, content, base, check_settings(cls, overrides, "--set"))
    return Study(content["title"], list(cells), content["trains"])


def _read_content(path: Path) -> dict[str, Any]:
    """The file's content, checked, with a value for each of KEYS."""
    content = _read_yaml(path)
    if not isinstance(content, dict) or not REQUIRED <= content.keys() <= KEYS:
        raise ValueError(
            f"{path}: expected the keys {', '.join(sorted(REQUIRED))}, perhaps trains, set, columns"
        )
    content = {"trains": "classifier", "set": {}, "columns": {"": {}}, **content}
    if content["trains"] not in [*TRAINS]:  # a list, since the value may not be hashable
        raise ValueError(f"{path}: trains is {content['trains']!r}; expected {' or '.join(TRAINS)}")
    for kind, (needed, form) in FORMS.items():
        if not isinstance(content[kind], needed):
            raise ValueError(f"{path}: {kind} is {content[kind]!r}; expected {form}")
    for kind in ("columns", "rows"):
        _check_parts(content[kind], path, kind)
    return content


def _read_yaml(path: Path) -> Any:
    """Read the file of a table.

    Raises FileNotFoundError, or ValueError if it is not YAML.
    """
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in TABLES.glob("*.yaml")))
        raise FileNotFoundError(
            f"no table {path}; there are {known}, table6, or a .yaml file of your own"
        )
    return read_yaml_file(path)


def _check_parts(parts: Any, path: Path, kind: str) -> None:
    """Raise ValueError if the rows or columns are not what they should be."""
    if not isinstance(parts, dict) or not parts:
        raise ValueError(f"{path}: {kind} is {parts!r}; expected `name: {{set: {{...}}}}` for each")
    for name, part in parts.items():
        where = f"{path}: {name}"
        if not _is_part(part):
            expected = "{set: {name: value, ...}}, perhaps with config: FILE"
            raise ValueError(f"{where} is {part!r}; expected {expected}")
        _check_values(part, where)


def _is_part(part: Any) -> bool:
    """Whether `part` has the form of a row or column."""
    if not isinstance(part, dict) or not part.keys() <= PART_KEYS:
        return False
    return isinstance(part.get("set", {}), dict)


def _check_values(part: dict[str, Any], where: str) -> None:
    """Raise ValueError for a value of a row or column that is not what it should be."""
    config, paper = part.get("config", ""), part.get("paper", [])
    metric = part.get("metric", METRICS[0])
    if not isinstance(config, str):
        raise ValueError(f"{where}: config is {config!r}; expected the name of a file in configs/")
    if not isinstance(paper, list) or not all(isinstance(figure, int | float) for figure in paper):
        raise ValueError(f"{where}: paper is {paper!r}; expected a list of numbers, one a column")
    if metric not in METRICS:
        raise ValueError(f"{where}: metric is {metric!r}; expected {' or '.join(METRICS)}")


def _cells(
    path: Path, content: dict[str, Any], base: dict[str, Any], overrides: dict[str, Any]
) -> Iterator[Training]:
    """The cells, row by row.

    Raises ValueError if a row has more or fewer figures than there are columns.
    """
    cls, columns = TRAINS[content["trains"]], content["columns"]
    for row_name, row in content["rows"].items():
        file = read_yaml(cls, CONFIGS / (row.get("config") or content["config"]))
        figures = row.get("paper", [] if cls is ClassifierConfig else [math.nan])
        if len(figures) != len(columns):
            raise ValueError(
                f"{path}: row {row_name!r} has {len(figures)} figures for {len(columns)}"
            )
        for (column_name, column), paper in zip(columns.items(), figures, strict=True):
            own = {**column.get("set", {}), **row.get("set", {})}
            own = check_settings(cls, own, f"{path}: {row_name}")
            config = CONFIGURE[cls]({**file, **base, **own, **overrides})
            metric = column.get("metric", METRICS[0])
            yield Training(str(row_name), str(column_name), paper, metric, config)


def folder_of(config: TableConfig, out: Path) -> Path:
    """Folder of a cell's training; cells with the same settings share it."""
    return out / config.folder_name()


def state_of(config: TableConfig, out: Path) -> str:
    """`done`, `half done` or `to do`."""
    folder = folder_of(config, out)
    if (folder / config.result_file).is_file():
        return "done"
    return "half done" if (folder / CHECKPOINT).is_file() else "to do"


def run_cell(config: TableConfig, out: Path) -> int:
    """Train a cell unless its result is there, from its last checkpoint if it has one.

    Returns the exit code of the training.
    """
    folder, state = folder_of(config, out), state_of(config, out)
    if state == "done":
        return 0
    shared = config.cache or str(out)  # folder where all cells find pairs and float teachers
    own = dataclasses.replace(config, out=str(folder), cache=shared, resume=state == "half done")
    return run(RECIPES[type(config)], own)


def result_of(config: ClassifierConfig, out: Path) -> dict[str, Any] | None:
    """The result of the training of a classifier; None if it is not done.

    Raises ValueError for a damaged file.
    """
    path = folder_of(config, out) / RESULT
    if not path.is_file():
        return None
    advice = "delete the file to train that cell again"
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {advice}") from None
    if not isinstance(result, dict) or not {METRICS[0], "images"} <= result.keys():
        raise ValueError(f"{path}: not the result of a training; {advice}")
    if result.get("seed", config.seed) != config.seed:
        raise ValueError(f"{path}: of seed {result['seed']}, not {config.seed}; {advice}")
    return result


def as_markdown(table: Study, seeds: list[int], out: Path) -> str:
    """Paper, ours, differences, epochs, training images and seeds of every cell.

    One difference is to the paper. The other, in top-1, is to the first cell with the same test
    images, with the 95% interval over these.
    """
    columns = ["", "", "paper", "ours", "to the paper", "top-1 to the first (95%)"]
    columns += ["epochs", "images an epoch", "seeds"]
    rows = []
    firsts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in table.cells:
        own = _results_of(cell, seeds, out)
        first = firsts.setdefault((cell.config.dataset, cell.config.root), own)
        same = own is first or cell.metric != METRICS[0]
        rows.append(_row_of(cell, own, EMPTY if same else _paired(own, first)))
    return f"{markdown_text(table.title)}\n\n{Table('', columns, rows)}\n"


def _results_of(cell: Training, seeds: list[int], out: Path) -> list[dict[str, Any]]:
    """The results of a cell that are there."""
    configs = [dataclasses.replace(cell.config, seed=seed) for seed in seeds]
    results = [result_of(config, out) for config in configs]
    return [result for result in results if result is not None]


def _paired(results: list[dict[str, Any]], others: list[dict[str, Any]]) -> Cell:
    """Difference in top-1 accuracy of two cells, and its 95% interval over the test images.

    Both are means over seeds. It is empty if a result does not say which images are right, as
    those of older versions do not.
    """
    if not all("right" in result for result in results + others) or not (results and others):
        return EMPTY
    if len({result["tested"] for result in results + others}) > 1:
        return Cell("other test images")
    gaps = 100 * (_shares_right(results) - _shares_right(others))  # [images]
    half = 1.96 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return number(gaps.mean(), "+.2f", half)


def _shares_right(results: list[dict[str, Any]]) -> np.ndarray:
    """The share of the seeds that class each test image correctly, `[images]`."""
    packed = [np.frombuffer(b64decode(result["right"]), np.uint8) for result in results]
    counts = [result["tested"] for result in results]
    bits = [np.unpackbits(row, count=count) for row, count in zip(packed, counts, strict=True)]
    return np.mean(bits, axis=0)


def _row_of(cell: Training, results: list[dict[str, Any]], to_first: Cell) -> list[Cell]:
    """The row of a cell in the table, from the results of its seeds."""
    names = [Cell(cell.row), Cell(cell.column), number(cell.paper, ".2f")]
    epochs = number(cell.config.loop.epochs, "d")
    if not results:
        return [*names, Cell("not run"), EMPTY, EMPTY, epochs, EMPTY, EMPTY]
    figures = [result[cell.metric] for result in results]
    difference = number(mean(figures) - cell.paper, "+.2f")
    images, seeds = number(results[0]["images"], ","), number(len(figures), "d")
    return [*names, average(figures, ".2f"), difference, to_first, epochs, images, seeds]


def read_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Points (epoch, error in percent) of a training's log.csv.

    `test` has the error after each epoch, `train` the mean over each epoch.
    """
    curves: dict[str, list[tuple[float, float]]] = {"train": [], "test": []}
    errors: list[float] = []
    for row in read_log(log):
        if "error" in row:
            errors.append(100 * row["error"])
        if "val_top1" in row:  # the last row of an epoch
            epoch = len(curves["test"]) + 1.0
            curves["test"].append((epoch, 100 - row["val_top1"]))
            if errors:
                curves["train"].append((epoch, mean(errors)))
            errors = []
    return curves


def plot_curves(table: Study, seed: int, out: Path, path: Path) -> bool:
    """Draw training and test error of the table's rows over epochs, as figure 2.

    Returns False if no row has a log.
    """
    from matplotlib.figure import Figure

    configs = [dataclasses.replace(cell.config, seed=seed) for cell in table.cells]
    logs = [folder_of(config, out) / "log.csv" for config in configs]
    if not any(log.is_file() for log in logs):
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (cell, log) in enumerate(zip(table.cells, logs, strict=True)):
        if log.is_file():
            _plot_row(axes, cell.row, log, f"C{index}")
    axes.set(title=table.title, xlabel="epoch", ylabel="top-1 error, %")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
    return True


def _plot_row(axes: Any, row: str, log: Path, color: str) -> None:
    """Draw both errors of a row: training dashed, test solid."""
    for kind, points in read_curves(log).items():
        style = "--" if kind == "train" else "-"
        axes.plot(*zip(*points, strict=True), style, color=color, label=f"{row}, {kind}")
