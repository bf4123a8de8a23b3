"""One-pass evaluation: a tracker starts on the first true box and is never corrected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.trackers import Tracker
from rbsf.tracker.states import Result


class Step(NamedTuple):
    """What a tracker says about a frame. On the first frame it is the true box that it got."""

    frame: int  # counted from 0
    result: Result
    seconds: float  # time of the tracker, without reading the frame


def one_pass(tracker: Tracker, sequence: Sequence) -> Iterator[Step]:
    """Track from the first frame that has a box to the end, even while the target is absent.

    Raises ValueError, naming the sequence, if no frame has a box, or if fewer frames can be read
    than there are boxes.
    """
    known = sequence.annotated()
    if not len(known):
        raise ValueError(
            f"sequence {sequence.name}: none of its {len(sequence)} frames has a box to start on"
        )
    first = int(known[0])
    read = first
    for index, image in enumerate(islice(sequence, first, None), first):
        start = time.perf_counter()
        if index == first:
            tracker.init(image, sequence.boxes[first])
            result = Result(sequence.boxes[first], 1.0)
        else:
            result = tracker.update(image)
        yield Step(index, result, time.perf_counter() - start)
        read = index + 1
    if read < len(sequence):
        raise ValueError(
            f"sequence {sequence.name}: {read} frames can be read,"
            f" but there are {len(sequence)} boxes"
        )
