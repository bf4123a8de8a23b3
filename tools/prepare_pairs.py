"""Cut targets out of videos and still images, once: make the crop store that train_rbsf.py reads.

Rerun the same command after an interruption: stored sequences are skipped, unreadable ones are
tried again, and those whose boxes or frames have changed are cut out again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, process_count, run

EXAMPLE = "--data GOT-10k/train --data stills --out pairs.db"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="Cut targets out of the sequences in this folder, in any layout, or out of the images"
        " in it, with or without boxes.csv; repeatable",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="Write the crops to this file, or continue it if it exists",
    )
    add(
        "--every",
        type=positive_int,
        default=1,
        metavar="N",
        help="Take each Nth frame of a video",
    )
    add(
        "--max-per-sequence",
        type=positive_int,
        metavar="N",
        help="Take at most N frames of a video, at even distances (default: all)",
    )
    add(
        "--workers",
        type=process_count,
        default=1,
        metavar="N",
        help="Decode and crop in N processes",
    )
    add(
        "--skip-broken",
        action="store_true",
        help="Leave out the sequences whose boxes cannot be read or do not match their frames",
    )
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
