"""Change training pairs by random windows, other scenes and distractors.

Crops are as `rbsf.datasets.pairs.crop_store` stores them: `[319, 319, 3]` uint8 RGB, with the
target's centre in the middle. The functions draw from the generator that they are given, change
none of their arguments, and return crops of the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

from rbsf.datasets.pairs.crop_store import CROP_CENTER, CROP_SIZE
from rbsf.tracker.geometry import EXEMPLAR_SIZE, FROM_NEW_PIXELS
from rbsf.train.config import setting

# Largest offset of pasted things from the middle, in pixels, in x and in y. After the default
# shifts they are still in the search crop.
REACH = 96.0
FEATHER = 0.25  # outer part of a pasted ellipse's radius over which it fades out
ZOOM = 1.25  # distractors are enlarged or shrunk by up to this factor
WINDOW_ZOOM = 1.5  # windows are enlarged or shrunk by up to this factor
PLACES = 4  # places to choose from for a window, or for a target in a scene
PATCH = 64  # side of the square that is compared at each place, in pixels


@dataclass
class MixConfig:
    """Shares, from 0 to 1, of pairs that are made of more than a target's own crops.

    Each share is drawn independently, so several can change the same pair. A pair that a share does
    not change is bit for bit the same as with a share of 0. Raises ValueError for a share out of
    range.
    """

    TITLE: ClassVar[str] = "pairs of other kinds, as shares from 0 to 1"

    negative_share: float = setting(
        0.0, "Show another target in the search crop of this share of the pairs", metavar="SHARE"
    )
    hard_share: float = setting(
        0.0,
        "Choose this share of the negatives and distractors to look like the exemplar's target:"
        " of a similar shape, and of the same file name but for a number (dog_1.jpg, dog_2.jpg)",
        metavar="SHARE",
    )
    distractor_share: float = setting(
        0.0, "Paste another target beside the true one in this share of the pairs", metavar="SHARE"
    )
    paste_share: float = setting(
        0.0,
        "Cut the targets of this share of the pairs out and paste them into another sequence's"
        " scenes",
        metavar="SHARE",
    )
    random_share: float = setting(
        0.0,
        "Take a random window of a crop for the target, whatever it shows, in this share of the"
        " pairs",
        metavar="SHARE",
    )

    def __post_init__(self) -> None:
        for each in fields(MixConfig):
            check_range(each.name, getattr(self, each.name), 1.0)


def check_range(name: str, value: float, high: float) -> None:
    """Raise ValueError unless the value is a number from 0 to `high`."""
    if not (isinstance(value, int | float) and 0 <= value <= high):
        raise ValueError(f"{name} is {value!r}; give a number from 0 to {high:g}")


class Target(NamedTuple):
    """A crop with the target in its middle."""

    pixels: np.ndarray  # [319, 319, 3] uint8 RGB
    size: np.ndarray  # w, h of the target in pixels


def random_window(target: Target, rng: np.random.Generator) -> Target:
    """Take a window of the crop at a random place, scale and angle.

    What lies in the window's middle becomes the target. Of four places the one with the most
    contrast is taken, because a plain patch of sky cannot be found again.
    """
    places = rng.uniform(-REACH, REACH, (PLACES, 2))
    busiest = _busiest(target.pixels, list(places))
    zoom = _zoom(rng, WINDOW_ZOOM)
    pixels = _window(target.pixels, busiest, zoom, angle=rng.uniform(-180, 180))
    size = np.full(2, EXEMPLAR_SIZE / 2)  # a square target, without its context
    return Target(pixels, size)


def paste_on_scene(target: Target, scene: Target, rng: np.random.Generator) -> Target:
    """Cut the target out and paste it into the middle of another scene.

    The scene's own target ends up beside it. Of four places in the scene the one with the most
    contrast is taken, because the plain colour that pads crops surrounds many targets. The scene is
    mirrored where it does not reach. Source: Cut, Paste and Learn (Dwibedi et al., ICCV 2017), with
    the ellipse in the target's box in place of a mask.
    """
    places = [-_beside(target.size, scene.size, rng) for _ in range(PLACES)]
    covered = _busiest(scene.pixels, places)
    x, y = (-np.rint(covered)).astype(int).tolist()
    canvas = _moved(scene.pixels, x, y)
    return Target(_paste(canvas, target, np.zeros(2)), target.size)


def add_distractor(target: Target, other: Target, rng: np.random.Generator) -> Target:
    """Paste another target beside the crop's own, whose box does not change.

    This is in the spirit of DaSiamRPN's training on distractors (Zhu et al., ECCV 2018, section
    3.2). Its pairs show one target in the exemplar and another in the search crop; here the search
    crop shows both.
    """
    zoom = _zoom(rng, ZOOM)
    place = _beside(target.size, other.size * zoom, rng)
    return Target(_paste(target.pixels, other, place, zoom), target.size)


def turned(target: Target, angles: int) -> Target:
    """The target turned by so many right angles, counter-clockwise."""
    size = target.size if angles % 2 == 0 else target.size[::-1]
    return Target(np.ascontiguousarray(np.rot90(target.pixels, angles)), size)


def recolored(target: Target, order: np.ndarray) -> Target:
    """The target with its colour channels in the order `[3]`."""
    return Target(np.ascontiguousarray(target.pixels[..., order]), target.size)


def _zoom(rng: np.random.Generator, most: float) -> float:
    return float(most ** rng.uniform(-1, 1))


def _busiest(pixels: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """Choose the place (x, y from the middle) around which the pixels vary most.

    The measure is the sum of the channels' standard deviations in a square with side `PATCH`.
    """

    def deviation(place: np.ndarray) -> float:
        corner = CROP_CENTER + place - PATCH // 2
        left, top = np.clip(corner, 0, CROP_SIZE - PATCH).astype(int)
        patch = pixels[top : top + PATCH, left : left + PATCH]
        return float(cv2.meanStdDev(patch)[1].sum())

    return max(places, key=deviation)


def _beside(own: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random place for a box of size `other` beside a box of size `own` in the middle.

    Returns the x, y of its centre, counted from the middle. The boxes do not touch.
    """
    gaps = (own + other) / 2 + 1
    axis = int(rng.integers(2))
    if gaps[axis] > REACH:
        axis = int(np.argmin(gaps))
    place = rng.uniform(-REACH, REACH, 2)
    side = rng.choice((-1, 1))
    place[axis] = side * rng.uniform(gaps[axis], max(gaps[axis], REACH))
    return place


def _window(pixels: np.ndarray, origin: np.ndarray, zoom: float, angle: float) -> np.ndarray:
    """The crop, enlarged and turned by `angle` degrees about the point `origin` (x, y).

    `origin` is counted from the crop's middle and comes to lie in the middle.
    """
    cos, sin = np.cos(np.radians(angle)) / zoom, np.sin(np.radians(angle)) / zoom
    turn = np.array([[cos, -sin], [sin, cos]])  # from new pixels to old ones, about the middle
    start = CROP_CENTER + origin - turn @ (CROP_CENTER, CROP_CENTER)
    affine, size = np.column_stack([turn, start]), (CROP_SIZE, CROP_SIZE)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)  # as in `crop_square`: it takes half the time
    turned = cv2.warpAffine(
        pixels, affine, size, flags=FROM_NEW_PIXELS, borderMode=cv2.BORDER_REFLECT_101
    )
    return cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB)


def _moved(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    """The crop with its middle moved by whole pixels, mirrored where it does not reach."""
    top, left = np.maximum((y, x), 0)  # pixels to add there
    bottom, right = np.maximum((-y, -x), 0)
    part = pixels[bottom : CROP_SIZE - top, right : CROP_SIZE - left]
    return cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REFLECT_101)


def _paste(canvas: np.ndarray, target: Target, place: np.ndarray, zoom: float = 1.0) -> np.ndarray:
    """Paste the ellipse in the target's box, enlarged, onto a copy of `canvas`.

    Its centre lies at `place` (x, y), counted from the middle, and its edges fade.
    """
    centre = CROP_CENTER + place
    half = np.maximum(target.size * zoom / 2, 1)  # a box less than a pixel high would cover nothing
    left, top = np.maximum(np.ceil(centre - half), 0).astype(int)
    right, bottom = np.minimum(np.floor(centre + half) + 1, CROP_SIZE).astype(int)
    start = CROP_CENTER + ((left, top) - centre) / zoom  # in the target's crop
    affine = np.array([[1 / zoom, 0, start[0]], [0, 1 / zoom, start[1]]])
    size = (right - left, bottom - top)
    patch = cv2.warpAffine(target.pixels, affine, size, flags=FROM_NEW_PIXELS).astype(np.float32)
    x = (np.arange(left, right) - centre[0]) / half[0]
    y = (np.arange(top, bottom) - centre[1]) / half[1]
    radius = np.hypot(x[None, :], y[:, None])  # [h, w]: 1 on the ellipse
    opacity = np.clip((1 - radius) / FEATHER, 0, 1)[:, :, None].astype(np.float32)
    result = canvas.copy()
    part = result[top:bottom, left:right]
    part[:] = np.rint(part + opacity * (patch - part))
    return result
