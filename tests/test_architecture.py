"""How the packages depend on one another, as the contracts in pyproject.toml say."""

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
    code = "import sys, rbsf.engine.run, rbsf.train.rectify; print([m for m in sys.modules if m.startswith(OTHERS)])"
    others = ("rbsf.tracker", "rbsf.datasets", "rbsf.eval", "rbsf.tools")
    command = [sys.executable, "-c", code.replace("OTHERS", repr(others))]
    assert (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
