"""Running trackers: one sequence, several processes, their failures, and going on after a kill."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import NARROW, ROOT, bare_sequence, write_otb
from faulty import FaultySpec

from rbsf.datasets.video.sequences import Sequence, load_sequences
from rbsf.eval import runner
from rbsf.eval.results import ResultStore, Run
from rbsf.eval.runner import Job, pending, run_jobs, track_sequence
from rbsf.eval.trackers import NetworkSpec, TrackerSpec
from rbsf.eval.trackers.static import StaticSpec, StaticTracker
from rbsf.tracker.states import Result

NAN = [float("nan")] * 4
BOX = [11.0, 11.0, 10.0, 10.0]  # counted from 1, as OTB does
HERE = [10.0, 10.0, 10.0, 10.0]
STATIC = StaticSpec("static")


# ---- one sequence


class Made(Sequence):
    """A sequence of three frames, of values 0, 1 and 2, with any number of boxes."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return (np.full((60, 80, 3), i, np.uint8) for i in range(3))


class Recorder:
    """A tracker that keeps its images; its box moves by a pixel a frame."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        self.seen.append((int(image[0, 0, 0]), box.tolist()))
        self.box = box

    def update(self, image: np.ndarray) -> Result:
        self.seen.append((int(image[0, 0, 0]),))
        self.box = self.box + np.array([1, 0, 0, 0])
        return Result(self.box, 1.0)


def made(*boxes: list[float]) -> Made:
    return Made("Girl", ("",) * len(boxes), np.array(boxes))


def test_tracks_from_the_first_box_to_the_end() -> None:
    tracker, done = Recorder(), []
    run = track_sequence(tracker, made(HERE, [70, 50, 5, 5], NAN), done.append)
    assert tracker.seen == [(0, HERE), (1,), (2,)]
    assert run.boxes.tolist() == [HERE, [11, 10, 10, 10], [12, 10, 10, 10]]
    assert (run.seconds > 0).all()
    assert done == [1, 2, 3]


def test_target_that_comes_late_is_tracked_from_its_first_box() -> None:
    tracker, done = Recorder(), []
    run = track_sequence(tracker, made(NAN, HERE, [70, 50, 5, 5]), done.append)
    assert tracker.seen == [(1, HERE), (2,)]
    assert run.boxes.tolist() == [[0, 0, 0, 0], HERE, [11, 10, 10, 10]]
    assert (run.seconds > 0).tolist() == [False, True, True]
    assert done == [2, 3]


def test_seconds_are_the_trackers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each update has a pair of times; frames are decoded between the pairs.
    clock = iter([0.0, 0.5, 10.0, 10.25, 20.0, 20.125])
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    expected = [0.5, 0.25, 0.125]
    assert track_sequence(StaticTracker(), made(HERE, HERE, HERE)).seconds.tolist() == expected


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ([NAN, NAN, NAN], "sequence Girl: none of its 3 frames has a box to start on"),
        ([HERE] * 4, "sequence Girl: 3 frames can be read, but there are 4 boxes"),
        ([NAN, NAN, NAN, HERE], "sequence Girl: 3 frames can be read, but there are 4 boxes"),
    ],
    ids=["no box", "fewer frames", "none from the first box"],
)
def test_a_sequence_that_cannot_be_tracked_is_refused(boxes: list[list[float]], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        track_sequence(StaticTracker(), made(*boxes))


# ---- several processes


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    write_otb(tmp_path / "OTB", "Dog", [BOX] * 3)
    write_otb(tmp_path / "OTB", "Girl", [BOX] * 4)
    return tmp_path / "OTB"


def jobs_of(root: Path, spec: TrackerSpec = STATIC, out: str = "out") -> list[Job]:
    store = ResultStore(root.parent / out)
    return [Job(spec, store, sequence) for sequence in load_sequences(root, "otb")]


def mark(job: Job) -> bytes:
    """Write other boxes into a result, which a second run would replace."""
    path = job.store.boxes_path(job.sequence.name)
    path.write_text("1,1,2,2\n" * len(job.sequence))
    return path.read_bytes()


def test_damaged_result_is_not_pending(otb: Path) -> None:
    dog, girl = jobs_of(otb)
    assert pending([dog, girl]) == [dog, girl]
    for job in (dog, girl):
        job.store.save(
            job.sequence, Run(np.array([HERE] * len(job.sequence)), np.ones(len(job.sequence)))
        )
    girl.store.boxes_path("Girl").write_text("what\n")
    assert pending([dog, girl]) == []


def test_failed_sequence_alone_is_run_again(otb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog, girl = jobs = jobs_of(otb)
    frame = otb / "Girl/img/0002.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(b"")
    run_jobs(jobs)
    expected = {"Girl": f"image {frame} is empty (0 bytes); replace or remove it"}
    assert girl.store.failures() == expected
    assert pending(jobs) == [girl]
    marked = mark(dog)
    frame.write_bytes(whole)
    run_jobs(jobs)
    assert girl.store.failures() == {}
    assert girl.store.boxes_path("Girl").read_text() == "11.000,11.000,10.000,10.000\n" * 4
    assert dog.store.boxes_path("Dog").read_bytes() == marked
    monkeypatch.setattr(
        runner, "_start_worker", lambda threads: pytest.fail("nothing is left to run")
    )
    run_jobs(jobs, workers=2)


def test_tracker_that_cannot_be_loaded_fails_before_any_sequence(otb: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        run_jobs(jobs_of(otb, NetworkSpec("net", (weights,))))
    assert not (tmp_path / "out").exists()


def test_process_that_ends_costs_its_sequence_alone(
    otb: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for width, name in ((31, "Killed"), (32, "Exits"), (33, "Raises")):
        write_otb(otb, name, [[11, 11, width, 10]] * (width - 25))  # the longest runs first
    jobs = jobs_of(otb, FaultySpec("faulty"))
    run_jobs(jobs)
    assert jobs[0].store.failures() == {
        "Exits": "its process ended with code 3; run again",
        "Killed": "its process was killed (SIGKILL), perhaps for want of memory; "
        "run again, or with fewer --workers",
        "Raises": "CUDA out of memory. Tried to allocate 2 GiB",
    }
    assert "failed: faulty: Killed: its process was killed" in capfd.readouterr().out
    left = pending(jobs)
    assert [job.sequence.name for job in left] == ["Exits", "Killed", "Raises"]
    marked = {job: mark(job) for job in jobs if job not in left}
    run_jobs([replace(job, spec=STATIC) for job in jobs])
    assert pending(jobs) == []
    assert jobs[0].store.failures() == {}
    assert {job: job.store.boxes_path(job.sequence.name).read_bytes() for job in marked} == marked


def test_weights_that_are_replaced_while_it_runs_are_not_used(otb: Path, tmp_path: Path) -> None:
    from rbsf.models import build
    from rbsf.weights import save_weights

    weights = tmp_path / "net.safetensors"
    save_weights(build("rbsf", width=NARROW), "rbsf", weights)
    spec = NetworkSpec("net", (weights,))
    (job,) = (replace(job, key=spec.key()) for job in jobs_of(otb, spec)[:1])
    save_weights(build("rbsf", width=NARROW), "rbsf", weights)  # with other random numbers
    run_jobs([job])
    assert job.store.failures() == {"Dog": f"{weights} has changed since the run began; run again"}
    assert pending([job]) == [job]
    run_jobs([replace(job, key=spec.key())])
    assert pending([job]) == []


def test_runs_of_one_got10k_sequence_do_not_drop_each_other(otb: Path, tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "out", per_sequence=True)
    jobs = [Job(STATIC, store, s, n) for s in load_sequences(otb, "otb") for n in (1, 2, 3)]
    run_jobs(jobs, workers=2)
    assert pending(jobs) == []
    assert np.loadtxt(store.times_path("Girl"), delimiter=",").shape == (4, 3)


def test_workers_give_the_boxes_of_one_process(otb: Path, tmp_path: Path) -> None:
    from rbsf.models import build
    from rbsf.weights import save_weights

    weights = tmp_path / "tiny.safetensors"
    save_weights(build("rbsf", width=NARROW), "rbsf", weights)
    spec = NetworkSpec("tiny", (weights,))
    run_jobs(jobs_of(otb, spec, "many"), workers=2)
    for job in jobs_of(otb, spec, "one"):
        job.store.save(job.sequence, track_sequence(spec.build(), job.sequence))
    one, many = (
        {p.name: p.read_bytes() for p in (tmp_path / name).glob("*.txt")}
        for name in ("one", "many")
    )
    assert one == many
    assert set(one) == {"Dog.txt", "Girl.txt"}
    assert one["Girl.txt"] != b"11.000,11.000,10.000,10.000\n" * 4


# ---- Ctrl-C, which reaches every process of a terminal


def test_ctrl_c_does_not_reach_a_worker_that_is_starting(
    otb: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = runner._start_worker(1)
    os.kill(worker.process.pid or 0, signal.SIGINT)
    runner._give(worker, jobs_of(otb)[:1])
    assert isinstance(worker.pipe.recv(), Run)
    worker.process.terminate()
    worker.process.join()
    assert capfd.readouterr().err == ""


# ---- a worker whose pipe breaks


class DeadPipe:
    """The end of a pipe to a process that has just died."""

    def send(self, job: Job) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_worker_that_dies_before_its_job_is_no_error_of_ours() -> None:
    job = Job(STATIC, ResultStore(Path("out")), bare_sequence("Girl", [HERE]))
    worker = runner._Worker(process=None, pipe=DeadPipe())  # type: ignore[arg-type]
    runner._give(worker, [job])  # the death is noticed when its answer is read
    assert worker.job is job


# ---- the whole program is killed


def program(root: Path, out: Path) -> list[str]:
    flags = shlex.split("--dataset OTB100 --tracker opencv:MIL --workers 2 --threads 1 --shard 1/1")
    command = [sys.executable, str(ROOT / "eval/run_benchmarks.py"), *flags]
    return [*command, "--root", str(root), "--out", str(out)]


def contents(out: Path) -> dict[str, str | int]:
    """The contents of every result file, by name.

    Times differ from run to run, so that only their lines are counted.
    """
    files = [path for path in (out / "results").rglob("[!.]*") if path.is_file()]
    texts = {path.relative_to(out).as_posix(): path.read_text() for path in files}
    return {name: text.count("\n") if "/times/" in name else text for name, text in texts.items()}


def finished_in(out: Path) -> list[Path]:
    """Files of boxes of the sequences whose times exist, which are written last."""
    times = out.glob("results/OTB2015/*/times/[!.]*.txt")
    return [path.parents[1] / path.name.replace("_time", "") for path in times]


def wait_for_result(process: subprocess.Popen[str], out: Path) -> None:
    end = time.monotonic() + 60
    while not finished_in(out):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_program_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root, killed, whole = tmp_path / "OTB", tmp_path / "killed", tmp_path / "whole"
    for length, name in enumerate(("Basketball", "Biker", "Bird1", "Car1", "Dog", "Girl"), 6):
        write_otb(root, name, [BOX] * length)
    process = subprocess.Popen(
        program(root, killed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_result(process, killed)
    process.kill()
    # The pipe stays open until the workers have ended too.
    said, _ = process.communicate(timeout=30)
    assert "Traceback" not in said
    first = finished_in(killed)
    assert 1 <= len(first) < 6
    before = {path: path.stat().st_mtime_ns for path in first}
    for out in (killed, whole):
        done = subprocess.run(program(root, out), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = contents(killed)
    assert found == contents(whole)
    assert len(found) == 12
    assert {path: path.stat().st_mtime_ns for path in first} == before
