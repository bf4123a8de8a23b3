"""What dead processes leave behind, and what is said about a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from requirements import needs

from rbsf.system.files import remove_left_over, write_atomically
from rbsf.train.checkpoint import save_checkpoint

WORKERS = """
import multiprocessing, os, sys, time
from rbsf.datasets.workers import start_worker

def work():
    start_worker()
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: lines of workers never mix
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(3):
        context.Process(target=work).start()
    time.sleep(60)
"""


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason=needs("linux", "it looks for processes"))
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_with_a_parent_that_is_killed(start, tmp_path):
    (tmp_path / "program.py").write_text(WORKERS)
    command = [sys.executable, str(tmp_path / "program.py"), start]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        workers = [int(parent.stdout.readline()) for _ in range(3)]
        assert all(map(is_alive, workers))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    end = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    dead, alive = dead_process(), os.getppid()
    names = [
        f".checkpoint.{dead}.part.pt",
        f".log.{dead}.part.csv",
        f".a.b.{os.getpid()}.part",  # of a process that had this number before
        f".checkpoint.{alive}.part.pt",
        f".notes.{dead}.txt",
        ".part",
        "checkpoint.pt",
        f"x.{dead}.part.pt",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    remove_left_over(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[3:])


def test_what_a_kill_leaves_is_found(tmp_path):
    """The names of temporary files are those that are removed later."""
    code = (
        "import os, sys, signal; from rbsf.system.files import write_atomically;"
        "write_atomically(sys.argv[1], lambda path: (path.write_bytes(b'x'),"
        " os.kill(os.getpid(), signal.SIGKILL)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.safetensors")])
    assert len(list(tmp_path.iterdir())) == 1
    remove_left_over(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_told_as_such(tmp_path):
    """Where the writer reports something else, what the system said is told."""

    def write(path: Path) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 704 vs 598") from error

    with pytest.raises(OSError, match=r"cannot write .*a\.pt: No space left on device"):
        write_atomically(tmp_path / "a.pt", write)


@pytest.mark.skipif(sys.platform != "linux", reason=needs("linux", "it mounts a small disk"))
def test_a_checkpoint_on_a_small_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(needs("linux", "mounting is not allowed here"))
    try:
        save_checkpoint(small / "c.pt", {"epoch": 1})
        with pytest.raises(OSError, match=r"cannot write .*c\.pt: No space left on device"):
            save_checkpoint(small / "c.pt", {"x": torch.zeros(100_000)})
        assert [path.name for path in small.iterdir()] == ["c.pt"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_file_behind_a_link_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "store" / "real.txt", tmp_path / "link.txt"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason=needs("linux", "it makes a named pipe"))
def test_bytes_go_into_a_pipe_and_it_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="pipe: it is no file; give a file name"):
        write_atomically(tmp_path / "pipe", lambda path: None)


def test_standard_output_is_written_to(tmp_path: Path) -> None:
    code = "from rbsf.system.files import write_atomically; write_atomically('/dev/stdout', b'new')"
    for stdout in (subprocess.PIPE, (tmp_path / "out.txt").open("wb")):
        done = subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True)
        assert (done.stdout or (tmp_path / "out.txt").read_bytes()) == b"new"
    assert Path("/dev/stdout").is_symlink()
