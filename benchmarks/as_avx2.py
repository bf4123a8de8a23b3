"""Run another program as if the CPU had AVX2 and nothing newer (Linux, x86-64, a C++ compiler).

    python benchmarks/as_avx2.py benchmarks/engine_speed.py --root OTB/David --updates

RBSF_ISA=avx2 only limits this project's engine. With this program ONNX Runtime, OpenCV, PyTorch and
NumPy also choose their kernels for AVX2, so that both sides of a comparison run on the same CPU.
Clock and caches are still those of this CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("hide_avx512.cpp")


def main(argv: list[str] | None = None) -> int:
    """Build the library and run the program with it; returns the program's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", metavar="PROGRAM.py")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the program")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "hide_avx512.so"
        build = [os.environ.get("CXX", "c++"), "-O2", "-std=c++17", "-shared", "-fPIC"]
        try:
            subprocess.run([*build, SOURCE, "-o", library], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"as_avx2: {SOURCE.name} does not compile here: {error}", file=sys.stderr)
            return 1
        environment = os.environ | {"LD_PRELOAD": str(library)}
        return subprocess.run(
            [sys.executable, args.program, *args.flags], env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
