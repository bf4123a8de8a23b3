"""A table of trackers: its trainings, tracked over test sets as by eval/run_benchmarks.py, and
their scores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rbsf.eval.benchmarks import Split
from rbsf.eval.evaluation import Benchmark, failures, find
from rbsf.eval.run_benchmarks import DATASETS
from rbsf.eval.summary import summarise
from rbsf.eval.tables import Cell as TextCell
from rbsf.eval.tables import Table, markdown_text, number
from rbsf.eval.trackers import TrackerSpec, parse_tracker
from rbsf.system.files import write_atomically
from rbsf.tools.studies import Study, folder_of, state_of
from rbsf.tracker.flags import read_constants
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.device import choose_device, dtype_of

Trained = tuple[str, int]  # row, seed
METRICS = {"auc": "AUC", "precision": "precision"}


@dataclass(frozen=True)
class EvalSet:
    """A benchmark that trainings are tracked over, and how; `constants`: a file, None for the
    defaults.
    """

    dataset: str
    root: Path
    split: Split
    out: Path
    workers: int = 0
    constants: Path | None = None


@dataclass(frozen=True)
class Scored:
    """What the trainings reached on a test set, `auc` and `precision` as shares; `failed`:
    sequences left out.
    """

    title: str
    scores: dict[Trained, dict[str, float]]
    failed: tuple[str, ...] = ()


def open_test(
    text: str,
    out: Path,
    workers: int | None = None,
    constants: Path | None = None,
    every: int | None = None,
    frames: int | None = None,
) -> EvalSet:
    """`NAME=ROOT`, or NAME for the usual place; FileNotFoundError, or ValueError for no such
    benchmark.

    The others are flags of eval/run_benchmarks.py; errors of the constants as `read_constants` has
    them.
    """
    name, _, root = text.partition("=")
    if name not in DATASETS:
        raise ValueError(f"--test {text!r}: write NAME=ROOT, NAME one of {', '.join(DATASETS)}")
    read_constants(
        constants
    )  # the trackers are made after the trainings: what is wrong with it is said now
    place, split = find(name, Path(root) if root else None, out, None, every, frames)
    return EvalSet(name, place, split, out, workers or 0, constants)


def track(test: EvalSet, study: Study, seeds: list[int], out: Path) -> Scored:
    """Track with every training that is done, unless its results are there; packed networks run
    packed.

    A network trained for a correlation of signs is tracked with one.
    """
    files: dict[Path, list[Trained]] = {}  # rows of the same settings share one
    by_signs: list[bool] = []  # a file each
    for cell in study.cells:
        for seed in seeds:
            config = dataclasses.replace(cell.config, seed=seed)
            if state_of(config, out) == "done":
                file = folder_of(config, out) / config.result_file
                by_signs += [config.correlation_bits] if file not in files else []
                files.setdefault(file, []).append((cell.row, seed))
    if not files:
        return Scored(test.split.title, {})
    names = [f"{row.replace('=', ' ')}, seed {seed}" for (row, seed), *_ in files.values()]
    specs = [
        _spec(name, file, test, signs)
        for name, file, signs in zip(names, files, by_signs, strict=True)
    ]
    benchmark = Benchmark(
        test.dataset, test.split, test.root, tuple(specs), test.out, workers=test.workers
    )
    benchmark.run()
    report = summarise(test.split, benchmark.entrants(), None, {}, ({}, {}))
    scores = {
        trained: {metric: tracker["mean"][metric] for metric in METRICS}
        for tracker, names in zip(report["trackers"], files.values(), strict=True)
        if tracker["mean"]
        for trained in names
    }
    return Scored(test.split.title, scores, tuple(failures(report)))


def _spec(name: str, file: Path, test: EvalSet, by_signs: bool) -> TrackerSpec:
    """The tracker of a training's file, which correlates the signs of features where it was trained
    for that.
    """
    precision = str(dtype_of("auto", choose_device("auto"))).removeprefix("torch.")
    spec = parse_tracker(f"{name}={file}", precision, "auto", read_constants(test.constants))
    if not by_signs:
        return spec
    assert isinstance(spec.config, TrackerConfig)  # RB-SF 2 is in no table of the paper's
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, correlation="bits"))


def as_markdown(study: Study, seeds: list[int], out: Path, tests: list[Scored]) -> str:
    """Seeds and pairs of each row; on each test set AUC, its difference from the first row's, and
    precision.

    Means over the seeds, ± their deviation.  The difference is of the same seeds, so that what
    these share cancels.
    """
    rows = []
    for cell in study.cells:
        done = sum(
            state_of(dataclasses.replace(cell.config, seed=seed), out) == "done" for seed in seeds
        )
        pairs = f"{cell.config.loop.epochs} x {cell.config.pairs:,}"
        row = [
            TextCell(cell.row),
            TextCell(str(done) if done else "not run", done),
            TextCell(pairs, 0),
        ]
        for test in tests:
            own, first = (
                {s: test.scores.get((name, s), {}) for s in seeds}
                for name in (cell.row, study.cells[0].row)
            )
            auc, precision = ([own[s][m] for s in seeds if m in own[s]] for m in METRICS)
            gaps = [own[s]["auc"] - first[s]["auc"] for s in seeds if own[s] and first[s]]
            row += [
                _figure(auc),
                _figure(gaps if cell is not study.cells[0] else [], "+.3f"),
                _figure(precision),
            ]
        rows.append(row)
    groups = (("", 3), *((test.title, 3) for test in tests))
    columns = ["", "seeds", "pairs", *["AUC", "difference", "precision"] * len(tests)]
    failed = [f"Left out on {test.title}: {line}" for test in tests for line in test.failed]
    text = [
        markdown_text(study.title),
        str(Table("", columns, rows, groups)),
        *map(markdown_text, failed),
    ]
    return "\n\n".join(text) + "\n"


def _figure(values: list[float], form: str = ".3f") -> TextCell:
    """Mean ± deviation; the sign of a difference is not that of its deviation."""
    cell = number(mean(values) if values else None, form)
    return (
        dataclasses.replace(cell, text=f"{cell.text} ± {stdev(values):.3f}")
        if len(values) > 1
        else cell
    )


def plot(study: Study, seeds: list[int], tests: list[Scored], path: Path) -> bool:
    """Draw the AUC on each test set: a point for each seed, a bar for their mean; False where there
    is none.
    """
    from matplotlib.figure import Figure

    tests = [test for test in tests if test.scores]
    if not tests:
        return False
    names = list(dict.fromkeys(cell.row for cell in study.cells))
    figure = Figure(figsize=(2 + 3.5 * len(tests), 1.2 + 0.4 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tests), sharey=True, squeeze=False)[0]
    for axes, test in zip(panels, tests, strict=True):
        for place, name in enumerate(names):
            values = [
                test.scores[name, seed]["auc"] for seed in seeds if (name, seed) in test.scores
            ]
            axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.6)
            if values:
                axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color="C1", linewidth=2.5)
        axes.set(title=test.title, xlabel="AUC", ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.grid(alpha=0.3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
    return True


def finish(
    study: Study, seeds: list[int], out: Path, tests: list[EvalSet], name: str
) -> tuple[str, int]:
    """Track, and draw OUT/NAME.png: the table's text, and 1 where something was left out."""
    scored = [track(test, study, seeds, out) for test in tests]
    text = as_markdown(study, seeds, out, scored)
    if plot(study, seeds, scored, picture := out / f"{name}.png"):
        text += f"\n![AUC, a point for each seed and a bar for their mean]({picture.name})\n"
    return text, int(any(test.failed for test in scored))
