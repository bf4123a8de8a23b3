"""Scores of a benchmark, as `rbsf.eval.report` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.benchmarks import BENCHMARKS, Split, paper_scores
from rbsf.eval.metrics import Curves, Protocol, mean_curves, score_sequence, spread
from rbsf.eval.report import FORMAT
from rbsf.eval.report_form import Report, TrackerRow
from rbsf.eval.results import Run

Reader = Callable[[Sequence], Run | None]  # a tracker's boxes in a sequence; None: not tracked
Bound = Callable[[Sequence], tuple[int, int] | None]  # size of the frame that clips boxes


@dataclass(frozen=True)
class Entrant:
    """A tracker in a report: who it is, and how to get its boxes."""

    label: str
    key: str
    runs: list[Reader]  # one for each run
    size: int | None = None  # bytes of its files
    precision: str | None = None
    constants: str = ""  # name of its constants; empty for the tracker's own
    failures: Mapping[str, str] = field(default_factory=dict)  # {sequence: why it was not tracked}


def summarise(
    split: Split,
    entrants: list[Entrant],
    reference: str | None,
    environment: dict[str, Any],
    attributes: tuple[dict[str, str], dict[str, set]],
) -> Report:
    """Score every entrant on every sequence that it has results of.

    `attributes`: as `rbsf.eval.attributes.attributes_of` returns them. Returns what
    `rbsf.eval.report` writes.
    """
    protocol = BENCHMARKS[split.dataset].protocol
    bound = cache(frame_size if protocol.bounded else lambda sequence: None)
    words, of_sequence = attributes
    rows = [_tracker(entrant, split, protocol, bound, of_sequence) for entrant in entrants]
    note = " Each pass counts as a sequence." if split.passes else ""
    return {
        "format": FORMAT,
        "dataset": split.name,
        "title": split.title,
        "protocol": protocol.text + note,
        "frames": sum(map(len, split.sequences)),
        "missing": split.missing,
        "unreadable": split.broken,
        "thresholds": protocol.thresholds,
        "environment": environment,
        "subject": entrants[0].label,
        "reference": reference,
        "trackers": rows,
        "attributes": words,
        "paper": None if split.passes else paper_scores(split.dataset),
    }


def frame_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of the first frame."""
    height, width = sequence.image(0).shape[:2]
    return width, height


def _tracker(
    entrant: Entrant,
    split: Split,
    protocol: Protocol,
    bound: Bound,
    of_sequence: Mapping[str, set],
) -> TrackerRow:
    """A tracker's row of the report."""
    # An earlier run may have failed on sequences that are not in the split.
    names = {sequence.name for sequence in split.sequences}
    failed = {name: why for name, why in entrant.failures.items() if name in names}
    scored: dict[str, _Scored] = {}
    for sequence in split.sequences:
        name = sequence.name
        try:
            found = _score(entrant, sequence, protocol, bound)
        except (ValueError, OSError) as error:
            failed[name] = str(error)
            continue
        if found:
            scored[name] = found
            failed.pop(name, None)
        else:
            failed.setdefault(name, "no result")
    counted = {name: found for name, found in scored.items() if found.curves}
    curves = {name: found.curves for name, found in counted.items()}
    of_runs = _over_sequences(curves, protocol.pooled)
    mean = mean_curves(of_runs) if of_runs else None
    return {
        "label": entrant.label,
        "key": entrant.key,
        "bytes": entrant.size,
        "precision": entrant.precision,
        "constants": entrant.constants,
        "runs": len(entrant.runs),
        "mean": asdict(mean.scores) if mean else None,
        "spread": _spread(of_runs),
        "curves": _curves(mean) if mean else None,
        "fps": _rate(
            sum(found.frames for found in scored.values()),
            sum(found.seconds for found in scored.values()),
        ),
        "sequences": {name: _sequence(found) for name, found in counted.items()},
        "attributes": _by_attribute(curves, of_sequence, protocol.pooled),
        "failed": failed,
    }


class _Scored(NamedTuple):
    """A tracker's results in a sequence."""

    curves: list[Curves]  # one for each run; empty where no frame counts
    frames: int  # tracked by all runs together
    seconds: float


def _score(
    entrant: Entrant, sequence: Sequence, protocol: Protocol, bound: Bound
) -> _Scored | None:
    """Score a sequence; None if it was not tracked. Raises ValueError or OSError."""
    runs = _load_runs(entrant, sequence)
    if not runs:
        return None
    return _Scored(_score_runs(runs, sequence, protocol, bound), *_time(sequence, runs))


def _over_sequences(curves: Mapping[str, list[Curves]], pooled: bool) -> list[Curves]:
    """Mean curves over the sequences, for each run; empty without sequences."""
    return [mean_curves(runs, pooled) for runs in zip(*curves.values(), strict=True)]


def _load_runs(entrant: Entrant, sequence: Sequence) -> list[Run]:
    """The results of all runs; empty if one is missing."""
    runs = [load(sequence) for load in entrant.runs]
    found = [run for run in runs if run is not None]
    return found if len(found) == len(runs) else []


def _score_runs(
    runs: list[Run], sequence: Sequence, protocol: Protocol, bound: Bound
) -> list[Curves]:
    """The curves of each run; none where the first frame is the only one and does not count."""
    if len(sequence.annotated()) <= 1 and not protocol.first_counts:
        return []
    size = bound(sequence)
    return [score_sequence(run.boxes, sequence.boxes, protocol, size) for run in runs]


def _sequence(found: _Scored) -> dict[str, Any]:
    """A tracker's scores on one sequence."""
    scores = asdict(mean_curves(found.curves).scores)
    speed = _rate(found.frames, found.seconds)
    return {**scores, "frames": found.curves[0].frames, "fps": speed}


def _by_attribute(
    curves: Mapping[str, list[Curves]], of_sequence: Mapping[str, set], pooled: bool
) -> dict[str, dict[str, Any]]:
    """Mean scores over the sequences of each attribute that a sequence has."""
    attributes: set[str] = set().union(*of_sequence.values())
    rows = {}
    for attribute in sorted(attributes):
        names = [name for name in curves if attribute in of_sequence.get(name, ())]
        if names:
            mean = mean_curves((mean_curves(curves[name]) for name in names), pooled)
            rows[attribute] = {**asdict(mean.scores), "sequences": len(names)}
    return rows


def _time(sequence: Sequence, runs: list[Run]) -> tuple[int, float]:
    """Frames tracked and seconds taken; no frames if the times are not known."""
    seconds = float(sum(run.seconds.sum() for run in runs))
    if not seconds > 0:
        return 0, seconds
    first = int(sequence.annotated()[0])
    return (len(sequence) - first) * len(runs), seconds


def _rate(frames: int, seconds: float) -> float | None:
    """Frames per second."""
    return frames / seconds if seconds > 0 else None


def _spread(means: list[Curves]) -> dict[str, float] | None:
    """Standard deviation of each score over the runs; None for one run."""
    found = spread(mean.scores for mean in means)
    return asdict(found) if found else None


def _curves(mean: Curves) -> dict[str, list[float]]:
    """The curves as lists, rounded."""
    names = ("success", "precision", "norm_precision")
    return {name: np.round(getattr(mean, name), 6).tolist() for name in names}
