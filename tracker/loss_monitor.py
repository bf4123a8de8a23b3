"""Whether a target is lost, by its score over some frames."""

from __future__ import annotations


class LossMonitor:
    """A smoothed score with two thresholds.

    The target is lost once the score is below `lost`, until it is at least `found` again. `rate`:
    share of a new frame in the smoothed score, which starts at 1.
    """

    def __init__(self, lost: float, found: float, rate: float) -> None:
        self.lost_score, self.found_score, self.rate = lost, found, rate
        self.score, self.lost = 1.0, False

    def update(self, score: float) -> bool:
        """Whether the target is lost, with one more frame's score."""
        self.score += self.rate * (score - self.score)
        self.lost = self.score < (self.found_score if self.lost else self.lost_score)
        return self.lost
