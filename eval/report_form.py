"""The contents of a benchmark report, as `report.json` has them.

Scores are shares from 0 to 1 by the names of `rbsf.eval.metrics.Scores`; a missing score is None.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Means = dict[str, Any]  # scores by name; some have counts, such as `frames`, besides
Role = Literal["subject", "reference"]
ROLES: tuple[Role, ...] = ("subject", "reference")


class TrackerRow(TypedDict):
    """A tracker's scores."""

    label: str
    key: str  # tells results apart that were made in other ways
    bytes: int | None  # size of the weights
    precision: str | None  # of the arithmetic
    constants: str  # name of constants that replace the tracker's own; old reports have none
    runs: int
    mean: Means | None  # over the sequences; None if none could be scored
    spread: dict[str, float] | None  # standard deviation over the runs; None for one run
    curves: dict[str, list[float]] | None
    fps: float | None
    sequences: dict[str, Means]
    attributes: dict[str, Means]
    failed: dict[str, str]  # why sequences have no scores


class Report(TypedDict):
    """A benchmark's scores."""

    format: str
    dataset: str
    title: str
    protocol: str
    frames: int
    missing: list[str]  # sequences of the published set that are not in the folder
    unreadable: dict[str, str]  # why sequences are not scored for any tracker
    thresholds: dict[str, list[float]]  # of the curves
    environment: dict[str, Any]
    subject: str  # label of the tracker that the report is about
    reference: str | None  # label of the tracker that it is compared with
    trackers: list[TrackerRow]
    attributes: dict[str, str]  # what each attribute means
    paper: dict[str, Any] | None  # see `rbsf.eval.benchmarks.paper_scores`
