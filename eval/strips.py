"""Frames with every tracker's box, for the best and the worst sequences of a report's subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.plots import tracker_color
from rbsf.eval.report_form import Report
from rbsf.eval.report_tables import find_tracker, labels, sequence_gap

COUNT = 2  # best sequences, and worst ones, that are shown
FRAMES = 5  # of each sequence
WIDTH = 320  # largest width of a frame in pixels
QUALITY = 85  # quality of JPEG files, up to 100
WHITE, DARK = (255, 255, 255), (20, 20, 20)
OUTLINE = (-1, -1, 2, 2)  # added to a box x,y,w,h: one pixel more on each side
FAR = 10_000  # pixels; OpenCV draws lines wrongly beyond


@dataclass(frozen=True)
class Strip:
    """Frames of one sequence, as JPEG files, with their numbers, counted from 0."""

    sequence: str
    caption: str
    frames: list[bytes]
    frame_numbers: list[int]


def make_strips(
    sequences: list[Sequence],
    report: Report,
    boxes: Mapping[str, Mapping[str, np.ndarray]],
) -> list[Strip]:
    """Strips of the subject's COUNT best sequences by AUC, then of its COUNT worst, none twice.

    `boxes`: {label: {sequence: [N, 4] x,y,w,h in pixels, 0-based}}. A tracker without boxes on a
    sequence is left out there. Frames that cannot be read are left out, and so are sequences
    without any.
    """
    by_name = {sequence.name: sequence for sequence in sequences if sequence.frames}
    subject = find_tracker(report, report["subject"])
    scored = subject["sequences"] if subject else {}
    scores = {name: score["auc"] for name, score in scored.items() if name in by_name}
    order = sorted(scores, key=lambda name: -scores[name])
    best = order[:COUNT]
    worst = order[COUNT:][-COUNT:]
    kinds = dict.fromkeys(best, "best") | dict.fromkeys(reversed(worst), "worst")
    strips = []
    for name, kind in kinds.items():
        drawn = {label: boxes.get(label, {}).get(name) for label in labels(report)}
        caption = _caption(report, kind, name, scores[name])
        strip = _strip(by_name[name], caption, drawn, report["subject"])
        if strip.frames:
            strips.append(strip)
    return strips


def _caption(report: Report, kind: str, name: str, score: float) -> str:
    text = f"{name}, among the {kind} of {report['subject']}: AUC {score:.3f}"
    gap = sequence_gap(report, name)
    if gap is None:
        return text
    return f"{text}, {report['reference']} {score - gap:.3f}"


def _strip(
    sequence: Sequence,
    caption: str,
    boxes: dict[str, np.ndarray | None],
    subject: str,
) -> Strip:
    """Up to FRAMES frames at even distances."""
    strip = Strip(sequence.name, caption, [], [])
    numbers = np.linspace(0, len(sequence) - 1, FRAMES).round().astype(int).tolist()
    for number in dict.fromkeys(numbers):
        try:
            image = sequence.image(number)
        except (ValueError, OSError):
            continue
        strip.frames.append(_draw(image, number, sequence.boxes, boxes, subject))
        strip.frame_numbers.append(number)
    return strip


def _draw(
    image: np.ndarray,
    number: int,
    truth: np.ndarray,
    boxes: dict[str, np.ndarray | None],
    subject: str,
) -> bytes:
    """JPEG of an `[H, W, 3]` uint8 RGB frame, at most `WIDTH` wide, with boxes.

    The subject's box is drawn over the other trackers', the true one over all.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WIDTH / width)
    size = (round(width * scale), max(round(height * scale), 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    colors = {label: _rgb(tracker_color(index)) for index, label in enumerate(boxes)}
    for label in sorted(boxes, key=lambda label: label == subject):
        rows = boxes[label]
        if rows is not None:
            _rectangle(image, rows[number] * scale, colors[label], 2)
    true_box = truth[number] * scale
    _rectangle(image, true_box + OUTLINE, DARK, 1)
    _rectangle(image, true_box, WHITE, 1)
    return _to_jpeg(image)


def _to_jpeg(image: np.ndarray) -> bytes:
    # Without subsampling thin lines keep their colours.
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, flags)[1].tobytes()


def _rectangle(image: np.ndarray, box: np.ndarray, color: tuple[int, ...], width: int) -> None:
    """Draw a box x,y,w,h, if it is finite, with lines of `width` pixels."""
    if not np.isfinite(box).all():
        return
    first, last = box[:2], box[:2] + box[2:] - 1
    corners = np.clip([*first, *last], -FAR, FAR)
    left, top, right, bottom = corners.round().astype(int).tolist()
    cv2.rectangle(image, (left, top), (right, bottom), color, width)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
