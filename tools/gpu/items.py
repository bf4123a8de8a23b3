"""The list of this project's work for a GPU, most valuable first; `tools/gpu_run.py` runs it.

An entry is a check, a cell of a table of trainings, or a training of RB-SF 2. What an item needs
follows from its entry: a 1-bit network needs the float network that it starts from, if the list has
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rbsf.tools.gpu.distil import FOLDER, PAIRS, TEACHER
from rbsf.tools.tables.studies import folder_of, read_study
from rbsf.train.worklist import Item

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = Path("tables")  # below the list's folder
SHRUNK = 8  # a rehearsal's networks have an eighth of the channels
REHEARSAL = {
    "epochs": 1,
    "subset": 64,
    "batch_size": 32,
    "warmup": 2,
    "threads": 1,
    "device": "cpu",
    # At the full learning rates, two steps may lead anywhere.
    "lr_binary": 1e-3,
    "lr_real": 1e-3,
    "lr_norm": 1e-3,
}
SMALL_RBSF2 = (  # flags of a rehearsal
    "--channels 8-16-32 --depths 1-1-1 --features 8 --head-depth 1 --pairs 4"
    " --epochs 1 --batch-size 2 --threads 1 --workers 0 --device cpu"
)
ON_GPU = {"precision": "bfloat16", "threads": 2}


@dataclass(frozen=True)
class Check:
    """A program that reads no data and writes `report.md` and `report.json` into its --out."""

    name: str
    program: str
    worth: str
    minutes: float
    rehearsal: tuple[str, ...] = ()  # further flags in a rehearsal


@dataclass(frozen=True)
class Training:
    """A cell of configs/tables/TABLE.yaml.

    A cell with another `seed` starts from the float network of seed 0.
    """

    table: str
    row: str
    column: str
    worth: str
    minutes: float
    seed: int = 0
    alone: bool = False
    settings: tuple[tuple[str, Any], ...] = ()  # instead of the table's

    @property
    def name(self) -> str:
        """The item's name, which is also its folder's."""
        seed = f"seed {self.seed}" if self.seed else ""
        text = f"{self.table} {self.row} {self.column} {seed}".lower()
        words = text.translate(str.maketrans("", "", "()'")).split()
        return "-".join(words)


@dataclass(frozen=True)
class Distillation:
    """A training of RB-SF 2 by configs/rbsf2.yaml, on what `rbsf.tools.gpu.distil` packs."""

    name: str
    worth: str
    minutes: float
    flags: tuple[str, ...]


Entry = Check | Training | Distillation
SMALL = "32-32-64-128"
WIDTHS = ("32-64-128-256", "64-64-128-256")
COLUMNS = ("Bi", "R", "R+G", "R+G+B")

RBSF2 = [
    Distillation("rbsf2", "RB-SF 2's long training", 15, ("--epochs", "40", "--workers", "12"))
]
CHECKS = [
    Check(
        "agreement",
        "benchmarks/step_agreement.py",
        "numbers of the GPU are those of the CPU",
        1.5,
        ("--device", "cpu", "--stages", "4-4-8-16", "--batch-size", "8", "--steps", "3"),
    ),
    Check(
        "speed",
        "benchmarks/step_speed.py",
        "images a second, where the time goes, gain from parallel trainings",
        4,
        ("--device", "cpu", "--stages", "4-4-8-16", "--batch-size", "16", "--seconds", "0.2"),
    ),
]
FIRST_ROW = [
    Training(
        "teachers",
        f"ResNet18 {SMALL}",
        "",
        "the float network that Table 2's first row starts from",
        5,
        alone=True,
    ),
    *(Training("table2", SMALL, column, "Table 2, first row", 9) for column in COLUMNS),
    Training(
        "table3",
        f"ResNet18 {SMALL}",
        "CIFAR-100",
        "the float network of Table 3, which XNOR starts from",
        5,
    ),
    Training("table3", f"XNOR (ResNet18) {SMALL}", "CIFAR-100", "XNOR-Net beside it", 6),
    Training("table3", f"PCNN (ResNet18) {SMALL}", "CIFAR-100", "PCNN beside it", 6),
    *(
        Training("table2", SMALL, column, f"Table 2, first row, seed {seed}", 9, seed)
        for seed in (1, 2)
        for column in COLUMNS
    ),
]
OTHER_ROWS = [
    entry
    for width in WIDTHS
    for entry in (
        Training(
            "teachers", f"ResNet18 {width}", "", f"the float network that {width} starts from", 8
        ),
        *(Training("table2", width, column, f"Table 2, row {width}", 14) for column in COLUMNS),
    )
]
WIDE = [
    Training(
        "teachers", "WRN22 64-64-128-256", "", "the float network that WRN-22 starts from", 15
    ),
    Training("table3", "RBCN (WRN22) 64-64-128-256", "CIFAR-100", "Table 3, RBCN with WRN-22", 25),
    Training(
        "table3",
        "Bi-Real (WRN22) 64-64-128-256",
        "CIFAR-100",
        "Table 3, Bi-Real Net with WRN-22",
        20,
    ),
    Training("table3", "PCNN (WRN22) 64-64-128-256", "CIFAR-100", "Table 3, PCNN with WRN-22", 20),
    Training(
        "teachers", "WRN40 64-64-128-256", "", "the float network that WRN-40 starts from", 25
    ),
    Training("table3", "RBCN (WRN40) 64-64-128-256", "CIFAR-100", "Table 3, RBCN with WRN-40", 40),
]
TABLES: list[Entry] = [*FIRST_ROW, *OTHER_ROWS, *WIDE]


def entries() -> list[Entry]:
    """The whole list."""
    return [*RBSF2, *CHECKS, *readings(), *TABLES]


def readings() -> list[Training]:
    """A training for each row of configs/tables/readings.yaml, the float networks first."""
    rows = [cell.row for cell in read_study("readings", {}).cells]
    rows.sort(key=lambda row: not row.startswith("float"))
    worth, settings = "a reading of the paper's method", (("epochs", 30),)
    return [Training("readings", row, "", worth, 2, settings=settings) for row in rows]


def make_items(
    data: Path, rehearse: bool = False, only: Sequence[str] = (), rbsf2: bool = True
) -> list[Item]:
    """The items for CIFAR-100 in the folder `data`, and with `rbsf2` the trainings of RB-SF 2.

    `only` keeps the items whose names hold one of these words, and what they need. `rehearse`
    shrinks each item to seconds on the CPU. Raises ValueError if no name holds a word of `only`.
    """
    items: list[Item] = []
    for entry in entries():
        if isinstance(entry, Check):
            items.append(_check_item(entry, rehearse))
        elif isinstance(entry, Training):
            items.append(_training_item(entry, data, rehearse, items))
        elif rbsf2:
            items.append(_distillation_item(entry, rehearse))
    return _chosen(items, only) if only else items


def _chosen(items: list[Item], words: Sequence[str]) -> list[Item]:
    """The items whose names hold one of `words`, and what they need."""
    names = [item.name for item in items]
    chosen = set()
    for word in words:
        found = {name for name in names if word in name}
        if not found:
            raise ValueError(f"--only {word!r}: no such item; there are {', '.join(names)}")
        chosen |= found
    needed = {name for item in items if item.name in chosen for name in item.needs}
    return [item for item in items if item.name in chosen | needed]


def any_reads_cifar(items: Sequence[Item]) -> bool:
    """Whether any of the items reads CIFAR-100, as all except the checks and RB-SF 2 do."""
    without = {check.name for check in CHECKS} | {entry.name for entry in RBSF2}
    return any(item.name not in without for item in items)


def _check_item(check: Check, rehearse: bool) -> Item:
    folder = str(Path("items", check.name))
    flags = check.rehearsal if rehearse else ()
    return Item(
        check.name,
        command=(str(ROOT / check.program), "--out", folder, *flags),
        worth=check.worth,
        minutes=check.minutes,
        alone=True,
        results=folder,
        most_minutes=3 * check.minutes,
    )


def _distillation_item(entry: Distillation, rehearse: bool) -> Item:
    teacher = ",".join(str(FOLDER / file) for file in TEACHER)
    results = str(Path("rbsf2", entry.name))
    command = [str(ROOT / "tools/train_rbsf.py"), "--model", "rbsf2", "--out", results]
    command += ["--teacher", teacher, "--data", str(FOLDER / PAIRS)]
    command += SMALL_RBSF2.split() if rehearse else entry.flags
    return Item(
        entry.name,
        command=tuple(command),
        worth=entry.worth,
        minutes=entry.minutes,
        alone=True,
        results=results,
        again=("--resume",),
    )


def _training_item(entry: Training, data: Path, rehearse: bool, before: list[Item]) -> Item:
    settings: dict[str, Any] = ON_GPU | dict(entry.settings)
    if rehearse:
        settings |= _rehearsal_settings(_config_of(entry, settings).stages)
    config = _config_of(entry, settings)
    if entry.seed and config.needs_teacher:
        first = folder_of(config.float_twin(), TRAININGS)
        settings["teacher"] = str(first / f"{config.model}.safetensors")
        config = _config_of(entry, settings)
    folder = folder_of(dataclasses.replace(config, seed=entry.seed), TRAININGS)
    command = [str(ROOT / "tools/reproduce.py"), entry.table, "--only", entry.row]
    command += ["--only", entry.column] if entry.column else []
    command += ["--seeds", str(entry.seed), "--root", str(data), "--out", str(TRAININGS)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    teacher = str(_teacher_folder(config))
    return Item(
        entry.name,
        command=tuple(command),
        worth=entry.worth,
        minutes=entry.minutes,
        needs=tuple(item.name for item in before if item.results == teacher),
        alone=entry.alone,
        results=str(folder),
    )


def _config_of(entry: Training, settings: dict[str, Any]) -> Any:
    configs = _configs(entry.table, tuple(settings.items()))
    return configs[entry.row, entry.column]


@cache
def _configs(table: str, settings: tuple[tuple[str, Any], ...]) -> dict[tuple[str, str], Any]:
    """The configurations of a table, by row and column, with `settings` in all of them."""
    cells = read_study(table, dict(settings)).cells
    return {(cell.row, cell.column): cell.config for cell in cells}


def _teacher_folder(config: Any) -> Path | None:
    """The folder of the float network that a 1-bit one starts from; None if there is none."""
    if config.teacher:
        return Path(config.teacher).parent
    if config.needs_teacher:
        return folder_of(config.float_twin(), TRAININGS)
    return None


def _rehearsal_settings(stages: str) -> dict[str, Any]:
    """Settings to rehearse the training of a network with these stages."""
    widths = [int(width) // SHRUNK for width in stages.split("-")]
    return REHEARSAL | {"stages": "-".join(map(str, widths))}
