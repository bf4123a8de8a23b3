"""Measure how much faster eval/run_benchmarks.py gets with more processes.

    python benchmarks/benchmark_workers.py --dataset OTB100 --root OTB --tracker rbsf --workers 2

The same run is timed with 1 process and with N, from the start of the program to its report. It
takes the flags of eval/run_benchmarks.py. Each side has one thread per process and its own results
folder inside --out. The machine should do nothing else. The files of boxes are also compared.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.eval.run_benchmarks import parse_args
from rbsf.system.program import run

PROGRAM = Path(__file__).resolve().parents[1] / "eval" / "run_benchmarks.py"


def seconds(argv: list[str], workers: int, out: Path) -> float:
    """Seconds that the program takes with `workers` processes. Raises ValueError if it fails."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(PROGRAM), *argv]
    # If a flag is repeated, the last one counts.
    command += ["--workers", str(workers), "--threads", "1", "--out", str(out)]
    start = time.perf_counter()
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ValueError(f"eval/run_benchmarks.py ended with code {done.returncode}")
    return time.perf_counter() - start


def result_files(out: Path) -> dict[str, bytes]:
    """The content of every file of boxes inside a results folder, by path."""
    files = (out / "results").rglob("*.txt")
    boxes = [path for path in files if not path.name.endswith("_time.txt")]
    return {str(path.relative_to(out)): path.read_bytes() for path in boxes}


def main(argv: list[str] | None = None) -> int:
    """Run both sides and print their ratio; returns 1 if their boxes differ."""
    argv = sys.argv[1:] if argv is None else argv
    usage = "%(prog)s [-h] FLAGS OF eval/run_benchmarks.py, whose --help has them"
    own = argparse.ArgumentParser(
        usage=usage, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.parse_known_args(argv)  # for its --help
    args = parse_args(argv)
    workers = args.workers or 2
    folders = {count: args.out / f"workers{count}" for count in (1, workers)}
    took = {count: seconds(argv, count, folder) for count, folder in folders.items()}
    equal = result_files(folders[1]) == result_files(folders[workers])
    for count, spent in took.items():
        print(f"{count} processes {spent:8.1f} s")
    print(f"ratio       {took[1] / took[workers]:8.2f}")
    print("boxes        equal to the byte" if equal else "boxes        differ")
    return 0 if equal else 1


if __name__ == "__main__":
    run(main)
