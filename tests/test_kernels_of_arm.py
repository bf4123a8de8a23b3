"""The engine's kernels equal the scalar ones, in a program without Python.

The program is also built for ARM and run in an emulator.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from requirements import skip_without

SOURCE = Path(__file__).parent / "native" / "compare_kernels.cpp"
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-trapping-math"]
FLAGS += ["-I", str(ROOT / "rbsf" / "engine" / "native")]


def compile_with(compiler: str, folder: Path, *flags: str) -> Path:
    program = folder / "compare_kernels"
    done = subprocess.run(
        [compiler, *FLAGS, *flags, str(SOURCE), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    return program


@pytest.mark.slow
def test_kernels_of_this_machine_equal_the_scalar_ones(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        skip_without("compiler", "g++ is not installed")
    program = compile_with("g++", tmp_path)
    done = subprocess.run([program, "20000"], capture_output=True, text=True, check=False)
    assert (done.returncode, "and scalar are equal to the bit" in done.stdout) == (0, True), (
        done.stdout
    )


@pytest.mark.slow
def test_kernels_of_arm_equal_the_scalar_ones(tmp_path: Path) -> None:
    """It is cross-compiled and run in QEMU; on an ARM machine the test above does the same."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        skip_without("neon", "install g++-aarch64-linux-gnu and qemu-user, packages of Debian")
    program = compile_with(compiler, tmp_path, "-static")
    done = subprocess.run([emulator, program, "5000"], capture_output=True, text=True, check=False)
    assert done.stdout == "5000 cases: neon and scalar are equal to the bit\n", (
        done.stdout + done.stderr
    )
    assert done.returncode == 0
