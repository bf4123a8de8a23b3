"""What is needed to repeat a result, besides settings: command, commit, versions, hardware."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = {"torch": "torch", "numpy": "numpy", "got10k": "got10k"}


def environment() -> dict[str, str | int]:
    """Command, commit, date, versions and processor of this run, by name."""
    return {
        "command": _command(),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **{name: _version(package) for name, package in PACKAGES.items()},
        "opencv": _opencv_version(),
        "processor": _processor(),
        "cores": cores(),
    }


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _command() -> str:
    """The command line; programs of this project are named by their path in the project."""
    program, *words = sys.argv
    if program.startswith("rbsf "):  # see rbsf.tools.command
        return shlex.join([*program.split(), *words])
    path = Path(program).resolve()
    if path.is_relative_to(_root()):
        program = str(path.relative_to(_root()))
    return shlex.join(["python", program, *words])


def _root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[2]


def _commit() -> str:
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        if top.resolve() != _root():  # a copy inside another repository, or in no repository
            return "unknown"
        return _git("describe", "--always", "--dirty") or "unknown"
    except OSError:  # git is not installed
        return "unknown"


def _git(*words: str) -> str:
    """The output of a git command in the project's folder."""
    command = ["git", *words]
    done = subprocess.run(command, cwd=_root(), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _opencv_version() -> str:
    import cv2  # several packages provide this module, so it is asked for its version itself

    return cv2.__version__


def _processor() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):  # ARM kernels have no such line
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
