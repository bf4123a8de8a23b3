"""Metrics of single-target tracking, with the functions of the got10k toolkit.

The scores equal the toolkit's reports to 1e-12. Boxes are x,y,w,h in pixels, `[N, 4]` float;
prediction and truth have the same origin. A row of NaN in the truth is an absent target. The
toolkit's functions write into their arguments, so they get copies. The toolkit accepts sequences
without any annotated frame and results of another length, with a warning or a silent cut; here they
are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

import numpy as np

PRECISION_PIXELS = np.arange(51)
NORM_PRECISION = np.arange(51) / 100  # TrackingNet's: distances in sizes of the target
PRECISION_AT = 20  # pixels: the threshold whose precision is reported


@dataclass(frozen=True)
class Protocol:
    """How a benchmark scores."""

    text: str  # description for the report
    success: np.ndarray  # overlap thresholds
    first_counts: bool  # the first frame, whose box is given, is scored
    absent_counts: bool  # a frame without target is scored, as a miss
    bounded: bool  # boxes are clipped to the frame
    pooled: bool  # the mean is over all frames, not over sequences

    @property
    def thresholds(self) -> dict[str, list[float]]:
        """Thresholds of each curve."""
        return {
            "success": self.success.tolist(),
            "precision": PRECISION_PIXELS.tolist(),
            "norm_precision": NORM_PRECISION.tolist(),
        }


_OPE = (
    "One-pass evaluation by the rules of the got10k toolkit: AUC is the mean over 21 thresholds of"
    " the share of frames whose overlap is greater, so that perfect boxes score 0.952; precision is"
    " the share of frames with the centre within 20 pixels; the first frame counts; {absent}; means"
    " are over sequences. Normalised precision is TrackingNet's: the mean over thresholds from 0 to"
    " 0.5 of the share of frames whose centre error, in widths and heights of the target, is not"
    " greater."
)
OTB = Protocol(
    _OPE.format(absent="frames without a target count as misses, as the toolkit has it for OTB"),
    np.linspace(0, 1, 21),
    first_counts=True,
    absent_counts=True,
    bounded=False,
    pooled=False,
)
OPE = replace(OTB, text=_OPE.format(absent="frames without a target do not"), absent_counts=False)
GOT10K = Protocol(
    "GOT-10k's evaluation by the got10k toolkit: AO is the mean overlap and SR the share of frames"
    " whose overlap is greater than 0.5 or 0.75; boxes are clipped to the frame, the first frame"
    " and frames without a target do not count, means are over all frames. Precision is as for OTB,"
    " normalised precision as for TrackingNet.",
    np.linspace(0, 1, 101),
    first_counts=False,
    absent_counts=False,
    bounded=True,
    pooled=True,
)


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1."""

    auc: float  # mean of the success curve
    precision: float  # share of frames with the centre within 20 pixels
    norm_precision: float  # mean of the curve of normalised centre errors
    ao: float  # mean overlap
    sr50: float  # share of frames with overlap > 0.5
    sr75: float


@dataclass(frozen=True)
class Curves:
    """Share of frames at each threshold of `Protocol.thresholds`."""

    success: np.ndarray
    precision: np.ndarray
    norm_precision: np.ndarray
    overlap_scores: np.ndarray  # AO, SR0.5 and SR0.75
    frames: int  # number of frames that were scored

    @property
    def scores(self) -> Scores:
        """The curves in numbers."""
        return Scores(
            float(self.success.mean()),
            float(self.precision[PRECISION_AT]),
            float(self.norm_precision.mean()),
            *map(float, self.overlap_scores),
        )


def overlaps(
    boxes: np.ndarray, truth: np.ndarray, bound: tuple[int, int] | None = None
) -> np.ndarray:
    """Intersection over union of each pair of boxes: `[N, 4]` and `[N, 4]` to `[N]`.

    It is 0 if neither box has area. `bound` (width, height) clips both to the frame, as the toolkit
    does for GOT-10k: corners are moved into it, but sizes are not shortened to match.
    """
    from got10k.utils.metrics import rect_iou  # slow, because it loads shapely

    copies = [np.array(rows, dtype=np.float64) for rows in (boxes, truth)]
    return rect_iou(*copies, bound=bound)


def center_errors(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in pixels between the centres of each pair of boxes: `[N, 4]`, `[N, 4]` to `[N]`."""
    from got10k.utils.metrics import center_error

    return center_error(np.asarray(boxes, dtype=np.float64), np.asarray(truth, dtype=np.float64))


def norm_center_errors(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same distance in widths and heights of the true box (TrackingNet)."""
    offsets = (boxes[:, :2] + boxes[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2)
    sizes = np.maximum(truth[:, 2:], np.finfo(float).eps)
    return np.linalg.norm(offsets / sizes, axis=1)


def score_sequence(
    boxes: np.ndarray,
    truth: np.ndarray,
    protocol: Protocol = OPE,
    bound: tuple[int, int] | None = None,
) -> Curves:
    """Score a tracker's boxes `[N, 4]` on a sequence against the truth `[N, 4]`.

    `bound`: the frame's (width, height). The box of the first annotated frame is given to trackers,
    so the true one is used. Raises ValueError if the lengths differ, a box is not finite, or no
    frame is left to score.
    """
    boxes = np.array(boxes, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    if boxes.shape != truth.shape or boxes.shape[1:] != (4,):
        raise ValueError(
            f"boxes {boxes.shape} and truth {truth.shape} differ in shape;"
            " both need one x,y,w,h per frame"
        )
    counted = np.isfinite(truth).all(axis=1)
    misses = int((~counted).sum()) if protocol.absent_counts else 0
    if counted.any():
        first = int(counted.argmax())
        boxes[first] = truth[first]
        counted[first] = protocol.first_counts
    if not counted.any():
        raise ValueError(f"none of {len(truth)} frames can be scored: no target is annotated")
    bad = counted & ~np.isfinite(boxes).all(axis=1)
    if bad.any():
        raise ValueError(f"box of frame {int(np.argmax(bad))} is not finite")
    size = bound if protocol.bounded else None
    return _curves(boxes[counted], truth[counted], protocol, size, misses)


def _curves(
    boxes: np.ndarray,
    truth: np.ndarray,
    protocol: Protocol,
    bound: tuple[int, int] | None,
    misses: int,
) -> Curves:
    """The curves of boxes that all count, and of `misses` frames without a hit."""
    overlap = overlaps(boxes, truth, bound)
    errors = center_errors(boxes, truth)
    norm_errors = norm_center_errors(boxes, truth)
    frames = len(overlap) + misses
    sums = [overlap.sum(), (overlap > 0.5).sum(), (overlap > 0.75).sum()]
    return Curves(
        (overlap[:, None] > protocol.success).sum(axis=0) / frames,
        (errors[:, None] <= PRECISION_PIXELS).sum(axis=0) / frames,
        (norm_errors[:, None] <= NORM_PRECISION).sum(axis=0) / frames,
        np.array(sums) / frames,
        frames,
    )


def mean_curves(curves: Iterable[Curves], pooled: bool = False) -> Curves:
    """Mean over sequences. Each counts once, or with `pooled` by its number of frames.

    Raises ValueError if there are none.
    """
    rows = list(curves)
    if not rows:
        raise ValueError("no sequence to average over")
    weights = [row.frames if pooled else 1 for row in rows]

    def mean(name: str) -> np.ndarray:
        return np.average([getattr(row, name) for row in rows], axis=0, weights=weights)

    frames = sum(row.frames for row in rows)
    return Curves(
        mean("success"), mean("precision"), mean("norm_precision"), mean("overlap_scores"), frames
    )


def spread(scores: Iterable[Scores]) -> Scores | None:
    """Sample standard deviation of each score over runs; None for fewer than two."""
    rows = [astuple(row) for row in scores]
    if len(rows) < 2:
        return None
    return Scores(*(float(np.std(column, ddof=1)) for column in zip(*rows, strict=True)))
