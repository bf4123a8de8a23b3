"""Packages import one another only as the contracts in pyproject.toml allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_imports_point_down_and_in_no_circle() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_core_loads_no_tracker_and_no_data() -> None:
    others = ("rbsf.tracker", "rbsf.datasets", "rbsf.eval", "rbsf.tools")
    code = "import sys, rbsf.engine.run, rbsf.train.rectify\n"
    code += f"print([name for name in sys.modules if name.startswith({others})])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
