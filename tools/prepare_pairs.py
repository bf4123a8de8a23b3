"""Cut targets out of videos and still images, once: make the crop store that train_rbsf.py reads.

    rbsf prepare-pairs --data GOT-10k/train --data stills --out pairs.db

Rerun the same command after an interruption: what is stored already is skipped, what could not be
read is tried again, and what has other boxes or frames by now is cut out again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    images = "folder of images, with or without boxes.csv"
    data_help = f"root of sequences in any layout, or {images}; repeatable"
    add("--data", type=Path, action="append", required=True, metavar="PATH", help=data_help)
    add(
        "--out", type=Path, required=True, metavar="FILE", help="the store to make or to go on with"
    )
    add(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="take each Nth frame of a video (default: 1)",
    )
    limit_help = "take at most N frames of a video, evenly spaced (default: all)"
    add("--max-per-sequence", type=int, metavar="N", help=limit_help)
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that decode and crop (default: 1)",
    )
    broken_help = (
        "leave sequences out whose annotation cannot be read or does not match their frames"
    )
    add("--skip-broken", action="store_true", help=broken_help)
    return parser.parse_args()


def main() -> None:
    """Prepare and print a summary."""
    args = parse_args()
    from rbsf.datasets.pairs.prepare import prepare  # here, so that `run` reports what fails in it

    numbers = args.every, args.max_per_sequence, args.workers
    report = prepare(args.data, args.out, *numbers, skip_broken=args.skip_broken)
    content = f"{report.sequences} sequences, {report.crops} crops, {report.megabytes:.1f} MB"
    print(f"{args.out}: {content}")
    left_out = f"{len(report.warnings)} with parts left out"
    print(f"{report.added} added, {report.already_stored} already there, {left_out}")
    if report.broken:
        print(f"{len(report.broken)} broken sequences left out")


if __name__ == "__main__":
    run(main)
