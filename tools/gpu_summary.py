"""One table of a worklist's results, from its folder or from the archive that came home."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from rbsf.system.files import write_atomically
from rbsf.tools.gpu_home import unpack_home
from rbsf.train.worklist import DONE, FAILED, Item, State, clock, state_of

LIST = "list.json"  # the items of a folder, as they were run
HEADS = ("item", "state", "time", "top-1, %", "epochs", "images a second", "what it is worth")


def write_list(folder: Path, items: list[Item]) -> None:
    """Keep what the list is, and behind it what earlier runs have had on theirs, for a summary
    later and elsewhere.
    """
    names = {item.name for item in items}
    earlier = (
        [item for item in _read_list(folder) if item.name not in names]
        if (folder / LIST).is_file()
        else []
    )
    entries = [asdict(item) for item in (*items, *earlier)]
    write_atomically(folder / LIST, json.dumps(entries, indent=1).encode())


def summarise(folder: Path) -> str:
    """The table in Markdown, and the reports of the checks.

    FileNotFoundError for a folder that holds neither a list nor an archive; ValueError for a
    damaged one.
    """
    if (folder / LIST).is_file():
        return _summarise(folder)
    with tempfile.TemporaryDirectory() as name:
        if not unpack_home(folder, Path(name)):
            raise FileNotFoundError(
                f"{folder} holds neither {LIST} nor home-1-of-N.part; give an --out or its home"
            )
        return _summarise(Path(name))


def _summarise(folder: Path) -> str:
    items = _read_list(folder)
    rows = [_row(folder, item) for item in items]
    lines = ["| " + " | ".join(row) + " |" for row in (HEADS, ["---"] * len(HEADS), *rows)]
    states = [state_of(folder, item).state for item in items]
    count = f"{states.count(DONE)} of {len(items)} done, {states.count(FAILED)} failed"
    reports = [
        path.read_text()
        for item in items
        if (path := folder / item.results / "report.md").is_file()
    ]
    return "\n\n".join([count, "\n".join(lines), *reports])


def _read_list(folder: Path) -> list[Item]:
    return [_item(entry) for entry in json.loads((folder / LIST).read_text())]


def _item(entry: dict[str, Any]) -> Item:
    lists = {name: tuple(entry.get(name, ())) for name in ("command", "needs", "again")}
    return Item(**{**entry, **lists})


def _row(folder: Path, item: Item) -> list[str]:
    state, results = state_of(folder, item), folder / item.results
    top1 = _read_top1(results / "result.json")
    epochs, rate = _read_log(results)
    worth = item.worth if state.state != FAILED else f"{item.worth}: **{state.reason}**"
    return [item.name, state.state, _time(state), top1, epochs, rate, worth.replace("|", "/")]


def _time(state: State) -> str:
    return clock(state.seconds) if state.seconds else ""


def _read_top1(path: Path) -> str:
    return f"{json.loads(path.read_text())['top1']:.2f}" if path.is_file() else ""


def _read_log(results: Path) -> tuple[str, str]:
    """Epochs done, such as "3 of 200", and the median rate of a training; empty where it has not
    told yet.
    """
    log, config = results / "log.csv", results / "config.yaml"
    if not (log.is_file() and config.is_file()):
        return "", ""
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    done = max(
        [
            sum(bool(row.get("val_top1")) for row in rows),
            *(int(float(row.get("epoch") or 0)) for row in rows),
        ]
    )
    paces = (row.get("images_per_s") or row.get("pairs_per_s") or 0 for row in rows)
    rates = [float(pace) for pace in paces if float(pace)]
    rate = f"{median(rates):,.0f}" if rates else ""
    return f"{done} of {yaml.safe_load(config.read_text())['epochs']}", rate
