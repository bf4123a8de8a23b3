"""Intervals for mean differences over sequences, and cautions about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rbsf.eval.tables import NOTHING, Cell

RESAMPLES, SEED = 10_000, 0
LEAST_SEQUENCES = 10  # intervals of fewer sequences get a caution

CAUTION = (
    f"An interval of fewer than {LEAST_SEQUENCES} sequences is too narrow: the true difference lies"
    " outside of it more often than 1 time in 20, and other sequences may turn its sign."
)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a mean over `sequences` sequences."""

    low: float
    high: float
    sequences: int

    @property
    def caution(self) -> str:
        """A caution if the interval is of few sequences, else an empty text."""
        if self.sequences >= LEAST_SEQUENCES:
            return ""
        return f"{self.sequences} sequences: this interval says little"

    def cell(self) -> Cell:
        """The interval in a table, with its caution."""
        tags = (self.caution,) if self.caution else ()
        return Cell(f"{self.low:+.3f} to {self.high:+.3f}", self.low, tags=tags)


def interval_of(gaps: np.ndarray, sequences: list[str]) -> Interval | None:
    """95 % interval of the mean of `gaps` `[P]`, a difference for each pass; None for one sequence.

    `sequences` names the sequence of each pass.
    """
    count = len(set(sequences))
    return Interval(*bootstrap(gaps, sequences), count) if count > 1 else None


def interval_cell(interval: Interval | None) -> Cell:
    """An interval in a table, or the sign for a missing one."""
    return interval.cell() if interval else Cell(NOTHING)


def bootstrap(gaps: np.ndarray, sequences: list[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `gaps` `[P]`, a difference for each pass.

    `sequences` names the sequence of each pass. Passes of one sequence are drawn together, because
    they are not independent. Equal input gives equal output.
    """
    _, which = np.unique(sequences, return_inverse=True)
    sums, counts = np.bincount(which, gaps), np.bincount(which)  # [S], of each sequence
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, len(counts), (RESAMPLES, len(counts)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)  # [RESAMPLES]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
