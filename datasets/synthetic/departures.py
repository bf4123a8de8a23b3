"""Targets that leave the view and return, made from real footage.

A window moves over the frames of a sequence as a camera would. All pixels except those of a pillar
are real, and the target's place is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rbsf.datasets.video.sequences import Sequence

LEAD = 30  # frames before the target leaves
AWAY = (25, 125)  # fewest and most frames out of view
HIDDEN = 20  # frames behind a pillar
AFTER = 60  # frames after its return
PAN = 10  # frames in which the camera turns
WINDOW_SHARE = 0.45  # width of the window in widths of the frame, for `leave`
CUT_SHARE = 0.6  # the same, for `cut`
PILLAR_WIDTHS = 3.0  # width of a pillar, in widths of the target
VISIBLE = 0.2  # the target counts as visible if at least this share of it is in the window


@dataclass(frozen=True)
class View:
    """What one frame shows: the columns `left` to `left + width` of frame `number` of the footage.

    `pillar`: columns of the footage that are painted over, from the first up to the second.
    """

    number: int
    left: int
    width: int
    pillar: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Departure(Sequence):
    """A sequence whose frames are views of another sequence's frames.

    `boxes` are NaN where the target is absent.
    """

    footage: Sequence | None = None
    views: tuple[View, ...] = ()
    seed: int = 0

    def part(self, first: int, stop: int) -> Departure:
        """See `Sequence.part`."""
        part = super().part(first, stop)
        assert isinstance(part, Departure)  # for the type checker
        return replace(part, views=self.views[first:stop])

    def image(self, index: int) -> np.ndarray:
        """Frame `index`, `[H, W, 3]` uint8 RGB. Raises the same errors as the footage."""
        assert self.footage is not None  # for the type checker
        view = self.views[index]
        image = self.footage.image(view.number)
        if view.pillar:
            image = image.copy()
            first, stop = np.clip(view.pillar, 0, image.shape[1])
            image[:, first:stop] = _bark(image.shape[0], stop - first, self.seed)
        return np.ascontiguousarray(image[:, view.left : view.left + view.width])


def _bark(height: int, width: int, seed: int) -> np.ndarray:
    """A pillar's surface, `[H, W, 3]` uint8: vertical stripes, the same in all frames of a seed."""
    rng = np.random.default_rng(seed)
    color = rng.integers(60, 180, 3)
    stripes = rng.normal(0, 14, (1, width, 1))
    grain = rng.normal(0, 5, (height, width, 1))
    return np.clip(color + stripes + grain, 0, 255).astype(np.uint8)


def leave(footage: Sequence, width: int, seed: int) -> Departure | None:
    """The camera turns away from the target and back, from the other side if there is room.

    `width`: width of the frames in pixels. Returns None if the footage is too short, or has no room
    for a window beside the target.
    """
    rng = np.random.default_rng(seed)
    start, away = _span(footage, int(rng.integers(AWAY[0], AWAY[1] + 1)))
    if start is None:
        return None
    window = int(width * WINDOW_SHARE)
    gone, back = start + LEAD, start + LEAD + away
    sides = _free_sides(footage.boxes[gone:back], width, window)
    if not sides:
        return None
    first = sides[int(rng.integers(len(sides)))]
    last = sides[-1] if first == sides[0] else sides[0]
    middle = (gone + back) // 2
    lefts = []
    for number in range(start, back + AFTER):
        looking = _centred(footage.boxes[number], width, window)
        side = first if number < middle else last
        turned = _turned(number, gone, back)
        lefts.append(round((1 - turned) * looking + turned * side))
    views = [View(start + i, left, window) for i, left in enumerate(lefts)]
    return _departure(footage, f"{footage.name}-leaves-{seed}", views, seed)


def hide(footage: Sequence, width: int, seed: int) -> Departure | None:
    """A pillar passes in front of the target and hides it for HIDDEN frames.

    The parameters and None are as in `leave`.
    """
    start, _ = _span(footage, HIDDEN)
    if start is None:
        return None
    gone = start + LEAD
    target = footage.boxes[gone, 2]
    pillar = PILLAR_WIDTHS * target
    speed = (pillar - target) / HIDDEN  # pixels a frame
    views = []
    for number in range(start, gone + HIDDEN + AFTER):
        x, _, w, _ = footage.boxes[number]
        center = x + w / 2 + speed * (number - gone - HIDDEN / 2)
        columns = (round(center - pillar / 2), round(center + pillar / 2))
        views.append(View(number, 0, width, columns))
    return _departure(footage, f"{footage.name}-hides-{seed}", views, seed)


def cut(footage: Sequence, width: int, seed: int) -> Departure | None:
    """The camera jumps sideways by a third of its view; the target stays visible.

    `width`: width of the frames in pixels. Returns None if the footage is too short, or if the
    target would leave the view.
    """
    start, _ = _span(footage, 0)
    if start is None:
        return None
    window, at = int(width * CUT_SHARE), start + LEAD
    x, _, w, _ = footage.boxes[at]
    least, most = max(0, int(x + w) - window), min(width - window, int(x))  # show the target
    jump = window // 3
    if most - least < jump:
        return None
    before = int(np.random.default_rng(seed).integers(least, most - jump + 1))
    after = before + jump
    if seed % 2:
        before, after = after, before
    views = [
        View(number, before if number < at else after, window)
        for number in range(start, at + AFTER)
    ]
    made = _departure(footage, f"{footage.name}-cut-{seed}", views, seed)
    return made if np.isfinite(made.boxes).all() else None


KINDS: dict[str, Callable[[Sequence, int, int], Departure | None]] = {
    "leave": leave,
    "hide": hide,
    "cut": cut,
}


def make_departures(footage: Sequence, kinds: list[str], seed: int = 0) -> list[Departure]:
    """Make one departure of each kind that the footage allows, in order.

    Raises ValueError or OSError if the first frame cannot be read.
    """
    width = footage.image(0).shape[1]
    made = (KINDS[kind](footage, width, seed) for kind in kinds)
    return [departure for departure in made if departure is not None]


def _span(footage: Sequence, away: int) -> tuple[int | None, int]:
    """Find the first frame of a stretch with the target always present, and the frames of absence.

    The absence is shortened to fit, to at least AWAY[0] frames. The first frame is None if no
    stretch is long enough.
    """
    known = np.isfinite(footage.boxes).all(1)
    least = LEAD + min(away, AWAY[0]) + AFTER
    for start in np.flatnonzero(known):
        unknown = np.flatnonzero(~known[start:])
        length = int(unknown[0]) if len(unknown) else len(known) - int(start)
        if length >= least:
            return int(start), min(away, length - LEAD - AFTER)
    return None, 0


def _free_sides(boxes: np.ndarray, width: int, window: int) -> list[int]:
    """Left edges of windows at the frame's sides that never show a target with these boxes."""
    margin = 2
    sides = []
    if window + margin <= boxes[:, 0].min():
        sides.append(0)
    if width - window - margin >= (boxes[:, 0] + boxes[:, 2]).max():
        sides.append(width - window)
    return sides


def _centred(box: np.ndarray, width: int, window: int) -> float:
    """Left edge of the window that has the target in its middle, as far as the frame allows."""
    return float(np.clip(box[0] + box[2] / 2 - window / 2, 0, width - window))


def _turned(number: int, gone: int, back: int) -> float:
    """How far the camera is turned away, 0 to 1: it turns before `gone` and after `back`."""
    leaving = (number - gone + PAN) / PAN
    returning = (back + PAN - number) / PAN
    return float(np.clip(min(leaving, returning), 0, 1))


def _departure(footage: Sequence, name: str, views: list[View], seed: int) -> Departure:
    boxes = np.array([_seen(footage.boxes[view.number], view) for view in views])
    frames = tuple(footage.frames[view.number] for view in views)
    return Departure(name, frames, boxes, False, footage, tuple(views), seed)


def _seen(box: np.ndarray, view: View) -> np.ndarray:
    """The target's box in a view; NaN if less than VISIBLE of it shows."""
    left, right = box[0], box[0] + box[2]
    shown = _length(left, right, view.left, view.left + view.width)
    if view.pillar:
        first, stop = view.pillar
        first, stop = max(first, view.left), min(stop, view.left + view.width)
        shown -= _length(left, right, first, stop)
    if shown < VISIBLE * box[2]:
        return np.full(4, np.nan)
    return box - [view.left, 0, 0, 0]


def _length(a: float, b: float, c: float, d: float) -> float:
    """How much of `a` to `b` lies between `c` and `d`."""
    return max(0.0, min(b, d) - max(a, c))
