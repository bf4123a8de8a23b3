"""Trackers on a video that stands still: how far boxes move although nothing does.

python benchmarks/frozen_frame.py --root GOT-10k/val --tracker rbsf --tracker
v3=onnx:BACKBONE.onnx,HEAD.onnx

Each tracker starts on the true box of a sequence's first frame, and then sees that frame again and
again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import positive_int, run

HEADER = """
| tracker | overlap with the true box: first, last | last with first | worst of these | pixels a frame, last half |
|---|---:|---:|---:|---:|"""


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
        help="as eval/run_benchmarks.py names it; repeatable (default: rbsf)",
    )
    add("--frames", type=positive_int, default=60, metavar="N", help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Track, print a row of the table for each tracker."""
    from rbsf.datasets.video.sequences import load_sequences
    from rbsf.eval.metrics import overlaps
    from rbsf.eval.trackers import parse_tracker

    args = parse_args(argv)
    if args.frames < 4:
        raise ValueError(
            f"--frames {args.frames}: give 4 or more, of which the last half is looked at"
        )
    specs = [parse_tracker(text) for text in args.tracker or ["rbsf"]]
    sequences = load_sequences(args.root)
    print(HEADER.strip())
    for spec in specs:
        tracker, rows = spec.build(), []
        for sequence in sequences:
            image, truth = sequence.image(0), sequence.boxes[:1]
            tracker.init(image, truth[0])
            boxes = np.array([tracker.update(image).box for _ in range(args.frames)])
            ends = boxes[[0, -1]]
            moves = np.abs(np.diff(boxes[args.frames // 2 :], axis=0)).max(axis=1)
            rows.append(
                [
                    *overlaps(ends, truth.repeat(2, axis=0)),
                    *overlaps(ends[1:], ends[:1]),
                    moves.mean(),
                ]
            )
        first, last, kept, move = np.mean(rows, axis=0)
        worst = np.min(rows, axis=0)[2]
        print(
            f"| {spec.label} | {first:.3f}, {last:.3f} | {kept:.3f} | {worst:.3f} | {move:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
