"""How surely a place shows the target, by the first look alone."""

from __future__ import annotations

import numpy as np

# Fitted by logistic regression on the 12 videos of GOT-10k/val and departures made from them, see
# docs/experiments/long-term.md.
SLOPE, OFFSET = 12.8, -6.8


def confidence(first: np.ndarray, look: np.ndarray) -> float:
    """The probability that a box overlaps the target by more than a half.

    `first`, `look`: features `[C, 6, 6]` of the first frame's target and of the place found. Later
    looks do not count, so a place that was learned by mistake does not confirm itself.
    """
    norms = np.linalg.norm(first) * np.linalg.norm(look)
    likeness = float(np.vdot(first, look)) / max(float(norms), 1e-12)  # cosine
    return 1 / (1 + float(np.exp(-(SLOPE * likeness + OFFSET))))
