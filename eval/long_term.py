"""Long-term evaluation: targets that are absent for a time.

Precision, recall and F are those of the VOT long-term challenge (Lukezic et al., "Now you see me:
evaluating performance in long-term visual tracking", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.metrics import overlaps
from rbsf.eval.one_pass import one_pass
from rbsf.eval.trackers import Tracker

THRESHOLDS = 100  # scores at which precision and recall are taken
OVERLAP = 0.5  # a visible target counts as tracked above it
FOUND_OVERLAP, FOUND_FRAMES = 0.3, 25  # found again: this overlap within this many frames
# Jump: called tracked below this overlap for this many frames in a row.
JUMP_OVERLAP, JUMP_FRAMES = 0.1, 10


@dataclass(frozen=True)
class LongRun:
    """A tracker's output for N frames: from the first true box, which it got, to the end."""

    boxes: np.ndarray  # [N, 4] x, y, w, h in pixels
    scores: np.ndarray  # [N]
    lost: np.ndarray  # [N] bool


@dataclass(frozen=True)
class Counts:
    """Numbers of frames, by the truth and by what the tracker says."""

    tracked: int = 0  # visible, said to be there, overlap above OVERLAP
    failed: int = 0  # visible, said to be there, less overlap
    missed: int = 0  # visible, said to be lost
    false_positives: int = 0  # absent, said to be there
    true_negatives: int = 0  # absent, said to be lost

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class LongScores:
    """Means over sequences, 0 to 1; NaN if no such case happened."""

    f: float  # F at the threshold of the score where it is highest
    precision: float  # precision at that threshold
    recall: float  # recall at that threshold
    counts: Counts
    noticed: float  # share of the frames without overlap that are called lost
    false_alarms: float  # share of the frames with overlap above OVERLAP that are called lost
    found: float  # share of the targets that return
    after: float  # overlap from a target's last return to the end
    jumps: float  # share of the sequences with a jump


class _Judged(NamedTuple):
    """A run without its first frame, the true boxes `[N, 4]`, and the overlap of each frame."""

    run: LongRun
    truth: np.ndarray
    overlap: np.ndarray


def track_long(
    tracker: Tracker, sequence: Sequence, progress: Callable[[], object] = lambda: None
) -> LongRun:
    """Track a sequence in one pass; `progress` is called after each frame.

    Raises the errors of `one_pass`.
    """
    results = []
    for step in one_pass(tracker, sequence):
        results.append(step.result)
        progress()
    return LongRun(
        boxes=np.array([result.box for result in results]),
        scores=np.array([result.score for result in results]),
        lost=np.array([result.lost for result in results]),
    )


def score_long(runs: Iterable[tuple[LongRun, Sequence]]) -> LongScores:
    """The scores of a tracker's runs over sequences; the first frame of each run is left out."""
    judged = [_judge(run, sequence) for run, sequence in runs]
    f, precision, recall = _best_f(judged)
    lost = np.concatenate([one.run.lost for one in judged])
    overlap = np.concatenate([one.overlap for one in judged])
    returning = [one for one in judged if _returns(one.truth)]
    after = [one.overlap[last_return(one.truth) :].mean() for one in returning]
    return LongScores(
        f=f,
        precision=precision,
        recall=recall,
        counts=sum((count_frames(*one) for one in judged), Counts()),
        noticed=_mean(lost[overlap == 0]),
        false_alarms=_mean(lost[overlap > OVERLAP]),
        found=_mean(np.array([is_found(*one) for one in returning])),
        after=_mean(np.array(after)),
        jumps=_mean(np.array([has_jump(one.run, one.overlap) for one in judged])),
    )


def scores_and_hits(runs: Iterable[tuple[LongRun, Sequence]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[N]` of all frames except the first ones, and whether their boxes hit, `[N]` bool."""
    judged = [_judge(run, sequence) for run, sequence in runs]
    scores = np.concatenate([one.run.scores for one in judged])
    return scores, np.concatenate([one.overlap for one in judged]) > OVERLAP


def count_frames(run: LongRun, truth: np.ndarray, overlap: np.ndarray) -> Counts:
    """Count the frames of one run. `truth`: true boxes `[N, 4]`, NaN where the target is absent."""
    visible = np.isfinite(truth[:, 0])
    hit = overlap > OVERLAP  # only where the target is visible
    followed = ~run.lost[visible]
    return Counts(
        tracked=int((followed & hit[visible]).sum()),
        failed=int((followed & ~hit[visible]).sum()),
        missed=int((~followed).sum()),
        false_positives=int((~run.lost[~visible]).sum()),
        true_negatives=int(run.lost[~visible].sum()),
    )


def last_return(truth: np.ndarray) -> int:
    """First frame after the last absence of a target with these boxes `[N, 4]`, NaN if absent."""
    return int(np.flatnonzero(np.isnan(truth[:, 0]))[-1]) + 1


def is_found(run: LongRun, truth: np.ndarray, overlap: np.ndarray) -> bool:
    """Whether a target is tracked within FOUND_FRAMES frames of its last return."""
    back = last_return(truth)
    soon = slice(back, back + FOUND_FRAMES)
    return bool((~run.lost[soon] & (overlap[soon] > FOUND_OVERLAP)).any())


def has_jump(run: LongRun, overlap: np.ndarray) -> bool:
    """Whether JUMP_FRAMES frames in a row are called tracked, but miss the target."""
    wrong = ~run.lost & (overlap < JUMP_OVERLAP)
    longest = current = 0
    for each in wrong:
        current = current + 1 if each else 0
        longest = max(longest, current)
    return longest >= JUMP_FRAMES


def _best_f(judged: list[_Judged]) -> tuple[float, float, float]:
    """F, precision and recall at the threshold of the score that has the highest F.

    All are NaN if no frame shows a target.
    """
    scores = np.concatenate([one.run.scores for one in judged])
    best = (0.0, 0.0, 0.0)
    for threshold in np.quantile(scores, np.linspace(0, 1, THRESHOLDS)):
        precision, recall = _precision_and_recall(judged, threshold)
        if np.isnan(recall):
            return recall, recall, recall
        f = 2 * precision * recall / max(precision + recall, 1e-12)
        best = max(best, (f, precision, recall))
    return best


def _precision_and_recall(judged: list[_Judged], threshold: float) -> tuple[float, float]:
    """Means over the sequences; boxes with a lower score than `threshold` count as not given.

    Precision is the mean overlap of the frames with a box, recall of those with a target.
    """
    precisions, recalls = [], []
    for run, truth, overlap in judged:
        given, visible = run.scores >= threshold, np.isfinite(truth[:, 0])
        precisions.append(overlap[given].mean() if given.any() else 1.0)
        recalls.append((overlap * given)[visible].mean() if visible.any() else np.nan)
    return float(np.mean(precisions)), float(np.nanmean(recalls))


def _returns(truth: np.ndarray) -> bool:
    """Whether the target of true boxes `[N, 4]` is absent for a time and there at the end."""
    absent = np.isnan(truth[:, 0])
    return bool(absent.any() and not absent[-1])


def _judge(run: LongRun, sequence: Sequence) -> _Judged:
    rest = LongRun(run.boxes[1:], run.scores[1:], run.lost[1:])
    truth = sequence.boxes[len(sequence) - len(rest.boxes) :]
    visible = np.isfinite(truth[:, 0])
    overlap = np.zeros(len(truth))  # 0 where the target is absent
    overlap[visible] = overlaps(rest.boxes[visible], truth[visible])
    return _Judged(rest, truth, overlap)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
