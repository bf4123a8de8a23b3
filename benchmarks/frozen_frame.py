"""Measure how far trackers' boxes move on a video with a still picture.

    python benchmarks/frozen_frame.py --root GOT-10k/val --tracker rbsf

Each tracker starts on the true box of a sequence's first frame, and then sees the same frame
repeatedly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.shipped import DEFAULT
from rbsf.system.program import positive_int, run

if TYPE_CHECKING:
    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.trackers import Tracker

HEADS = (
    "tracker",
    "overlap with the true box: first, last",
    "last with first",
    "worst of these",
    "pixels a frame, last half",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="a sequence, or a folder of them")
    add(
        "--tracker",
        action="append",
        metavar="[LABEL=]WHAT",
        help=f"as eval/run_benchmarks.py names it; repeatable (default: {DEFAULT})",
    )
    add("--frames", type=positive_int, default=60, metavar="N", help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Track, and print a row of the table for each tracker."""
    from rbsf.datasets.video.sequences import load_sequences
    from rbsf.eval.trackers import parse_tracker

    args = parse_args(argv)
    if args.frames < 4:
        raise ValueError(f"--frames {args.frames}: give 4 or more; the last half is looked at")
    specs = [parse_tracker(text) for text in args.tracker or [DEFAULT]]
    sequences = load_sequences(args.root)
    print("| " + " | ".join(HEADS) + " |")
    print("|---" + "|---:" * (len(HEADS) - 1) + "|")
    for spec in specs:
        tracker = spec.build()
        rows = [measure(tracker, sequence, args.frames) for sequence in sequences]
        first, last, kept, move = np.mean(rows, axis=0)
        worst = np.min(rows, axis=0)[2]
        ends = f"{first:.3f}, {last:.3f}"
        print(f"| {spec.label} | {ends} | {kept:.3f} | {worst:.3f} | {move:.2f} |", flush=True)


def measure(tracker: Tracker, sequence: Sequence, frames: int) -> list[float]:
    """Show a tracker the first frame repeatedly; returns three overlaps, and pixels per frame.

    The overlaps are: first box with true box, last box with true box, last box with first box. The
    pixels are the mean movement in the last half of the frames.
    """
    from rbsf.eval.metrics import overlaps

    image, truth = sequence.image(0), sequence.boxes[:1]  # [1, 4]
    tracker.init(image, truth[0])
    boxes = np.array([tracker.update(image).box for _ in range(frames)])  # [frames, 4]
    ends = boxes[[0, -1]]
    first, last = overlaps(ends, truth.repeat(2, axis=0))
    (kept,) = overlaps(ends[1:], ends[:1])
    moves = np.abs(np.diff(boxes[frames // 2 :], axis=0)).max(axis=1)
    return [first, last, kept, moves.mean()]


if __name__ == "__main__":
    run(main)
