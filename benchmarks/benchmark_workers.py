"""How much faster eval/run_benchmarks.py gets with more processes: the same run with 1 and with N,
from the start of the program to its report.

    python benchmarks/benchmark_workers.py --dataset OTB100 --root OTB --tracker rbsf --workers 2

Takes the flags of eval/run_benchmarks.py; each side has one thread a process and a results folder of its own, below
--out. Both are to be run on a machine that does nothing else. Their result files are compared, times aside.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.eval.run_benchmarks import parse_args
from rbsf.system.program import run

PROGRAM = Path(__file__).resolve().parents[1] / "eval" / "run_benchmarks.py"


def seconds(argv: list[str], workers: int, out: Path) -> float:
    """Wall-clock seconds of the program with so many processes; raises ValueError where it fails."""
    shutil.rmtree(out, ignore_errors=True)
    flags = [
        "--workers",
        str(workers),
        "--threads",
        "1",
        "--out",
        str(out),
    ]  # the last of a repeated flag counts
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(PROGRAM), *argv, *flags], check=False)
    if done.returncode:
        raise ValueError(f"eval/run_benchmarks.py ended with code {done.returncode}")
    return time.perf_counter() - start


def result_files(out: Path) -> dict[str, bytes]:
    """Every file of boxes below a results folder."""
    files = (
        path for path in (out / "results").rglob("*.txt") if not path.name.endswith("_time.txt")
    )
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def main(argv: list[str] | None = None) -> int:
    """Run both sides and print their ratio; 1 where they gave other boxes."""
    argv = sys.argv[1:] if argv is None else argv
    usage = "%(prog)s [-h] FLAGS OF eval/run_benchmarks.py, whose --help has them"
    own = argparse.ArgumentParser(
        usage=usage, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.parse_known_args(argv)  # for its --help
    args = parse_args(argv)
    workers = args.workers or 2
    took = {count: seconds(argv, count, args.out / f"workers{count}") for count in (1, workers)}
    equal = (
        len({str(sorted(result_files(args.out / f"workers{count}").items())) for count in took})
        == 1
    )
    for count, spent in took.items():
        print(f"{count} processes {spent:8.1f} s")
    print(f"ratio       {took[1] / took[workers]:8.2f}")
    print("boxes        equal to the byte" if equal else "boxes        differ")
    return 0 if equal else 1


if __name__ == "__main__":
    run(main)
