"""Locks: one holder at a time, who is named, and no lock outlives its process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from rbsf.system import lock
from rbsf.system.lock import InUse, locked

HOLD = """
import sys
from rbsf.system.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_holder_is_named(holder, tmp_path):
    with pytest.raises(InUse, match=f"run is in use by process {holder.pid} on .* since"):
        locked(tmp_path / "run").__enter__()


def test_a_lock_ends_with_its_holder(holder, tmp_path):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_the_lock_in_the_end(holder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    threading.Timer(0.2, holder.kill).start()
    with locked(tmp_path / "run", wait=True):
        pass
    assert "waiting for it" in capsys.readouterr().out


def test_one_thing_has_one_lock_by_whatever_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(InUse):
        locked(tmp_path / "link").__enter__()


def test_a_file_system_without_locks_is_told_and_work_goes_on(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    with pytest.warns(UserWarning, match="takes no locks"), locked(tmp_path / "run"):
        pass
