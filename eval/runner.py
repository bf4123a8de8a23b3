"""Runs trackers over sequences in several processes.

Each result is written when it is finished, so an interrupted run is resumed by repeating it. A
sequence that cannot be tracked, or whose process is killed, is recorded; the others go on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.one_pass import one_pass
from rbsf.eval.results import ResultStore, Run
from rbsf.eval.trackers import Tracker, TrackerSpec
from rbsf.eval.trackers.opencv import seed_opencv
from rbsf.system.parent import end_with_parent
from rbsf.system.text import one_line

# What may go wrong with one sequence, such as a damaged image or a GPU without memory.
FAULTS = (ValueError, OSError, RuntimeError, cv2.error)
REPORT_SECONDS = 0.5  # time between a worker's reports of its progress


@dataclass(frozen=True)
class Job:
    """One run of one tracker over one sequence."""

    spec: TrackerSpec
    store: ResultStore
    sequence: Sequence
    number: int = 1  # number of the run
    key: str | None = None  # the spec's key when the store was chosen; None: not checked


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    frames: int = 0  # finished frames of its job


def track_sequence(
    tracker: Tracker, sequence: Sequence, progress: Callable[[int], object] = lambda frames: None
) -> Run:
    """Start on the true box of the first annotated frame and follow the target to the end.

    Boxes of the frames before the first are zeros. `progress` is called with the number of frames
    done. Raises the errors of `one_pass`.
    """
    boxes = np.zeros((len(sequence), 4))
    seconds = np.zeros(len(sequence))
    for step in one_pass(tracker, sequence):
        boxes[step.frame] = step.result.box
        seconds[step.frame] = step.seconds
        progress(step.frame + 1)
    return Run(boxes, seconds)


def pending(jobs: list[Job]) -> list[Job]:
    """The jobs without a result. A damaged result counts as a result, so it is not overwritten."""
    todo = []
    for job in jobs:
        with suppress(ValueError, OSError):
            if job.store.load(job.sequence, job.number) is None:
                todo.append(job)
    return todo


def run_jobs(
    jobs: list[Job],
    workers: int = 1,
    threads: int = 1,
    desc: str = "benchmark",
    resume: bool = True,
) -> None:
    """Run the jobs that have no result yet, in `workers` processes with `threads` threads each.

    Trackers run one after the other, each on its longest sequences first. Without `resume` all jobs
    are run, and existing results are deleted once the trackers are loaded. A progress bar counts
    frames. Failures are recorded in the job's store. Raises ValueError or OSError for a tracker
    that cannot be loaded.
    """
    todo = pending(jobs) if resume else jobs
    for spec in _specs(todo):
        spec.build()  # a tracker that cannot be loaded fails here, not once for each sequence
    if not resume:
        for job in jobs:
            job.store.forget(job.sequence.name, job.number)
    ranks = {spec: rank for rank, spec in enumerate(_specs(jobs))}
    queue = sorted(todo, key=lambda job: (ranks[job.spec], -len(job.sequence)))
    total = _frames(jobs)
    finished = len(jobs) - len(todo)
    done = total - _frames(todo)
    with tqdm(total=total, initial=done, desc=desc, unit="frame", smoothing=0.05) as bar:
        bar.set_postfix_str(f"{finished}/{len(jobs)} sequences")
        for job, frames, result in _results(queue, workers, threads):
            bar.update(frames)
            if result is None:
                continue
            finished += 1
            bar.set_postfix_str(f"{finished}/{len(jobs)} sequences")
            _record(job, result, bar)


def _record(job: Job, result: Run | str, bar: tqdm) -> None:
    """Save what was tracked, or what went wrong."""
    if isinstance(result, Run):
        job.store.save(job.sequence, result, job.number)
        return
    job.store.save_failure(job.sequence, result)
    bar.write(f"failed: {job.spec.label}: {job.sequence.name}: {result}")


def _specs(jobs: list[Job]) -> list[TrackerSpec]:
    """The trackers of jobs, each once."""
    return list(dict.fromkeys(job.spec for job in jobs))


def _frames(jobs: list[Job]) -> int:
    return sum(len(job.sequence) for job in jobs)


def _results(
    queue: list[Job], workers: int, threads: int
) -> Iterator[tuple[Job, int, Run | str | None]]:
    """Yield a job, its frames done since it was last yielded, and its result.

    The result is a run, a sentence on what went wrong, or None while the job runs.
    """
    waiting = list(reversed(queue))
    pool = [_start_worker(threads) for _ in range(min(workers, len(queue)))]
    try:
        for worker in pool:
            _give(worker, waiting)
        while any(worker.job for worker in pool):
            for place in _ready(pool):
                worker = pool[place]
                job, before = worker.job, worker.frames
                assert job is not None  # only workers with a job are ready
                try:
                    said = worker.pipe.recv()
                except (EOFError, OSError):
                    said = _why_ended(worker.process)
                    pool[place] = worker = _start_worker(threads)
                if isinstance(said, int):
                    worker.frames = said
                    yield job, said - before, None
                else:
                    yield job, len(job.sequence) - before, said
                    _give(worker, waiting)
    finally:
        for worker in pool:
            worker.process.terminate()


def _ready(pool: list[_Worker]) -> list[int]:
    """Wait until workers send something or end. Returns their places in the pool."""
    places: dict[Any, int] = {}  # by their pipes
    for place, worker in enumerate(pool):
        if worker.job:
            places[worker.pipe] = place
    return [places[pipe] for pipe in wait(list(places))]


def _start_worker(threads: int) -> _Worker:
    context = get_context("spawn")  # torch does not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, threads), daemon=True)
    # The process inherits that Ctrl-C is ignored: the parent handles it and ends the process.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    theirs.close()  # the worker has the only other end, so its death is seen
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Job]) -> None:
    """Send a worker its next job, if there is one."""
    worker.job = waiting.pop() if waiting else None
    worker.frames = 0
    if worker.job:
        with suppress(ConnectionError):  # a dead worker is noticed when its answer is read
            worker.pipe.send(worker.job)


def _why_ended(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"its process was killed ({name}), perhaps for want of memory;"
            " run again, or with fewer --workers"
        )
    return f"its process ended with code {code}; run again"


def _work(pipe: Connection, threads: int) -> None:
    """Work in a process: receive jobs, and send frames done and results, until the parent ends.

    The parent writes the results, since two runs of a GOT-10k sequence share a file of times.
    """
    end_with_parent()
    build = cache(partial(_load, threads))
    with suppress(EOFError, ConnectionError):
        while True:
            job = pipe.recv()
            pipe.send(_attempt(build, job, pipe))


def _load(threads: int, spec: TrackerSpec, key: str | None) -> Tracker:
    tracker = spec.build(threads)
    if key is not None and key != spec.key():  # such as weights that a training still writes
        files = ", ".join(map(str, spec.files))
        raise ValueError(f"{files} has changed since the run began; run again")
    return tracker


def _attempt(
    build: Callable[[TrackerSpec, str | None], Tracker], job: Job, pipe: Connection
) -> Run | str:
    """Track one sequence; returns its boxes, or what went wrong."""
    last = time.monotonic()

    def progress(frames: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            pipe.send(frames)

    try:
        tracker = build(job.spec, job.key)
        seed_opencv(job.number)  # runs differ, but each gives the same when it is repeated
        return track_sequence(tracker, job.sequence, progress)
    except ConnectionError:  # the parent is gone
        raise
    except FAULTS as error:
        return one_line(error) or type(error).__name__
