"""Passes: a sequence is tracked several times, starting at several of its frames.

With one pass, a tracker that loses its target early by chance fails in the whole rest. Passes that
start at evenly spaced frames give more to score from the same data; VOT has used them since 2020.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from rbsf.system.flags import Flags
from rbsf.system.program import positive_int

if TYPE_CHECKING:  # these load OpenCV, which would slow --help down
    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.benchmarks import Split


def add_pass_flags(parser: argparse.ArgumentParser) -> Flags:
    """Add --every and --frames in their own group, and return the group."""
    flags = parser.add_argument_group("which parts of the sequences are tracked, and how often")
    flags.add_argument(
        "--every",
        type=positive_int,
        metavar="N",
        help="Start a pass of its own at every Nth frame of each sequence, which gives more passes"
        " to score (default: one pass, from the first frame)",
    )
    flags.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="End a pass after N frames (default: where the sequence ends)",
    )
    return flags


def in_passes(split: Split, every: int | None, frames: int | None) -> Split:
    """Replace the sequences of a split by their passes, see `passes`, if either number is given."""
    if not (every or frames):
        return split
    parts = []
    for sequence in split.sequences:
        parts += passes(sequence, every, frames)
    variant = split.variant
    if every:
        variant += f"-every{every}"
    if frames:
        variant += f"-frames{frames}"
    return dataclasses.replace(split, sequences=parts, variant=variant, passes=True)


def passes(sequence: Sequence, every: int | None, frames: int | None) -> list[Sequence]:
    """Parts of a sequence that are tracked separately: one from every `every`th frame on.

    A part reaches to the end of the sequence, or has at most `frames` frames. Parts that the end
    cuts to fewer frames than both `every` and `frames` are left out. So are parts with fewer than
    two boxes, which cannot be scored. If none is left, the first part is kept.
    """
    whole = len(sequence)
    step = every or whole
    length = frames or whole
    least = min(step, length)
    parts = []
    for first in range(0, max(1, whole - least + 1), step):
        last = min(whole, first + length)
        parts.append(sequence.part(first, last))
    scored = [part for part in parts if len(part.annotated()) > 1]
    return scored or parts[:1]
