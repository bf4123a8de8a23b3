"""How surely a place shows the target, by looks that the first frame confirms."""

from __future__ import annotations

import numpy as np

# Chosen and fitted on the 12 videos of GOT-10k/val and departures made from them, see
# docs/experiments/long-term.md.
CONFIRMING = 0.58  # likeness to the first look from which a look is learned
RATE = 0.1  # share of a new look in what was learned
SLOPE, OFFSET = 11.6, -7.2  # of the logistic function that turns likeness into probability


class Confidence:
    """Judge looks of a target: features `[C, 6, 6]` of its first frame and of places in later ones.

    Looks are compared with a mean of those that were like the first one. So the target may change
    its looks step by step, but a place that was taken by mistake never confirms itself.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.first = self.learned = first

    def judge(self, look: np.ndarray) -> float:
        """The probability that a box at this place overlaps the target by more than a half."""
        return 1 / (1 + float(np.exp(-(SLOPE * likeness(self.learned, look) + OFFSET))))

    def learn(self, look: np.ndarray) -> None:
        """Learn the look of a place taken for the target, where the first look confirms it."""
        if likeness(self.first, look) >= CONFIRMING:
            self.learned = self.learned + np.float32(RATE) * (look - self.learned)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine between two arrays of features, -1 to 1."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / max(norms, 1e-12)
