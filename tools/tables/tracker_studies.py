"""Tables of trackers: each training tracks over test sets, as in eval/run_benchmarks.py."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rbsf.eval.benchmarks import BENCHMARKS, Split
from rbsf.eval.evaluation import Benchmark, open_split
from rbsf.eval.report import failures
from rbsf.eval.summary import summarise
from rbsf.eval.tables import Cell, Table, average, markdown_text
from rbsf.eval.trackers import NetworkSpec, TrackerSpec, parse_tracker
from rbsf.system.files import write_atomically
from rbsf.tools.tables.studies import Study, Training, folder_of, state_of
from rbsf.tracker.flags import read_constants
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.device import choose_device, dtype_of, name_of

Trained = tuple[str, int]  # row, seed
METRICS = {"auc": "AUC", "precision": "precision"}


@dataclass(frozen=True)
class EvalSet:
    """A benchmark over which trainings track, and how."""

    root: Path
    split: Split
    out: Path
    workers: int = 0
    constants: Path | None = None  # a file; None for the defaults


@dataclass(frozen=True)
class Scored:
    """The scores of the trainings on a test set."""

    title: str
    scores: dict[Trained, dict[str, float]]  # for each of METRICS, from 0 to 1
    failed: tuple[str, ...] = ()  # a line for each sequence that was left out


def open_test(
    text: str,
    out: Path,
    workers: int | None = None,
    constants: Path | None = None,
    every: int | None = None,
    frames: int | None = None,
) -> EvalSet:
    """Open the benchmark of `NAME=ROOT`, or of NAME in its default folder.

    The other arguments are flags of eval/run_benchmarks.py. Raises ValueError if there is no such
    benchmark, FileNotFoundError if its folder is missing, and the errors of `read_constants`.
    """
    name, _, root = text.partition("=")
    if name not in BENCHMARKS:
        raise ValueError(f"--test {text!r}: write NAME=ROOT, NAME one of {', '.join(BENCHMARKS)}")
    # Checked now, because trackers are only made after the trainings.
    read_constants(constants, TrackerConfig)
    place, split = open_split(name, Path(root) if root else None, out, None, every, frames)
    return EvalSet(place, split, out, workers or 0, constants)


def track(test: EvalSet, study: Study, seeds: list[int], out: Path) -> Scored:
    """Track with every finished training, unless its results are there.

    Packed networks run packed. A network trained for the correlation of signs also tracks with it.
    """
    files: dict[Path, list[Trained]] = defaultdict(list)  # rows with the same settings share one
    by_signs: dict[Path, bool] = {}
    for cell in study.cells:
        for seed in _done_seeds(cell, seeds, out):
            config = dataclasses.replace(cell.config, seed=seed)
            file = folder_of(config, out) / config.result_file
            files[file].append((cell.row, seed))
            by_signs.setdefault(file, config.correlation_bits)
    if not files:
        return Scored(test.split.title, {})
    specs = []
    for file, trained in files.items():
        row, seed = trained[0]
        name = f"{row.replace('=', ' ')}, seed {seed}"
        specs.append(_spec(name, file, test, by_signs[file]))
    benchmark = Benchmark(test.split, test.root, tuple(specs), test.out, workers=test.workers)
    benchmark.run()
    report = summarise(test.split, benchmark.entrants(), None, {}, ({}, {}))
    scores: dict[Trained, dict[str, float]] = {}
    for tracker, trained in zip(report["trackers"], files.values(), strict=True):
        if tracker["mean"]:
            found = {metric: tracker["mean"][metric] for metric in METRICS}
            scores |= dict.fromkeys(trained, found)
    return Scored(test.split.title, scores, tuple(failures(report)))


def _done_seeds(cell: Training, seeds: list[int], out: Path) -> list[int]:
    """The seeds whose training of a row is done."""
    done = []
    for seed in seeds:
        config = dataclasses.replace(cell.config, seed=seed)
        if state_of(config, out) == "done":
            done.append(seed)
    return done


def _spec(name: str, file: Path, test: EvalSet, by_signs: bool) -> TrackerSpec:
    """The tracker of a training's file; with `by_signs` it correlates the signs of features."""
    precision = name_of(dtype_of("auto", choose_device("auto")))
    spec = parse_tracker(f"{name}={file}", precision, "auto", test.constants)
    if not by_signs:
        return spec
    assert isinstance(spec, NetworkSpec)  # for the type checker
    assert isinstance(spec.config, TrackerConfig)  # RB-SF 2 is in no table of the paper's
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, correlation="bits"))


def as_markdown(study: Study, seeds: list[int], out: Path, tests: list[Scored]) -> str:
    """A table of each row's seeds, pairs and, on each test set, AUC, difference and precision.

    These are means over the seeds, ± their deviation. The difference is the AUC minus the first
    row's, seed by seed, so that a seed's common effect on both cancels.
    """
    rows = []
    for cell in study.cells:
        done = len(_done_seeds(cell, seeds, out))
        pairs = f"{cell.config.loop.epochs} x {cell.config.pairs:,}"
        count = Cell(str(done) if done else "not run", done)
        row = [Cell(cell.row), count, Cell(pairs, 0)]
        for test in tests:
            row += _test_cells(test, cell, study.cells[0], seeds)
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


def _test_cells(test: Scored, cell: Training, first: Training, seeds: list[int]) -> list[Cell]:
    """A row's AUC on a test set, its difference from that of the row `first`, and precision."""
    own, others = _scores_by_seed(test, cell, seeds), _scores_by_seed(test, first, seeds)
    scored = [seed for seed in seeds if seed in own]
    auc = [own[seed]["auc"] for seed in scored]
    precision = [own[seed]["precision"] for seed in scored]
    gaps = [own[seed]["auc"] - others[seed]["auc"] for seed in scored if seed in others]
    if cell is first:
        gaps = []
    return [average(auc), average(gaps, "+.3f"), average(precision)]


def _scores_by_seed(test: Scored, cell: Training, seeds: list[int]) -> dict[int, dict[str, float]]:
    """The scores of a row on a test set, by seed, for the seeds that have some."""
    return {seed: test.scores[cell.row, seed] for seed in seeds if (cell.row, seed) in test.scores}


def plot(study: Study, seeds: list[int], tests: list[Scored], path: Path) -> bool:
    """Draw the AUC on each test set: a point for each seed, a bar for their mean.

    Returns False, and draws nothing, if there are no scores.
    """
    from matplotlib.figure import Figure

    tests = [test for test in tests if test.scores]
    if not tests:
        return False
    rows = {cell.row: cell for cell in study.cells}
    figure = Figure(figsize=(2 + 3.5 * len(tests), 1.2 + 0.4 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(tests), sharey=True, squeeze=False)[0]
    for axes, test in zip(panels, tests, strict=True):
        for place, cell in enumerate(rows.values()):
            values = [scores["auc"] for scores in _scores_by_seed(test, cell, seeds).values()]
            axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.6)
            if values:
                axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color="C1", linewidth=2.5)
        axes.set(title=test.title, xlabel="AUC", ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), list(rows), parse_math=False)
        axes.grid(alpha=0.3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
    return True


def finish(
    study: Study, seeds: list[int], out: Path, tests: list[EvalSet], name: str
) -> tuple[str, int]:
    """Track, and draw OUT/NAME.png; returns the table's text, and 1 if a sequence failed."""
    scored = [track(test, study, seeds, out) for test in tests]
    text = as_markdown(study, seeds, out, scored)
    picture = out / f"{name}.png"
    if plot(study, seeds, scored, picture):
        text += f"\n![AUC, a point for each seed and a bar for their mean]({picture.name})\n"
    return text, int(any(test.failed for test in scored))
