"""What a result needs to be repeated, beside its settings: command, commit, versions, hardware."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command() -> str:
    """The command line; a program of this project by its place in it, wherever that lies."""
    program, *words = sys.argv
    if program.startswith("rbsf "):  # see rbsf.tools.command
        return shlex.join([*program.split(), *words])
    root = _root()
    if Path(program).resolve().is_relative_to(root):
        program = str(Path(program).resolve().relative_to(root))
    return shlex.join(["python", program, *words])


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _commit() -> str:
    root = _root()
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown"  # a copy within another repository, or in none
        return _git(root, "describe", "--always", "--dirty") or "unknown"
    except OSError:  # no git here
        return "unknown"


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _opencv_version() -> str:
    import cv2  # its version is not its package's: several packages bring the module

    return cv2.__version__


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):  # not Linux, or an ARM kernel
        return platform.processor() or platform.machine()
