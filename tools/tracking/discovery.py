"""Things that a published tracker finds by itself in a frame, and follows through a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rbsf.eval.metrics import overlaps
from rbsf.tracker.anchor_free import AnchorFree
from rbsf.tracker.onnx_pair import OnnxPair
from rbsf.tracker.target import Target

SIZES = (0.08, 0.4)  # least and greatest mean side of a box, as shares of the frame's short side
LEAST_SIDE = 32  # pixels of a frame in which things are looked for
MAX_ASPECT = 2.0  # largest width / height, or height / width
TRIES = 8  # random boxes for each track that is wanted
LOOKS = 3  # how often a box is searched for in its own frame before it counts as found
HELD = 0.8  # least overlap of a box with itself after that
CONFINED = 0.7  # least share of the class map that lies on the box
APART = 0.4  # largest overlap of two tracks where they begin
LARGEST = 0.3  # largest area of a target, as a share of the frame
AGREED = 0.6  # least overlap of the boxes of both ways
CERTAIN = 0.9  # least score on the way there
SHORTEST = 10  # least number of frames of a track
CANDIDATES = 3  # things in a picture among which each of its targets is chosen


class Thing(NamedTuple):
    """A thing that the network finds in a frame."""

    box: np.ndarray  # x, y, w, h
    distinct: float  # share of the class map that lies on the box


def find_tracks(
    network: OnnxPair, frames: Sequence[np.ndarray], rng: np.random.Generator, count: int
) -> Iterator[np.ndarray]:
    """Tracks `[N, 4]` of up to `count` targets: x, y, w, h for each frame, or nan."""
    for backwards in (False, True):
        way = frames[::-1] if backwards else frames
        for thing in find_things(network, way[0], rng, (count + backwards) // 2):
            boxes = follow_and_return(network, way, thing.box)
            if (boxes[:, 2] > 0).sum() >= SHORTEST:
                yield boxes[::-1] if backwards else boxes


def find_things(
    network: OnnxPair, frame: np.ndarray, rng: np.random.Generator, count: int
) -> list[Thing]:
    """Up to `count` things in a frame, on which the network's boxes come to rest."""
    found: list[Thing] = []
    height, width = frame.shape[:2]
    if min(height, width) < LEAST_SIDE:
        return found
    for _ in range(TRIES * count):
        thing = settled(network, frame, random_box(rng, height, width))
        if thing is None or any(overlap(thing.box, other.box) > APART for other in found):
            continue
        found.append(thing)
        if len(found) == count:
            break
    return found


def most_distinct(
    network: OnnxPair, frame: np.ndarray, rng: np.random.Generator, count: int
) -> list[np.ndarray]:
    """Boxes of up to `count` things in a picture, of which the class map says most clearly where.

    They are chosen among CANDIDATES times as many.
    """
    found = find_things(network, frame, rng, CANDIDATES * count)
    found.sort(key=lambda thing: thing.distinct, reverse=True)
    return [thing.box for thing in found[:count]]


def settled(network: OnnxPair, frame: np.ndarray, start: np.ndarray) -> Thing | None:
    """The thing on which the box `start` comes to rest; None if none has clear bounds."""
    box = start
    for _ in range(2):
        tracker = new_tracker(network)
        tracker.init(frame, box)
        before = box
        for _ in range(LOOKS):
            seen = tracker.update(frame)
        box = seen.box
    large = box[2] * box[3] > LARGEST * frame.shape[0] * frame.shape[1]
    if large or seen.score < CERTAIN or overlap(before, box) < HELD:
        return None
    share = share_on_box(network, frame, box)
    return Thing(box, share) if share >= CONFINED else None


def share_on_box(network: OnnxPair, frame: np.ndarray, box: np.ndarray) -> float:
    """The share of the class map that lies on the box, if the box is the template and searched."""
    tracker = new_tracker(network)
    tracker.init(frame, box)
    tracker.update(frame)
    seen = tracker.response
    assert seen is not None  # for the type checker
    spacing = seen.box[2:] / seen.values.shape[::-1]  # x, y: frame pixels between positions
    reach = Target.of(frame, box)[0].size / 2 + spacing / 2
    down, across = (np.abs(np.arange(n) - (n - 1) / 2) for n in seen.values.shape)
    on_rows = down * spacing[1] <= reach[1]
    on_columns = across * spacing[0] <= reach[0]
    return float(seen.values[np.ix_(on_rows, on_columns)].sum() / seen.values.sum())


def follow_and_return(
    network: OnnxPair, frames: Sequence[np.ndarray], box: np.ndarray
) -> np.ndarray:
    """Boxes `[N, 4]` from `box` in the first frame on, or nan where the way back does not agree."""
    there = follow(network, frames, box)
    back = follow(network, frames[::-1], there.boxes[-1]).boxes[::-1]
    known = (overlaps(there.boxes, back) >= AGREED) & (there.scores >= CERTAIN)
    return np.where(known[:, None], there.boxes, np.nan)


class Way(NamedTuple):
    """A target's boxes `[N, 4]`, and their scores `[N]`."""

    boxes: np.ndarray
    scores: np.ndarray


def follow(network: OnnxPair, frames: Sequence[np.ndarray], box: np.ndarray) -> Way:
    """Follow the target in `box` of the first frame."""
    tracker = new_tracker(network)
    tracker.init(frames[0], box)
    seen = [tracker.update(frame) for frame in frames[1:]]
    boxes = np.array([box, *(each.box for each in seen)])
    return Way(boxes, np.array([1.0, *(each.score for each in seen)]))


def new_tracker(network: OnnxPair) -> AnchorFree:
    """A tracker by the rules of the network's author."""
    return AnchorFree(network, network.constants)


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    return float(overlaps(np.array([box]), np.array([other]))[0])


def random_box(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random box x, y, w, h in pixels inside of a frame."""
    side = min(height, width) * rng.uniform(*SIZES)
    stretch = MAX_ASPECT ** rng.uniform(-0.5, 0.5)
    size = np.array([side * stretch, side / stretch])
    return np.concatenate([rng.uniform(0, [width, height] - size), size])
