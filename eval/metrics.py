"""Metrics of single-target tracking: success AUC and precision (OTB, UAV123), average overlap and success
rate (GOT-10k).

Boxes are x,y,w,h in pixels, float (N, 4), prediction and truth in the same frame of coordinates. The first
annotated frame, whose box is given, and frames where the target is absent (NaN truth) do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)  # OTB's: 0, 0.05, ..., 1
PRECISION_PIXELS = 20.0


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1 of one sequence, or the mean over sequences."""

    auc: float  # mean over 21 thresholds of the share of frames with overlap > threshold; at most 20/21
    precision: float  # share of frames with the centre within 20 pixels
    ao: float  # mean overlap
    sr50: float  # share of frames with overlap > 0.5


def overlaps(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes: (N, 4), (N, 4) -> (N,); 0 where neither has area."""
    top_left = np.maximum(boxes[:, :2], truth[:, :2])
    bottom_right = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)
    union = np.prod(boxes[:, 2:], axis=1) + np.prod(truth[:, 2:], axis=1) - shared
    return np.where(union > 0, shared / np.maximum(union, np.finfo(float).tiny), 0.0)


def center_errors(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in pixels between the centres of each pair of boxes: (N, 4), (N, 4) -> (N,)."""
    return np.linalg.norm((boxes[:, :2] + boxes[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2), axis=1)


def score_sequence(boxes: np.ndarray, truth: np.ndarray) -> Scores:
    """Score a tracker's boxes (N, 4) on a sequence against the truth (N, 4), NaN rows = absent.

    Raises ValueError where the lengths differ, a box is not finite, or no frame is left to score.
    """
    boxes, truth = np.asarray(boxes, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if boxes.shape != truth.shape or boxes.shape[1:] != (4,):
        raise ValueError(
            f"boxes {boxes.shape} and truth {truth.shape} differ in shape; both need one x,y,w,h per frame"
        )
    counted = np.isfinite(truth).all(axis=1)
    counted[: counted.argmax() + 1] = False
    if not counted.any():
        raise ValueError(f"none of {len(truth)} frames can be scored: beyond the first frame no target is annotated")
    if not np.isfinite(boxes[counted]).all():
        raise ValueError(f"box of frame {int(np.argmax(~np.isfinite(boxes).all(axis=1)))} is not finite")
    overlap, error = overlaps(boxes[counted], truth[counted]), center_errors(boxes[counted], truth[counted])
    return Scores(
        auc=float((overlap[:, None] > SUCCESS_THRESHOLDS).mean()),
        precision=float((error <= PRECISION_PIXELS).mean()),
        ao=float(overlap.mean()),
        sr50=float((overlap > 0.5).mean()),
    )


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Mean of each score over sequences, each sequence counting once. Raises ValueError for none."""
    rows = [asdict(score) for score in scores]
    if not rows:
        raise ValueError("no sequence to average over")
    return Scores(**{key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
