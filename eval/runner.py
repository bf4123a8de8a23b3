"""Run trackers over sequences, in parallel if wanted; boxes go to text files, from which a run is resumed.

A kept result is taken up only where all that defines it is the same: the folder's name holds a digest of the
weights' bytes and of ``TrackerConfig``, and the precision; the first line of ``NAME_time.txt`` holds a digest of the
sequence's place, length and first box. Anything else is run again. The program's code is in no digest: after a
change of it give another folder.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from datasets.sequences import Sequence
from eval.metrics import Scores, score_sequence
from tracker.backbones import load_backbone, set_threads
from tracker.siamfc import Result, SiamFC, TrackerConfig


class Tracker(Protocol):
    """What can be run: ``tracker.siamfc.SiamFC`` and anything with its two methods."""

    def init(self, image: np.ndarray, box: np.ndarray) -> object:
        """Learn the target in ``box`` (x,y,w,h) of the first frame, H x W x 3 uint8 RGB."""

    def update(self, image: np.ndarray) -> Result:
        """Find it in the next frame."""


class StaticTracker:
    """Says that the target never moves: the floor under every benchmark."""

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Keep the box."""
        self._box = np.asarray(box, dtype=np.float64)

    def update(self, image: np.ndarray) -> Result:
        """Return the kept box."""
        return Result(self._box.copy(), 1.0, False)


@dataclass(frozen=True)
class TrackerSpec:
    """Which tracker to run, small enough to be sent to a worker process."""

    weights: Path | None  # a file of ``rbsf.weights.load_weights``; None = the static tracker
    precision: str = "float32"
    device: str = "cpu"

    @property
    def label(self) -> str:
        """Name in tables."""
        return "static" if self.weights is None else self.weights.stem

    def folder_name(self) -> str:
        """Name of its results folder, with a digest of weights and constants: no others' boxes are reused."""
        if self.weights is None:
            return self.label
        digest = hashlib.sha256(self.weights.read_bytes() + repr(TrackerConfig()).encode()).hexdigest()[:8]
        return f"{self.label}-{digest}" + ("" if self.precision == "float32" else f"-{self.precision}")

    def build(self) -> Tracker:
        """Load the weights. Raises ValueError or FileNotFoundError for a file that cannot be used."""
        if self.weights is None:
            return StaticTracker()
        return SiamFC(load_backbone(self.weights, self.device, self.precision), name=self.label)


@dataclass(frozen=True)
class Run:
    """A tracker's boxes x,y,w,h (N, 4) in a sequence and its ``seconds`` per frame (N,), without decoding."""

    boxes: np.ndarray
    seconds: np.ndarray


def track_sequence(tracker: Tracker, sequence: Sequence) -> Run:
    """Start on the true box of the first annotated frame and follow the target to the end: one-pass evaluation.

    Boxes of the frames before it are zeros. Raises ValueError, naming the sequence, where no frame has a box.
    """
    boxes, seconds = np.zeros((len(sequence), 4)), np.zeros(len(sequence))
    annotated = _annotated(sequence)
    if not len(annotated):
        raise ValueError(f"sequence {sequence.name}: none of its {len(sequence)} frames has a box to start on")
    first = int(annotated[0])
    boxes[first] = sequence.boxes[first]
    for i, image in enumerate(islice(sequence, first, None), first):
        start = time.perf_counter()
        if i == first:
            tracker.init(image, boxes[first])
        else:
            boxes[i] = tracker.update(image).box
        seconds[i] = time.perf_counter() - start
    return Run(boxes, seconds)


def fingerprint(sequence: Sequence) -> str:
    """Digest of what a tracker's boxes depend on: where the frames lie, how many they are, and the first box."""
    start = sequence.boxes[_annotated(sequence)[:1]].tolist()
    what = f"{Path(sequence.frames[0]).resolve()} {len(sequence)} {start}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def save_run(run: Run, folder: Path, sequence: Sequence) -> None:
    """Write ``NAME.txt`` (x,y,w,h, 0-based), then ``NAME_time.txt`` (fingerprint, seconds), a line per frame."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes, times = _files(folder, sequence)
    for path, rows, head, form in ((boxes, run.boxes, "", "%.4f"), (times, run.seconds, fingerprint(sequence), "%.6f")):
        part = path.with_name(path.name + ".part")
        np.savetxt(part, rows, fmt=form, delimiter=",", header=head)
        os.replace(part, path)


def load_run(folder: Path, sequence: Sequence) -> Run | None:
    """Read what ``save_run`` wrote; None if there is none, or one of other frames or another first box.

    Raises ValueError, naming the file, for a damaged one.
    """
    path, times = _files(folder, sequence)
    if not path.exists() or not times.exists():
        return None
    if times.read_text().partition("\n")[0] != f"# {fingerprint(sequence)}":
        return None
    try:
        boxes = np.loadtxt(path, delimiter=",", ndmin=2)
        seconds = np.loadtxt(times, ndmin=1)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to run the sequence again") from error
    if boxes.shape != (len(sequence), 4) or len(seconds) != len(boxes):
        raise ValueError(
            f"{path} holds {len(boxes)} boxes but the sequence {len(sequence)} frames; delete it to run again"
        )
    return Run(boxes, seconds)


def run_tracker(
    spec: TrackerSpec, sequences: list[Sequence], folder: Path, workers: int = 1, threads: int = 1
) -> dict[str, str]:
    """Track each sequence that has no result in ``folder`` yet; a progress bar counts frames.

    ``workers`` processes with one thread each, or, at 1, this process with ``threads``. A sequence that
    cannot be read does not stop the others. Returns {name: what went wrong}. Raises ValueError for weights
    that cannot be loaded.
    """
    todo = [sequence for sequence in sequences if load_run(folder, sequence) is None]
    failed: dict[str, str] = {}
    total = sum(map(len, sequences))
    done = total - sum(map(len, todo))
    with tqdm(total=total, initial=done, desc=spec.label, unit="frame", smoothing=0.05) as bar:
        for sequence, error in _finished(spec, todo, folder, workers, threads):
            if error:
                failed[sequence.name] = error
            bar.update(len(sequence))
    return failed


def score_runs(sequences: list[Sequence], folder: Path) -> tuple[dict[str, Scores], float]:
    """Score the runs kept in ``folder``: ({name: scores}, frames per second without decoding).

    Sequences without a run are left out, and so are those whose truth is not published beyond the first box.
    """
    scores, frames, seconds = {}, 0, 0.0
    for sequence in sequences:
        run = load_run(folder, sequence)
        if run is None:
            continue
        annotated = _annotated(sequence)
        if len(annotated) > 1:
            scores[sequence.name] = score_sequence(run.boxes, sequence.boxes)
        frames, seconds = frames + len(sequence) - int(annotated[0]), seconds + float(run.seconds.sum())
    return scores, frames / max(seconds, 1e-9)


def _annotated(sequence: Sequence) -> np.ndarray:
    """Numbers of the frames whose box is known."""
    return np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))


def _files(folder: Path, sequence: Sequence) -> tuple[Path, Path]:
    return folder / f"{sequence.name}.txt", folder / f"{sequence.name}_time.txt"


def _finished(
    spec: TrackerSpec, todo: list[Sequence], folder: Path, workers: int, threads: int
) -> Iterator[tuple[Sequence, str | None]]:
    """Yield each sequence once it is done, with its error."""
    if not todo:
        return
    _tracker(spec)  # bad weights fail here, in words, and not in every worker
    if workers <= 1:
        set_threads(threads)
        for sequence in todo:
            yield sequence, _attempt(spec, folder, sequence)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker) as pool:  # torch does not survive a fork
        longest_first = sorted(todo, key=len, reverse=True)
        jobs = {pool.submit(_attempt, spec, folder, sequence): sequence for sequence in longest_first}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@cache
def _tracker(spec: TrackerSpec) -> Tracker:
    return spec.build()  # once per process


def _attempt(spec: TrackerSpec, folder: Path, sequence: Sequence) -> str | None:
    """Track one sequence and save it; returns what is wrong with its data, if anything."""
    try:
        save_run(track_sequence(_tracker(spec), sequence), folder, sequence)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: end without a traceback per worker
    set_threads(1)
