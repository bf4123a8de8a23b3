"""Benchmarks run as on a CPU that only has AVX2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from requirements import skip_without

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "as_avx2.py"
CODE = "from rbsf.engine.cpu import available_isas; print(*available_isas())"


def test_a_program_sees_nothing_newer_than_avx2(tmp_path: Path) -> None:
    inner = tmp_path / "isas.py"
    inner.write_text(CODE)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(inner)], capture_output=True, text=True, check=False
    )
    for reason in ("does not compile here", "cannot hide instructions"):
        if reason in done.stderr:
            skip_without("cpuid", done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert not {"amx", "avx512"} & set(done.stdout.split())
