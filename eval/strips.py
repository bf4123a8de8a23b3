"""Frames with every tracker's box, for the best and the worst sequences of a report's subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.plots import tracker_color
from rbsf.eval.report_tables import find_tracker, labels, sequence_gap

WIDTH = 320  # pixels at most
QUALITY = 85
WHITE, DARK = (255, 255, 255), (20, 20, 20)
OUTLINE = (-1, -1, 2, 2)  # what makes a box larger by a pixel on each side
FAR = 10_000  # pixels; OpenCV draws nothing sensible beyond


@dataclass(frozen=True)
class Strip:
    """Frames of one sequence, as JPEG files, with their numbers from 0."""

    sequence: str
    caption: str
    frames: list[bytes]
    frame_numbers: list[int]


def make_strips(
    sequences: list[Sequence],
    report: dict[str, Any],
    boxes: Mapping[str, Mapping[str, np.ndarray]],
    count: int = 2,
    frames: int = 5,
) -> list[Strip]:
    """Strips of the subject's `count` best sequences by AUC, then of its `count` worst, none
    twice.

    `boxes`: {label: {sequence: (N, 4) x,y,w,h in pixels, 0-based}}; a tracker without boxes on a
    sequence is left out there. Frames that cannot be read are left out, and so are sequences
    without any.
    """
    by_name = {sequence.name: sequence for sequence in sequences if sequence.frames}
    subject = find_tracker(report, report["subject"])
    scores = {
        name: score["auc"] for name, score in (subject["sequences"] if subject else {}).items()
    }
    order = sorted((name for name in scores if name in by_name), key=lambda name: -scores[name])
    best, worst = order[:count], order[count:][-count:]
    strips = []
    for kind, name in [
        *(("best", name) for name in best),
        *(("worst", name) for name in reversed(worst)),
    ]:
        drawn = {label: boxes.get(label, {}).get(name) for label in labels(report)}
        strips.append(
            _strip(by_name[name], _caption(report, kind, name, scores[name]), drawn, report, frames)
        )
    return [strip for strip in strips if strip.frames]


def _caption(report: dict[str, Any], kind: str, name: str, score: float) -> str:
    text = f"{name}, among the {kind} of {report['subject']}: AUC {score:.3f}"
    gap = sequence_gap(report, name)
    return text if gap is None else f"{text}, {report['reference']} {score - gap:.3f}"


def _strip(
    sequence: Sequence,
    caption: str,
    boxes: dict[str, np.ndarray | None],
    report: dict[str, Any],
    frames: int,
) -> Strip:
    strip = Strip(sequence.name, caption, [], [])
    for number in dict.fromkeys(
        np.linspace(0, len(sequence) - 1, frames).round().astype(int).tolist()
    ):
        try:
            image = sequence.image(number)
        except (ValueError, OSError):
            continue
        strip.frames.append(_draw(image, number, sequence.boxes, boxes, report["subject"]))
        strip.frame_numbers.append(number)
    return strip


def _draw(
    image: np.ndarray,
    number: int,
    truth: np.ndarray,
    boxes: dict[str, np.ndarray | None],
    subject: str,
) -> bytes:
    """JPEG of an H x W x 3 uint8 RGB frame, at most `WIDTH` wide; the subject over the others,
    the truth over all.
    """
    scale = min(1.0, WIDTH / image.shape[1])
    size = (round(image.shape[1] * scale), max(round(image.shape[0] * scale), 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    colors = {label: _rgb(tracker_color(index)) for index, label in enumerate(boxes)}
    for label in sorted(boxes, key=lambda label: label == subject):
        rows = boxes[label]
        if rows is not None:
            _rectangle(image, rows[number] * scale, colors[label], 2)
    _rectangle(image, truth[number] * scale + OUTLINE, DARK, 1)
    _rectangle(image, truth[number] * scale, WHITE, 1)
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    flags += [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # thin lines keep their colours
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)[1].tobytes()


def _rectangle(image: np.ndarray, box: np.ndarray, color: tuple[int, ...], width: int) -> None:
    if np.isfinite(box).all():
        left, top, right, bottom = (
            np.clip([*box[:2], *(box[:2] + box[2:] - 1)], -FAR, FAR).round().astype(int).tolist()
        )
        cv2.rectangle(image, (left, top), (right, bottom), color, width)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
