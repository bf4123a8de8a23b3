"""Behaviour that all programs share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_programs_limit_the_threads_of_numpy_before_it_is_imported() -> None:
    code = """
import os, sys
from rbsf.system.program import run
run(lambda: print(os.environ["OPENBLAS_NUM_THREADS"], "numpy" in sys.modules))
"""
    for given, expected in (({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")):
        kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=ROOT, env={**kept, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected, "False"]
