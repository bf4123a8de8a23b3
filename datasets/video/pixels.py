"""Tells true boxes that cannot be pixels of their frames.

Published boxes leave their frames in part, and a few wholly, so only what is certain is told.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Size = tuple[int, int]  # of a frame: width, height, in pixels


def are_fractions(boxes: np.ndarray) -> bool:
    """Whether no number of `[N, 4]` `x, y, w, h`, NaN where unknown, is above 1."""
    return not (boxes > 1).any()


def misfit(boxes: np.ndarray, size_of: Callable[[int], Size]) -> tuple[int, str] | None:
    """The first box that does not fit its frame, and what is wrong; None if boxes may be right.

    `boxes` `[N, 4]` `x, y, w, h` in pixels from 0, NaN where unknown, at least one known. They are
    wrong if the first, or most, lie wholly outside, and if they are plainly two corners. `size_of`
    reads the size of a frame: of the first with a box, and only in doubt of another.
    """
    known = np.flatnonzero(np.isfinite(boxes[:, 0]))
    size = size_of(int(known[0]))
    found = boxes[known]
    outside = _outside(found, size)
    if outside[0] or outside.mean() > 0.5:
        verb = "lies" if outside[0] else "lies, as most boxes do,"
        test, advice = _outside, "give x,y,w,h in pixels of these very frames"
    elif _are_corners(found, size):
        test, verb, advice = _reach_out, "reaches", "a box is x,y,w,h, not two corners"
    else:
        return None
    first = test(found, size).argmax()
    row = int(known[first])
    width, height = size = size_of(row)  # frames may differ in size
    if not test(boxes[row : row + 1], size)[0]:
        return None
    return row, f"{verb} outside the {width}x{height} frame; {advice}"


def _outside(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Which boxes lie wholly outside a frame, `[N]` bool."""
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return ((start >= size) | (end <= 0)).any(axis=1)


def _reach_out(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Which boxes reach out of a frame, at the right or below, `[N]` bool."""
    return (boxes[:, :2] + boxes[:, 2:] > size).any(axis=1)


def _are_corners(boxes: np.ndarray, size: Size) -> bool:
    """Whether boxes that do not fit as x,y,w,h all fit as two corners, and with steadier sizes."""
    second = boxes[:, 2:]
    sides = second - boxes[:, :2]
    fit = (sides > 0).all() and (second <= size).all()
    steadier = 2 * sides.std(axis=0).sum() < second.std(axis=0).sum()
    return bool(fit and steadier and _reach_out(boxes, size).any())
