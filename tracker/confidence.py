"""Estimates how surely a place shows the target, from looks that the first frame confirms."""

from __future__ import annotations

import numpy as np

# Chosen and fitted on the 12 videos of GOT-10k/val and on departures made from them, see
# docs/experiments/long-term.md.
CONFIRMING = 0.58  # least likeness to the first look for a look to be learned
RATE = 0.1  # weight of a new look in the learned look
SLOPE, OFFSET = 11.6, -7.2  # parameters of the logistic function from likeness to probability


class Confidence:
    """Judge looks of a target: features `[C, 6, 6]` in its first frame and at places in later ones.

    Looks are compared with a mean of the looks that were similar to the first one. So the target
    may change its look gradually, but a place that was chosen by mistake never confirms itself.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.first = self.learned = first

    def judge(self, look: np.ndarray) -> float:
        """The probability that a box at this place overlaps the target by more than a half."""
        return 1 / (1 + float(np.exp(-(SLOPE * likeness(self.learned, look) + OFFSET))))

    def learn(self, look: np.ndarray) -> None:
        """Learn the look of the place chosen as the target, if the first look confirms it."""
        if likeness(self.first, look) >= CONFIRMING:
            self.learned = self.learned + np.float32(RATE) * (look - self.learned)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine between two arrays of features, -1 to 1."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / max(norms, 1e-12)
