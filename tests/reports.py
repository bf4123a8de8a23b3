"""A benchmark report written by hand, for the tests of its readers."""

from __future__ import annotations

from typing import Any

KEYS = ("auc", "precision", "norm_precision", "ao", "sr50", "sr75")


def make_tracker(label: str, sequences: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A tracker's part of a report, with these AUCs by sequence.

    All six measures have the same number, and each sequence has 10 frames.
    """
    mean = sum(sequences.values()) / len(sequences) if sequences else None
    tracker = {
        "label": label,
        "key": f"{label}-1a2b",
        "bytes": 480_000,
        "precision": "float32",
        "runs": 1,
        "mean": None if mean is None else dict.fromkeys(KEYS, mean),
        "spread": None,
        "fps": 12.34,
        "curves": {
            "success": [1, 0.5, 0],
            "precision": [0, 0.4, 1],
            "norm_precision": [0, 0.3, 0.9],
        },
        "sequences": {
            n: dict.fromkeys(KEYS, auc) | {"frames": 10, "fps": 12.0}
            for n, auc in sequences.items()
        },
        "attributes": {},
        "failed": {},
    }
    return tracker | changes


def make_report(*trackers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A report on two of OTB100's sequences; its first tracker is the subject."""
    trackers = trackers or (
        make_tracker("rbsf", {"Girl": 0.5, "Dog": 0.6}),
        make_tracker("teacher", {"Girl": 0.7, "Dog": 0.55}, bytes=9_347_000),
    )
    report = {
        "format": "rbsf-benchmark-1",
        "dataset": "OTB100",
        "title": "OTB100 (2 of 100 sequences)",
        "protocol": "One pass, first frame not counted.",
        "frames": 1020,
        "missing": ["Basketball", "Biker"],
        "unreadable": {"Man": "frame 3 is cut short"},
        "thresholds": {
            "success": [0, 0.5, 1],
            "precision": [0, 25, 50],
            "norm_precision": [0, 0.25, 0.5],
        },
        "environment": {
            "command": "python eval/run_benchmarks.py --tracker 'a b'",
            "python": "3.11.7",
            "cores": 2,
        },
        "subject": trackers[0]["label"],
        "reference": trackers[1]["label"] if len(trackers) > 1 else None,
        "trackers": list(trackers),
        "attributes": {},
        "paper": None,
    }
    return report | changes
