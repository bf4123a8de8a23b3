"""What tests need besides the project's own packages.

A test that lacks something is skipped, and says so. $RBSF_REQUIRE names what must be there,
separated by spaces: a test that lacks one of these fails. Continuous integration sets it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

import pytest

KNOWN = {
    "cases": "the small inputs of $RBSF_CASES",
    "chromium": "Chromium, and Playwright to drive it",
    "compiler": "a C++ compiler",
    "cpuid": "Linux on a CPU of x86-64 that lets a process hide instructions",
    "data": "real data in $RBSF_DATA",
    "distributed": "PyTorch with torch.distributed",
    "fork": "an operating system that forks processes",
    "git": "git",
    "kernels": "the engine's extension",
    "linux": "Linux",
    "make": "make",
    "neon": "a cross compiler for ARM, and QEMU",
    "onnxruntime": "ONNX Runtime",
    "opencv": "an OpenCV that has the tracker",
    "peers": "NanoTrack's weights in $RBSF_DATA/peers",
    "pillow": "Pillow",
    "pyav": "PyAV",
    "screen": "Xvfb and xdotool",
    "spawn": "an operating system that spawns processes",
    "tomllib": "Python 3.11's reader of TOML",
}


def needs(word: str, why: str) -> str:
    """The reason for a skip that lacks `word`, one of KNOWN."""
    if word not in KNOWN:
        raise KeyError(word)
    return f"needs {word}: {why}"


def skip_without(word: str, why: str) -> NoReturn:
    """Skip the running test, which lacks `word`."""
    pytest.skip(needs(word, why))


def required() -> set[str]:
    """The words of $RBSF_REQUIRE. Raises UsageError where one is not in KNOWN."""
    words = set(os.environ.get("RBSF_REQUIRE", "").split())
    if unknown := words - KNOWN.keys():
        raise pytest.UsageError(
            f"RBSF_REQUIRE names {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}"
        )
    return words


def fail_where_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where $RBSF_REQUIRE names what was missing."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    match = re.search(r"needs (\w+): ", reason)
    if match and match[1] in required():
        report.outcome = "failed"
        report.longrepr = f"RBSF_REQUIRE names {match[1]}, but this was skipped: {reason}"


def case(name: str) -> Path:
    """The folder of one small input that once failed; skips the test where it is not."""
    root = os.environ.get("RBSF_CASES")
    if not root or not (folder := Path(root) / name).is_dir():
        pytest.skip(needs("cases", f"no folder {name} in $RBSF_CASES"))
    return folder


def peers(real_data: Path, *names: str) -> list[Path]:
    """Files of published trackers. The test is skipped where they are missing."""
    files = [real_data / "peers" / name for name in names]
    if not all(file.is_file() for file in files):
        pytest.skip(needs("peers", f"no {files[0]}"))
    return files
