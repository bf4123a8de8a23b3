"""Trackers over a benchmark: tracked, scored, reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.attributes import attributes_of
from rbsf.eval.benchmarks import BENCHMARKS, Split, default_root, find_split
from rbsf.eval.metrics import GOT10K
from rbsf.eval.passes import in_passes
from rbsf.eval.report import write_report
from rbsf.eval.results import ResultStore, read_result_folder
from rbsf.eval.runner import Job, pending, run_jobs
from rbsf.eval.strips import make_strips
from rbsf.eval.submission import SERVER, write_submission
from rbsf.eval.summary import Entrant, summarise
from rbsf.eval.trackers import TrackerSpec
from rbsf.system.environment import cores, environment
from rbsf.system.files import write_atomically

MAX_WORKERS = 8  # by default: each takes some 400 MB
SYNTHETIC = {"count": 8, "seed": 1000, "frames": 100}


@dataclass(frozen=True)
class Benchmark:
    """What is run of a benchmark, and how; results lie in OUT/results/DATASET/TRACKER-DIGEST."""

    dataset: str  # a key of `BENCHMARKS`
    split: Split  # its sequences that are at hand
    root: Path | None  # where these lie; None where there are boxes alone
    specs: tuple[TrackerSpec, ...]
    out: Path
    repeat: int = 1  # runs of each tracker
    workers: int = 0  # processes; 0: one a core, at most MAX_WORKERS
    threads: int = 0  # of each process; 0: the cores divided by the processes
    resume: bool = True  # keep results that are there
    shard: tuple[int, int] | None = None  # (I, N): run part I of N
    others: tuple[Entrant, ...] = field(default=())  # trackers whose boxes exist already
    reference: str | None = None  # label of the tracker that gaps are measured to
    whole: bool = True  # whether no sequences were chosen by name

    def __post_init__(self) -> None:
        """ValueError for trackers of one label, and a reference that is none of them."""
        for label, count in Counter(self.labels).items():
            if count > 1:
                raise ValueError(
                    f"{count} trackers are called {label}; give them labels: --tracker LABEL=WHAT"
                )
        if self.reference and self.reference not in self.labels[1:]:
            others = ", ".join(self.labels[1:]) or "of which there is none"
            raise ValueError(
                f"--reference {self.reference}: give another of the trackers, {others}"
            )

    @property
    def labels(self) -> list[str]:
        """Of all trackers."""
        return [spec.label for spec in self.specs] + [entrant.label for entrant in self.others]

    @cached_property
    def stores(self) -> dict[TrackerSpec, ResultStore]:
        """Where each tracker's results lie."""
        if not self.specs or self.root is None:
            return {}
        benchmark = BENCHMARKS[self.dataset]
        folder = self.out / "results" / (benchmark.folder or self.root.resolve().name)
        return {
            spec: ResultStore(folder / spec.key(), benchmark.protocol is GOT10K)
            for spec in self.specs
        }

    @property
    def used_workers(self) -> int:
        """Processes that track."""
        return self.workers or min(MAX_WORKERS, cores())

    @property
    def used_threads(self) -> int:
        """Threads of each of them."""
        return self.threads or max(1, cores() // self.used_workers)

    def jobs(self) -> list[Job]:
        """All runs, or those of the shard."""
        sequences = self.split.sequences
        if self.shard:
            part, count = self.shard
            sequences = sorted(sequences, key=lambda s: (-len(s), s.name))[part - 1 :: count]
        return [
            Job(spec, store, sequence, number + 1, store.folder.name)
            for spec, store in self.stores.items()
            for sequence in sequences
            for number in range(self.repeat)
        ]

    def run(self) -> int:
        """Track what has no result yet; how many runs have none in the end."""
        jobs = self.jobs()
        run_jobs(jobs, self.used_workers, self.used_threads, self.dataset, self.resume)
        return len(pending(jobs))

    def entrants(self) -> list[Entrant]:
        """All trackers of the report."""
        own = [
            Entrant(
                spec.label,
                store.folder.name,
                [partial(store.load, number=number + 1) for number in range(self.repeat)],
                spec.size(),
                spec.arithmetic,
                store.failures(),
            )
            for spec, store in self.stores.items()
        ]
        return [*own, *self.others]

    def scores(self) -> dict[str, Any]:
        """The report's contents, see `rbsf.eval.report`."""
        ran = bool(self.specs)
        numbers = {
            "workers": self.used_workers if ran else 0,
            "threads": self.used_threads if ran else 0,
        }
        attributes = attributes_of(self.dataset, self.root, self.split.sequences)
        about = environment() | numbers
        return summarise(
            self.split, self.entrants(), self.reference or self._float_tracker(), about, attributes
        )

    def report(self) -> dict[str, Any]:
        """Score all and write the report below OUT/reports; its contents."""
        found = self.scores()
        strips = make_strips(self.split.sequences, found, self._boxes()) if self.root else []
        folder = self.out / "reports" / self.split.name
        write_report(found, folder, strips)
        print(f"report: {folder / 'report.html'}")
        return found

    def submit(self) -> None:
        """Write the archive for GOT-10k's server, if the whole test split was run."""
        if self.split.missing or not self.whole or self.split.passes:
            print(f"no submission to GOT-10k's server: {self.split.title}")
            return
        for store in self.stores.values():
            path = store.folder.with_name(f"{store.folder.name}.zip")
            write_submission(path, store, self.split.sequences, self.repeat)
            print(f"submission: {path}; how to hand it in: {SERVER}")

    def _float_tracker(self) -> str | None:
        """Label of the first float SiamFC but the subject."""
        networks = [spec for spec in self.specs[1:] if spec.is_network and spec.engine == "torch"]
        if not networks:
            return None
        from rbsf.tracker.teachers.siamfc import (
            load_tracker,
        )  # loads PyTorch, which packed networks need not

        return next(
            (spec.label for spec in networks if load_tracker(spec.files[0])[1] == "siamfc"), None
        )

    def _boxes(self) -> dict[str, dict[str, Any]]:
        """Boxes of every tracker's first run: {label: {sequence: (N, 4)}}; without those that
        cannot be read.
        """

        def load(read: Callable[[Sequence], Any], sequence: Sequence) -> Any:
            try:
                return read(sequence)
            except (ValueError, OSError):
                return None

        runs = {
            e.label: {s.name: load(e.runs[0], s) for s in self.split.sequences}
            for e in self.entrants()
        }
        return {
            label: {name: run.boxes for name, run in rows.items() if run}
            for label, rows in runs.items()
        }


def find(
    dataset: str,
    root: Path | None,
    out: Path,
    names: list[str] | None,
    every: int | None,
    frames: int | None,
) -> tuple[Path, Split]:
    """Where a benchmark lies and what of it is at hand, in passes where they are asked for; makes
    the synthetic one.

    `root`: None for the usual place.  Errors as `find_split` has them.
    """
    if dataset == "synthetic":
        root = root or out / "synthetic"
        make_synthetic(root)
    root = root or default_root(dataset)
    return root, in_passes(find_split(dataset, root, names), every, frames)


def make_synthetic(root: Path) -> None:
    """Make the videos of the synthetic benchmark that are not there yet."""
    from rbsf.datasets.synthetic.videos import video_name, write_video

    for seed in range(SYNTHETIC["seed"], SYNTHETIC["seed"] + SYNTHETIC["count"]):
        path = root / f"{video_name(seed)}.mp4"
        if not path.with_suffix(".txt").is_file():  # written last
            write_video(path, seed, SYNTHETIC["frames"])


def shown(texts: list[str]) -> tuple[Entrant, ...]:
    """Trackers whose boxes exist, each LABEL=DIR; ValueError or FileNotFoundError where there are
    none.
    """
    found = []
    for text in texts:
        label, given, folder = text.partition("=")
        if not (given and label and folder):
            raise ValueError(f"--results {text!r}: write LABEL=DIR")
        found.append(Entrant(label, Path(folder).name, [read_result_folder(Path(folder))]))
    return tuple(found)


def failures(report: dict[str, Any]) -> list[str]:
    """Everything that went wrong, a line each."""
    lines = [f"{name}: {why}" for name, why in report["unreadable"].items()]
    for row in report["trackers"]:
        lines += [f"{row['label']}: {name}: {why}" for name, why in row["failed"].items()]
    return lines


def write_json(report: dict[str, Any], path: Path) -> None:
    """A further copy of report.json."""
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
