"""Nothing is lost by faults from outside a process: kills, stops, full disks, removed files.

A run that is killed at a random moment and started again gives the result of an undisturbed run.
`make test-all` tries each fault a few times, `make soak` for an hour ($RBSF_SOAK_HOURS).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from requirements import needs, skip_without
from trainings import NET, QUICK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason=needs("linux", "signals of POSIX")),
]
HOURS = float(os.environ.get("RBSF_SOAK_HOURS", 0))
SEED = int(os.environ.get("RBSF_SEED", time.time_ns() % 10**6))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos of made-up targets, four sequences of 40 frames, and one video file."""
    from rbsf.datasets.synthetic.videos import write_got10k
    from rbsf.datasets.video.writer import VideoWriter

    root = tmp_path_factory.mktemp("data")
    write_got10k(root / "videos", count=4, seed=5, frames=40, size=(160, 120))
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    with VideoWriter(root / "clip.mp4", 25) as video:
        for number in range(150):
            video.write(cv2.blur(np.roll(noise, number, 1), (5, 5)))
    return root


def command(name: str, *words: object) -> list[str]:
    return [sys.executable, str(ROOT / name), *map(str, words)]


def prepare(data: Path, out: Path) -> list[str]:
    words = ["--data", data / "videos", "--out", out / "pairs.db", "--workers", 2]
    return command("tools/prepare_pairs.py", *words)


def benchmark(data: Path, out: Path) -> list[str]:
    words = ["--dataset", "folder", "--root", data / "videos", "--tracker", "rbsf", "--out", out]
    return command("eval/run_benchmarks.py", *words, "--workers", 1)


def track(data: Path, out: Path) -> list[str]:
    words = ["--video", data / "clip.mp4", "--init", "60,40,40,40", "--out", out / "a.mp4"]
    return command("tools/track.py", *words, "--boxes", out / "b.csv", "--force")


def crops_of(out: Path) -> object:
    """The crops of a store, by sequence."""
    with contextlib.closing(sqlite3.connect(out / "pairs.db")) as db:
        query = "SELECT name, frame, jpeg FROM crops JOIN images USING (id) JOIN sequences"
        return sorted(db.execute(f"{query} ON sequences.id = crops.sequence"))


def boxes_of(out: Path) -> object:
    """The boxes that a benchmark keeps, by file; no times."""
    files = sorted((out / "results").rglob("*_001.txt"))
    return {file.name: file.read_text() for file in files}


def rows_of(out: Path) -> object:
    return (out / "b.csv").read_text()


PROGRAMS: dict[str, tuple[Callable[[Path, Path], list[str]], Callable[[Path], object]]] = {
    "prepare_pairs": (prepare, crops_of),
    "run_benchmarks": (benchmark, boxes_of),
    "track": (track, rows_of),
}


def start(words: list[str], *path: Path) -> subprocess.Popen[bytes]:
    """A process of these words; `path` goes before the project's root on its PYTHONPATH."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, env=env, start_new_session=True, **quiet)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and errors of a process, which is killed with its workers where it does not end."""
    try:
        errors = process.communicate(timeout=200)[1].decode()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert "Traceback" not in errors
    return process.returncode, errors


def rounds(count: int) -> Iterator[random.Random]:
    """Some rounds, or as many as a soak has time for; each with its random numbers."""
    end = time.monotonic() + 3600 * HOURS / (2 * len(PROGRAMS))
    number = 0
    while number < count or time.monotonic() < end:
        print(f"RBSF_SEED={SEED} round {number}")
        yield random.Random(SEED + number)
        number += 1


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Of a program: what it makes, and the seconds that it takes."""
    known: dict[str, tuple[object, float]] = {}

    def of(name: str) -> tuple[object, float]:
        if name not in known:
            out = tmp_path_factory.mktemp(name)
            words, result = PROGRAMS[name]
            began = time.monotonic()
            assert finish(start(words(data, out)))[0] == 0
            known[name] = result(out), time.monotonic() - began
        return known[name]

    return of


def interrupted(
    words: Callable[[Path, Path], list[str]], data: Path, out: Path, seconds: float
) -> subprocess.Popen[bytes]:
    """A process that writes into the new folder `out` and has run for `seconds`."""
    out.mkdir()
    process = start(words(data, out))
    time.sleep(seconds)
    return process


def signal_all(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """Send a signal to a process and its workers, if they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


@pytest.mark.parametrize("name", PROGRAMS)
def test_killed_at_a_random_moment_and_run_again(name, data, undisturbed, tmp_path):
    words, result = PROGRAMS[name]
    expected, seconds = undisturbed(name)
    for chance in rounds(2):
        out = tmp_path / f"{chance.random()}"
        process = interrupted(words, data, out, chance.uniform(0, seconds))
        signal_all(process, signal.SIGKILL)
        process.communicate()
        assert finish(start(words(data, out)))[0] == 0
        assert result(out) == expected
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", PROGRAMS)
def test_stopped_and_continued(name, data, undisturbed, tmp_path):
    words, result = PROGRAMS[name]
    expected, seconds = undisturbed(name)
    for chance in rounds(1):
        out = tmp_path / f"{chance.random()}"
        process = interrupted(words, data, out, chance.uniform(0, seconds))
        for signum in (signal.SIGSTOP, signal.SIGCONT):
            signal_all(process, signum)
            time.sleep(0.5)
        assert finish(process)[0] == 0
        assert result(out) == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_two_processes_one_is_refused(name, data, undisturbed, tmp_path):
    words, result = PROGRAMS[name]
    both = [start(words(data, tmp_path)) for _ in range(2)]
    ends = sorted(finish(process) for process in both)
    assert [code for code, _ in ends] in ([0, 1], [0, 0])  # [0, 0]: one after the other
    if ends[1][0]:
        assert f" is in use by process {both[0].pid} on " in ends[1][1] or (
            f" is in use by process {both[1].pid} on " in ends[1][1]
        )
    assert result(tmp_path) == undisturbed(name)[0]


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        skip_without("linux", "no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_full_disk_is_one_line_about_the_file_that_did_not_fit(name, data, full_disk):
    code, errors = finish(start(PROGRAMS[name][0](data, full_disk)))
    last = errors.splitlines()[-1]
    assert code == 1
    assert last.startswith("error: ")
    assert str(full_disk) in last


LIMIT = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
"""

# Every look at the clock sees it an hour earlier than the look before.
CLOCK = """
import time

looks = iter(range(10**9))
true_time, true_local = time.time, time.localtime
time.time = lambda: true_time() - 3600 * next(looks)
time.time_ns = lambda: int(time.time() * 1e9)
time.localtime = lambda seconds=None: true_local(time.time() if seconds is None else seconds)
"""


@pytest.fixture
def at_start(tmp_path):
    """Writes code that each process runs first; gives the folder for its PYTHONPATH."""

    def write(code: str) -> Path:
        folder = tmp_path / "at_start"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        return folder

    return write


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_file_larger_than_a_quota_is_one_line_that_names_it(name, data, at_start, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    code, errors = finish(start(PROGRAMS[name][0](data, out), at_start(LIMIT)))
    last = errors.splitlines()[-1]
    assert code == 1
    assert last.startswith("error: ")
    assert str(out) in last


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_clock_that_is_set_back_changes_nothing(name, data, undisturbed, at_start, tmp_path):
    words, result = PROGRAMS[name]
    out = tmp_path / "out"
    out.mkdir()
    assert finish(start(words(data, out), at_start(CLOCK)))[0] == 0
    assert result(out) == undisturbed(name)[0]


def test_a_worker_that_is_killed_is_one_line(data, tmp_path):
    process = start(prepare(data, tmp_path))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        skip_without("linux", "no list of children in /proc")
    workers: list[str] = []
    while process.poll() is None and len(workers) < 2:
        with contextlib.suppress(OSError):
            workers = children.read_text().split()
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(workers[-1]), signal.SIGKILL)
    code, errors = finish(process)
    assert code == 1
    assert "error: a worker process died" in errors
    assert finish(start(prepare(data, tmp_path)))[0] == 0


def test_a_frame_that_is_removed_meanwhile_is_named(data, tmp_path):
    shutil.copytree(data / "videos", tmp_path / "videos")
    removed = sorted((tmp_path / "videos").glob("*/*.jpg"))[-1]
    process = start(prepare(tmp_path, tmp_path))
    removed.unlink()
    code, errors = finish(process)
    assert code in (0, 1)  # by when it was removed
    assert removed.parent.name in errors


def test_a_folder_that_takes_no_files_is_one_line(data, tmp_path):
    for name, (words, _) in PROGRAMS.items():
        code, errors = finish(start(words(data, Path("/proc/nowhere"))))
        assert (code, errors.count("\n")) == (1, 1), name
        assert errors.startswith("error: cannot write /proc/nowhere")


def test_a_training_that_is_killed_resumes_to_the_same_weights(image_root, tmp_path):
    words = [*NET, "--root", image_root, *QUICK, "--method", "float", "--start", "random"]
    words += ["--no-gan", "--no-rectify"]
    began = time.monotonic()
    expected = trained(words, tmp_path / "whole")
    seconds = time.monotonic() - began
    for chance in rounds(2):
        killed = tmp_path / f"{chance.random()}"
        process = start(training(*words, "--out", killed))
        time.sleep(chance.uniform(0, seconds))
        signal_all(process, signal.SIGKILL)
        process.communicate()
        begun = any(killed.glob("checkpoint*"))
        found = trained(["--resume"] if begun else words, killed)
        assert all(np.array_equal(found[name], value) for name, value in expected.items())


def training(*words: object) -> list[str]:
    return command("tools/train_classifier.py", *words)


def trained(words: list[object], out: Path) -> dict[str, np.ndarray]:
    """The weights of a training into `out`, which has to end well."""
    from safetensors.numpy import load_file

    assert finish(start(training(*words, "--out", out)))[0] == 0
    return load_file(out / "resnet18.safetensors")
