"""A table of a worklist's results, from its folder or from the archive that came home."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from rbsf.eval.tables import Cell, Table
from rbsf.system.files import write_atomically
from rbsf.tools.gpu.home import unpack_home
from rbsf.train.log import read_log
from rbsf.train.worklist import DONE, FAILED, Item, State, clock, state_of

LIST = "list.json"  # the items that were run in a folder
HEADS = ["item", "state", "time", "top-1, %", "epochs", "images a second", "what it is worth"]


def write_list(folder: Path, items: list[Item]) -> None:
    """Store the items for a summary, followed by those of earlier runs that are not among them."""
    names = {item.name for item in items}
    before = _read_list(folder) if (folder / LIST).is_file() else []
    earlier = [item for item in before if item.name not in names]
    entries = [asdict(item) for item in (*items, *earlier)]
    write_atomically(folder / LIST, json.dumps(entries, indent=1).encode())


def summarise(folder: Path) -> str:
    """The table in Markdown, and the reports of the checks.

    Raises FileNotFoundError if the folder holds neither a list nor an archive, and ValueError if
    the archive is damaged.
    """
    if (folder / LIST).is_file():
        return _summarise(folder)
    with tempfile.TemporaryDirectory() as name:
        if not unpack_home(folder, Path(name)):
            fault = f"holds neither {LIST} nor home-1-of-N.part"
            raise FileNotFoundError(f"{folder} {fault}; give an --out or its home")
        return _summarise(Path(name))


def _summarise(folder: Path) -> str:
    items = _read_list(folder)
    table = Table("", HEADS, [_row(folder, item) for item in items])
    states = [state_of(folder, item).state for item in items]
    count = f"{states.count(DONE)} of {len(items)} done, {states.count(FAILED)} failed"
    files = [folder / item.results / "report.md" for item in items]
    reports = [file.read_text() for file in files if file.is_file()]
    return "\n\n".join([count, str(table), *reports])


def _read_list(folder: Path) -> list[Item]:
    return [_item(entry) for entry in json.loads((folder / LIST).read_text())]


def _item(entry: dict[str, Any]) -> Item:
    lists = {name: tuple(entry.get(name, ())) for name in ("command", "needs", "again")}
    return Item(**{**entry, **lists})


def _row(folder: Path, item: Item) -> list[Cell]:
    state, results = state_of(folder, item), folder / item.results
    top1 = _read_top1(results / "result.json")
    epochs, rate = _read_log(results)
    texts = (item.name, state.state, _time(state), top1, epochs, rate)
    return [*map(Cell, texts), Cell(item.worth, detail=state.reason)]


def _time(state: State) -> str:
    return clock(state.seconds) if state.seconds else ""


def _read_top1(path: Path) -> str:
    return f"{json.loads(path.read_text())['top1']:.2f}" if path.is_file() else ""


def _read_log(results: Path) -> tuple[str, str]:
    """Epochs done, such as "3 of 200", and the median rate of a training; empty if unknown."""
    log, config = results / "log.csv", results / "config.yaml"
    if not (log.is_file() and config.is_file()):
        return "", ""
    rows = read_log(log)
    epochs = yaml.safe_load(config.read_text())["epochs"]
    rates = [rate for rate in map(_rate, rows) if rate]
    return f"{_epochs_done(rows)} of {epochs}", f"{median(rates):,.0f}" if rates else ""


def _epochs_done(rows: list[dict[str, float]]) -> float:
    """Number of epochs in a log, which counts them itself or has a validation row for each."""
    validated = sum("val_top1" in row for row in rows)
    return max([validated, *(row.get("epoch", 0) for row in rows)])


def _rate(row: dict[str, float]) -> float:
    """Images or pairs a second in a row of a log; 0 if it has neither."""
    return row.get("images_per_s") or row.get("pairs_per_s") or 0
