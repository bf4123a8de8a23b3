"""Scores of other trackers on a training's validation sequences, for comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.metrics import mean_curves, score_sequence
from rbsf.eval.runner import Tracker, track_sequence
from rbsf.eval.trackers.static import StaticTracker
from rbsf.shipped import find_weights
from rbsf.system.files import state_digest, write_atomically
from rbsf.system.text import read_text
from rbsf.tracker.follower import TRACKER_VERSION
from rbsf.tracker.loading import load_network, make_tracker
from rbsf.tracker.siamfc import TrackerConfig

Figures = dict[str, float]

FILE = "yardsticks.json"
STILL, SHIPPED = "a box that never moves", "the shipped RB-SF"


def track_heads(tracker: Tracker, heads: list[Sequence]) -> Figures:
    """AUC and precision of short sequences, tracked; one that cannot be read is left out."""
    curves = []
    for head in tqdm(heads, desc="validation", unit="sequence", leave=False):
        try:
            boxes = track_sequence(tracker, head).boxes
            curves.append(score_sequence(boxes, head.boxes))
        except (ValueError, OSError) as error:  # one bad frame must not end a training
            tqdm.write(f"warning: {head.name} is left out of the validation: {error}")
    if not curves:
        return {}
    mean = mean_curves(curves).scores
    return {"val_auc": mean.auc, "val_precision": mean.precision}


def still_and_shipped(heads: list[Sequence], threads: int) -> dict[str, Figures]:
    """The figures of a box that never moves, and of the shipped RB-SF if it is there.

    `threads`: of the CPU; 0 takes all cores.
    """
    figures = {STILL: track_heads(StaticTracker(), heads)}
    weights = find_weights("rbsf")
    if weights.is_file():
        tracker = make_tracker(load_network(weights, threads=threads or None), TrackerConfig())
        figures[SHIPPED] = track_heads(tracker, heads)
    return figures


def digest_of(heads: list[Sequence], others: Iterable[Path] = ()) -> str:
    """A digest of what decides `still_and_shipped`, and of the state of other files."""
    described = []
    for head in heads:
        boxes = hashlib.sha256(head.boxes.tobytes()).hexdigest()
        described.append((f"{head.name} {boxes}", [Path(file) for file in head.files()]))
    shipped = [find_weights("rbsf"), *sorted(set(others))]
    return state_digest([*described, (f"tracker {TRACKER_VERSION}", shipped)])


def kept(folder: Path, state: str, measure: Callable[[], dict[str, Figures]]) -> dict[str, Figures]:
    """The figures in `folder` if they are of the same `state`, else those of `measure`."""
    path = folder / FILE
    try:
        content = json.loads(read_text(path))
        if content["state"] == state:
            return content["figures"]
    except (OSError, KeyError, TypeError, ValueError):  # missing, or not our file
        pass
    figures = measure()
    write_atomically(path, json.dumps({"state": state, "figures": figures}, indent=1).encode())
    return figures
