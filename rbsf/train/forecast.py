"""Estimates the remaining time of a training from the measured time of each kind of work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import median

from torch import Tensor

from rbsf.train.rectify import Rectifier

NEWEST = 0.02  # least weight of the newest piece of work in the mean of its kind
TRIED = 4  # steps of a trial; the first one does not count

STEP, NORM_STEP = "step", "batch-norm step"
END = "end of an epoch"  # its checkpoint and its validation
LATER = "step of the training that follows"
LIKE = {NORM_STEP: STEP}  # until a kind is measured, the time of this similar kind is used

Work = dict[str, int]  # pieces of work by kind


class Forecast:
    """Measured seconds for one piece of each kind of work.

    `later` is the work of a training that follows, such as the student's after the teacher's.
    """

    def __init__(self) -> None:
        self.later: Work = {}
        self.seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def took(self, kind: str, seconds: float) -> None:
        """Add the time of one piece of work to the mean of its kind; new times weigh more."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        before = self.seconds.get(kind, seconds)
        self.seconds[kind] = before + max(1 / count, NEWEST) * (seconds - before)

    def seconds_for(self, work: Mapping[str, int]) -> tuple[float, bool]:
        """Seconds for `work` and later work, and whether all kinds of it were measured."""
        total, whole = 0.0, True
        for kind, count in [*work.items(), *self.later.items()]:
            each = self.seconds.get(kind, self.seconds.get(LIKE.get(kind, "")))
            whole = whole and (each is not None or not count)
            total += count * (each or 0.0)
        return total, whole

    def left(self, work: Mapping[str, int]) -> str:
        """Text such as "12 min left", or "more than 12 min left" if a kind was not measured yet.

        It is empty if nothing was measured or nothing is left.
        """
        seconds, whole = self.seconds_for(work)
        if not seconds:
            return ""
        return f"{'' if whole else 'more than '}{in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """A time such as "40 s", "12 min", "3 h 5 min" or "2 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def seconds_a_step(rectifier: Rectifier, batches: Iterable[dict[str, Tensor]]) -> float:
    """The median time of a step on each of `batches`, without the first one, which is slower.

    The networks learn in these steps, so use networks made only for the trial.
    """
    times = []
    for batch in batches:
        start = time.monotonic()
        losses = rectifier.step(batch, 0)
        next(iter(losses.values())).item()  # waits for a GPU
        times.append(time.monotonic() - start)
    return median(times[1:] or times)
