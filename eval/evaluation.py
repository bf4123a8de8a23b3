"""Run trackers over a benchmark, score them and write the report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rbsf.eval import MAX_WORKERS
from rbsf.eval.attributes import attributes_of
from rbsf.eval.benchmarks import BENCHMARKS, Split, default_root, find_split
from rbsf.eval.metrics import GOT10K
from rbsf.eval.passes import in_passes
from rbsf.eval.report import write_report
from rbsf.eval.report_form import Report
from rbsf.eval.results import ResultStore, read_result_folder
from rbsf.eval.runner import Job, pending, run_jobs
from rbsf.eval.strips import make_strips
from rbsf.eval.submission import SERVER, write_submission
from rbsf.eval.summary import Entrant, Reader, summarise
from rbsf.eval.trackers import NetworkSpec, TrackerSpec, check_labels
from rbsf.system.environment import cores, environment

SYNTHETIC = {"count": 8, "seed": 1000, "frames": 100}


@dataclass(frozen=True)
class Benchmark:
    """Trackers to run over a benchmark; results lie in OUT/results/DATASET/TRACKER-DIGEST."""

    split: Split  # the available sequences
    root: Path | None  # folder of the sequences; None for boxes without images
    specs: tuple[TrackerSpec, ...]
    out: Path
    repeat: int = 1  # runs of each tracker
    workers: int = 0  # processes; 0: one a core, at most MAX_WORKERS
    threads: int = 0  # threads of each process; 0: the cores divided by the processes
    resume: bool = True  # keep results that are there
    shard: tuple[int, int] | None = None  # (I, N): run part I of N
    others: tuple[Entrant, ...] = field(default=())  # trackers whose boxes exist already
    reference: str | None = None  # label of the tracker that gaps are measured to
    whole: bool = True  # False if sequences were chosen by name

    def __post_init__(self) -> None:
        """Raise ValueError for two trackers of one label, and for an unknown reference."""
        check_labels(self.labels)
        others = self.labels[1:]
        if self.reference and self.reference not in others:
            known = ", ".join(others) or "of which there is none"
            raise ValueError(f"--reference {self.reference}: give another of the trackers, {known}")

    @property
    def labels(self) -> list[str]:
        """Labels of all trackers, in the order of the report."""
        return [spec.label for spec in self.specs] + [entrant.label for entrant in self.others]

    @cached_property
    def stores(self) -> dict[TrackerSpec, ResultStore]:
        """The store of each tracker's results."""
        if not self.specs or self.root is None:
            return {}
        benchmark = BENCHMARKS[self.split.dataset]
        folder = self.out / "results" / (benchmark.folder or self.root.resolve().name)
        per_sequence = benchmark.protocol is GOT10K
        return {spec: ResultStore(folder / spec.key(), per_sequence) for spec in self.specs}

    @property
    def used_workers(self) -> int:
        """Number of processes that track."""
        return self.workers or min(MAX_WORKERS, cores())

    @property
    def used_threads(self) -> int:
        """Number of threads of each process."""
        return self.threads or max(1, cores() // self.used_workers)

    def jobs(self) -> list[Job]:
        """All runs, or those of the shard."""
        sequences = self.split.sequences
        if self.shard:
            part, parts = self.shard
            longest_first = sorted(sequences, key=lambda s: (-len(s), s.name))
            sequences = longest_first[part - 1 :: parts]
        jobs = []
        for spec, store in self.stores.items():
            for sequence in sequences:
                for number in self._runs:
                    jobs.append(Job(spec, store, sequence, number, store.folder.name))
        return jobs

    @property
    def _runs(self) -> range:
        """Numbers of a tracker's runs, from 1."""
        return range(1, self.repeat + 1)

    def run(self) -> int:
        """Do the runs that have no result yet. Returns how many have none afterwards."""
        jobs = self.jobs()
        run_jobs(jobs, self.used_workers, self.used_threads, self.split.dataset, self.resume)
        return len(pending(jobs))

    def entrants(self) -> list[Entrant]:
        """All trackers of the report."""
        own = [self._entrant(spec, store) for spec, store in self.stores.items()]
        return [*own, *self.others]

    def _entrant(self, spec: TrackerSpec, store: ResultStore) -> Entrant:
        readers: list[Reader] = [partial(store.load, number=number) for number in self._runs]
        return Entrant(
            spec.label,
            store.folder.name,
            readers,
            size=spec.size(),
            precision=spec.arithmetic,
            constants=spec.constants,
            failures=store.failures(),
        )

    def scores(self) -> Report:
        """The report's contents, see `rbsf.eval.report`."""
        processes = {"workers": 0, "threads": 0}
        if self.specs:
            processes = {"workers": self.used_workers, "threads": self.used_threads}
        attributes = attributes_of(self.split.dataset, self.root, self.split.sequences)
        about = environment() | processes
        reference = self.reference or self._float_tracker()
        return summarise(self.split, self.entrants(), reference, about, attributes)

    def report(self) -> Report:
        """Score all trackers and write the report below OUT/reports; returns its contents."""
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
        """Label of the first float SiamFC after the first tracker."""
        networks = [spec for spec in self.specs[1:] if isinstance(spec, NetworkSpec)]
        in_pytorch = [spec for spec in networks if spec.engine == "torch"]
        if not in_pytorch:
            return None
        # This loads PyTorch, which packed networks do not need.
        from rbsf.tracker.weights import read_weights

        for spec in in_pytorch:
            _, model, _ = read_weights(spec.files[0])
            if model == "siamfc":
                return spec.label
        return None

    def _boxes(self) -> dict[str, dict[str, Any]]:
        """Boxes of every tracker's first run: {label: {sequence: [N, 4]}}."""
        return {entrant.label: self._first_boxes(entrant) for entrant in self.entrants()}

    def _first_boxes(self, entrant: Entrant) -> dict[str, Any]:
        """Boxes of a tracker's first run, without those that cannot be read."""
        boxes = {}
        for sequence in self.split.sequences:
            with suppress(ValueError, OSError):
                run = entrant.runs[0](sequence)
                if run is not None:
                    boxes[sequence.name] = run.boxes
        return boxes


def open_split(
    dataset: str,
    root: Path | None,
    out: Path,
    names: list[str] | None,
    every: int | None,
    frames: int | None,
) -> tuple[Path, Split]:
    """Find a benchmark's folder and its available sequences, in passes if asked for.

    `root`: None for the usual place. The synthetic benchmark is made below `out` if no `root` is
    given. Raises the errors of `find_split`.
    """
    if dataset == "synthetic":
        root = root or out / "synthetic"
        make_synthetic(root)
    root = root or default_root(dataset)
    return root, in_passes(find_split(dataset, root, names), every, frames)


def make_synthetic(root: Path) -> None:
    """Make the videos of the synthetic benchmark that are not there yet.

    Raises ValueError if `root` holds anything else.
    """
    from rbsf.datasets.synthetic.videos import check_own_folder, video_name, write_video

    first = SYNTHETIC["seed"]
    seeds = range(first, first + SYNTHETIC["count"])
    check_own_folder(root, [video_name(seed) + end for seed in seeds for end in (".mp4", ".txt")])
    for seed in seeds:
        path = root / f"{video_name(seed)}.mp4"
        if not path.with_suffix(".txt").is_file():  # written last
            write_video(path, seed, SYNTHETIC["frames"])


def given_results(texts: list[str], split: Split) -> tuple[Entrant, ...]:
    """Trackers whose boxes for a split's sequences exist, each given as LABEL=DIR.

    Raises ValueError for another form and for a folder without results, FileNotFoundError if there
    is no such folder.
    """
    names = {sequence.name for sequence in split.sequences}
    found = []
    for text in texts:
        label, _, folder = text.partition("=")
        if not label or not folder:
            raise ValueError(f"--results {text!r}: write LABEL=DIR")
        path = Path(folder)
        found.append(Entrant(label, path.name, [read_result_folder(path, names)]))
    return tuple(found)
