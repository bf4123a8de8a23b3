"""Passes: sequences tracked from several of their frames on.

One pass from the first frame is one draw: a tracker that by chance loses its target early loses all
the rest.  Passes from frames at even distances, as VOT has had them since 2020, say more with the
same data.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from rbsf.system.program import positive_int

if TYPE_CHECKING:  # these load OpenCV and more, which --help need not wait for
    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.benchmarks import Split


def add_pass_flags(parser: argparse.ArgumentParser) -> None:
    """Add --every and --frames."""
    parser.add_argument(
        "--every",
        type=positive_int,
        metavar="N",
        help="track each sequence from every Nth frame on, in passes of their own: more to score in the same data"
        " (default: from the first frame alone)",
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="end a pass after N frames (default: where the sequence ends)",
    )


def in_passes(split: Split, every: int | None, frames: int | None) -> Split:
    """The split with passes in place of its sequences: see `passes`.  With neither, the split
    itself.
    """
    if not (every or frames):
        return split
    return dataclasses.replace(
        split,
        sequences=[
            part for sequence in split.sequences for part in passes(sequence, every, frames)
        ],
        variant=split.variant
        + (f"-every{every}" if every else "")
        + (f"-frames{frames}" if frames else ""),
        passes=True,
    )


def passes(sequence: Sequence, every: int | None, frames: int | None) -> list[Sequence]:
    """Parts of a sequence, each to be tracked alone: from frame 0, `every`, twice that ... to the
    end, or of at most `frames` frames.

    Those that the end cuts to less than `every` and `frames` are left out, and those with less
    than two boxes, where there is nothing to score; unless there are no others.
    """
    from rbsf.eval.results import annotated

    least = min(every or len(sequence), frames or len(sequence))
    starts = range(0, max(1, len(sequence) - least + 1), every or len(sequence))
    parts = [
        sequence.part(first, min(len(sequence), first + (frames or len(sequence))))
        for first in starts
    ]
    return [part for part in parts if len(annotated(part)) > 1] or parts[:1]
