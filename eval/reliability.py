"""How well a tracker's score gives the probability that its box overlaps the target by a half."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rbsf.system.files import write_atomically

BINS = 10


class Bin(NamedTuple):
    """Frames whose score lies in one tenth of 0 to 1."""

    frames: int
    score: float  # mean
    hits: float  # share of the frames whose box overlaps the target by more than a half


def reliability(scores: np.ndarray, hits: np.ndarray) -> list[Bin]:
    """The bins that hold frames; `scores` `[N]`, `hits` `[N]` bool."""
    numbers = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    found = []
    for number in np.unique(numbers):
        inside = numbers == number
        found.append(
            Bin(int(inside.sum()), float(scores[inside].mean()), float(hits[inside].mean()))
        )
    return found


def calibration_error(bins: list[Bin]) -> float:
    """Mean distance of score and share of hits over all frames (expected calibration error)."""
    frames = sum(each.frames for each in bins)
    return sum(each.frames * abs(each.score - each.hits) for each in bins) / frames


def plot_reliability(trackers: dict[str, list[Bin]], path: Path) -> None:
    """Write a reliability diagram of all trackers, a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", label="calibrated")
    for label, bins in trackers.items():
        scores, hits = [each.score for each in bins], [each.hits for each in bins]
        name = f"{label} (error {calibration_error(bins):.2f})"
        axes.plot(scores, hits, marker="o", label=name)
    axes.set_xlabel("score")
    axes.set_ylabel("share of frames with an overlap above 0.5")
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100))
