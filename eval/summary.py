"""Scores of a benchmark's results, as the plain dict that ``rbsf.eval.report`` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.benchmarks import BENCHMARKS, Split, paper_scores
from rbsf.eval.metrics import Curves, Protocol, mean_curves, score_sequence, spread
from rbsf.eval.report import FORMAT
from rbsf.eval.results import Run, annotated


@dataclass(frozen=True)
class Entrant:
    """A tracker in a report: who it is, and how to get its boxes."""

    label: str
    key: str
    runs: list[Callable[[Sequence], Run | None]]  # reader of each run's results
    size: int | None = None  # bytes of its files
    precision: str | None = None
    failures: Mapping[str, str] = field(default_factory=dict)  # {sequence: why it was not tracked}


def summarise(
    split: Split,
    entrants: list[Entrant],
    reference: str | None,
    environment: dict[str, Any],
    attributes: tuple[dict[str, str], dict[str, set]],
) -> dict[str, Any]:
    """Score every entrant on every sequence that it has results of; the form is that of
    ``rbsf.eval.report``.
    """
    protocol = BENCHMARKS[split.dataset].protocol
    bound = cache(frame_size if protocol.bounded else lambda sequence: None)
    words, of_sequence = attributes
    return {
        "format": FORMAT,
        "dataset": split.name,
        "title": split.title,
        "protocol": protocol.text + " Each pass counts as a sequence." * split.passes,
        "frames": sum(map(len, split.sequences)),
        "missing": split.missing,
        "unreadable": split.broken,
        "thresholds": protocol.thresholds,
        "environment": environment,
        "subject": entrants[0].label,
        "reference": reference,
        "trackers": [
            _tracker(entrant, split, protocol, bound, of_sequence) for entrant in entrants
        ],
        "attributes": words,
        "paper": None if split.passes else paper_scores(split.dataset),
    }


def frame_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of its first frame."""
    height, width = sequence.image(0).shape[:2]
    return width, height


def _tracker(
    entrant: Entrant,
    split: Split,
    protocol: Protocol,
    bound: Callable[[Sequence], tuple[int, int] | None],
    of_sequence: Mapping[str, set],
) -> dict[str, Any]:
    curves: dict[str, list[Curves]] = {}  # by sequence, a run each
    speeds: dict[str, float | None] = {}
    names = {
        sequence.name for sequence in split.sequences
    }  # an earlier run may have failed on others
    failed, frames, seconds = (
        {name: why for name, why in entrant.failures.items() if name in names},
        0,
        0.0,
    )
    for sequence in split.sequences:
        try:
            runs = [run for load in entrant.runs if (run := load(sequence)) is not None]
            if len(runs) < len(entrant.runs):
                failed.setdefault(sequence.name, "no result")
                continue
            if len(annotated(sequence)) > 1 or protocol.first_counts:
                scored = [
                    score_sequence(run.boxes, sequence.boxes, protocol, bound(sequence))
                    for run in runs
                ]
                curves[sequence.name] = scored
        except (ValueError, OSError) as error:
            failed[sequence.name] = str(error)
            continue
        failed.pop(sequence.name, None)
        count, spent = _time(sequence, runs)
        frames, seconds = frames + count, seconds + spent
        speeds[sequence.name] = _rate(count, spent)
    means = [mean_curves(runs, protocol.pooled) for runs in zip(*curves.values(), strict=True)]
    return {
        "label": entrant.label,
        "key": entrant.key,
        "bytes": entrant.size,
        "precision": entrant.precision,
        "runs": len(entrant.runs),
        "mean": asdict(mean_curves(means).scores) if means else None,
        "spread": _spread(means),
        "fps": _rate(frames, seconds),
        "curves": _curves(mean_curves(means)) if means else None,
        "sequences": {
            name: {
                **asdict(mean_curves(runs).scores),
                "frames": runs[0].frames,
                "fps": speeds[name],
            }
            for name, runs in curves.items()
        },
        "attributes": _by_attribute(curves, of_sequence, protocol.pooled),
        "failed": failed,
    }


def _by_attribute(
    curves: Mapping[str, list[Curves]], of_sequence: Mapping[str, set], pooled: bool
) -> dict[str, dict[str, Any]]:
    rows = {}
    for attribute in sorted(set().union(*of_sequence.values())) if of_sequence else []:
        names = [name for name in curves if attribute in of_sequence.get(name, ())]
        if names:
            mean = mean_curves((mean_curves(curves[name]) for name in names), pooled)
            rows[attribute] = {**asdict(mean.scores), "sequences": len(names)}
    return rows


def _time(sequence: Sequence, runs: list[Run]) -> tuple[int, float]:
    """Frames tracked and seconds taken; no frames where the times are not known."""
    seconds = float(sum(run.seconds.sum() for run in runs))
    return (len(sequence) - int(annotated(sequence)[0])) * len(runs) if seconds > 0 else 0, seconds


def _rate(frames: int, seconds: float) -> float | None:
    return frames / seconds if seconds > 0 else None


def _spread(means: list[Curves]) -> dict[str, float] | None:
    found = spread(mean.scores for mean in means)
    return asdict(found) if found else None


def _curves(mean: Curves) -> dict[str, list[float]]:
    return {
        name: np.round(getattr(mean, name), 6).tolist()
        for name in ("success", "precision", "norm_precision")
    }
