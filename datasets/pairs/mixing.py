"""What pairs may be made of besides a target's own crops: windows of any crop, other scenes,
distractors.

Crops are as `rbsf.datasets.pairs.crop_store` stores them: 319 x 319 x 3 uint8 RGB, the target's
centre in the middle. The functions draw from the generator that they are given, change none of
their arguments, and give crops of the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from rbsf.datasets.pairs.crop_store import CROP_CENTER, CROP_SIZE
from rbsf.tracker.geometry import EXEMPLAR_SIZE
from rbsf.train.config import setting

REACH = 96.0  # pixels off the middle, in x and in y, to which things are put: with any shift still in the search crop
FEATHER = (
    0.25  # of an ellipse's radius: over so much of it, inwards from its edge, a pasted target fades
)
ZOOM = 1.25  # distractors are enlarged or shrunk by up to this factor
WINDOW_ZOOM = 1.5  # the same of windows
PLACES = 4  # places looked at for a window, or for a target in a scene


@dataclass
class MixConfig:
    """Shares, 0 to 1, of pairs that are made in other ways than from a target's own crops.

    Each is drawn for itself: a pair can be several of these, and one that a source leaves alone is
    the same to the bit as without that source. ValueError for a share out of range.
    """

    negative_share: float = setting(0.0, "share of pairs whose search crop shows another target")
    hard_share: float = setting(
        0.0,
        "share of these targets, and of distractors, that are like the exemplar's: named alike but for a number"
        " (dog_1.jpg, dog_2.jpg) and of a like shape",
    )
    distractor_share: float = setting(
        0.0, "share of positive pairs with another target pasted beside the true one"
    )
    paste_share: float = setting(
        0.0, "share of pairs whose targets are cut out and pasted on scenes of another sequence"
    )
    random_share: float = setting(
        0.0, "share of pairs whose target is a random window of a crop, whatever it shows"
    )

    def __post_init__(self) -> None:
        for name in MixConfig.__dataclass_fields__:
            check_range(name, getattr(self, name), 1.0)


def check_range(name: str, value: float, high: float) -> None:
    """Raise ValueError for a value that is no number from 0 to `high`."""
    if not (isinstance(value, int | float) and 0 <= value <= high):
        raise ValueError(f"{name} is {value!r}; give a number from 0 to {high:g}")


class Target(NamedTuple):
    """A crop, 319 x 319 x 3 uint8 RGB, and the w, h of the target in its middle, in pixels."""

    pixels: np.ndarray
    size: np.ndarray


def random_window(target: Target, rng: np.random.Generator) -> Target:
    """A window of the crop at a random place, scale and angle; what lies in its middle becomes the
    target.

    Of four places the one with the most contrast is taken: a plain patch of sky cannot be found
    again.
    """
    best = _busiest(target.pixels, list(rng.uniform(-REACH, REACH, (PLACES, 2))))
    pixels = _window(target.pixels, best, _zoom(rng, WINDOW_ZOOM), rng.uniform(-180, 180))
    return Target(pixels, np.full(2, EXEMPLAR_SIZE / 2))  # without context: that of a square target


def paste_on_scene(target: Target, scene: Target, rng: np.random.Generator) -> Target:
    """The target, cut out, in the middle of another scene, whose own target comes to lie beside it.

    Of four places in the scene the one with the most contrast is taken: round many a target there
    is but the plain colour that fills crops up. Where the scene does not reach it is mirrored. Cut,
    Paste and Learn (Dwibedi et al., ICCV 2017), with the ellipse in the target's box in place of a
    mask.
    """
    covered = _busiest(
        scene.pixels, [-_beside(target.size, scene.size, rng) for _ in range(PLACES)]
    )
    x, y = (-np.rint(covered)).astype(int).tolist()
    return Target(_paste(_moved(scene.pixels, x, y), target, np.zeros(2)), target.size)


def add_distractor(target: Target, other: Target, rng: np.random.Generator) -> Target:
    """The crop with another target pasted beside its own, whose box stays as it is to the bit.

    In the spirit of DaSiamRPN's training on distractors (Zhu et al., ECCV 2018, section 3.2), whose
    pairs show one target in the exemplar and another in the search crop; here the search crop shows
    both.
    """
    zoom = _zoom(rng, ZOOM)
    place = _beside(target.size, other.size * zoom, rng)
    return Target(_paste(target.pixels, other, place, zoom), target.size)


def _zoom(rng: np.random.Generator, most: float) -> float:
    return float(most ** rng.uniform(-1, 1))


def _busiest(pixels: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """Of places x, y off the middle the one whose 64 x 64 pixels vary most, channels summed."""

    def deviation(place: np.ndarray) -> float:
        left, top = np.clip(CROP_CENTER + place - 32, 0, CROP_SIZE - 64).astype(int)
        return float(cv2.meanStdDev(pixels[top : top + 64, left : left + 64])[1].sum())

    return max(places, key=deviation)


def _beside(own: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where, x, y off the middle, a box of size `other` has its centre so as not to touch one of
    `own` there.
    """
    gaps = (own + other) / 2 + 1
    axis = int(rng.integers(2))
    if gaps[axis] > REACH:
        axis = int(np.argmin(gaps))
    place = rng.uniform(-REACH, REACH, 2)
    place[axis] = rng.choice((-1, 1)) * rng.uniform(gaps[axis], max(gaps[axis], REACH))
    return place


def _window(pixels: np.ndarray, origin: np.ndarray, zoom: float, angle: float = 0.0) -> np.ndarray:
    """The crop with what lies `origin` (x, y) off its middle in the middle, enlarged, turned by
    `angle` degrees.
    """
    cos, sin = np.cos(np.radians(angle)) / zoom, np.sin(np.radians(angle)) / zoom
    turn = np.array([[cos, -sin], [sin, cos]])  # from new pixels to old ones, about the middle
    start = CROP_CENTER + origin - turn @ (CROP_CENTER, CROP_CENTER)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    affine, size = np.column_stack([turn, start]), (CROP_SIZE, CROP_SIZE)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)  # as in `crop_square`: half the time
    turned = cv2.warpAffine(pixels, affine, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB)


def _moved(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    """The crop with its middle moved by whole pixels, mirrored where it does not reach."""
    before, after = np.maximum((y, x), 0), np.maximum((-y, -x), 0)
    part = pixels[after[0] : CROP_SIZE - before[0], after[1] : CROP_SIZE - before[1]]
    return cv2.copyMakeBorder(
        part, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT_101
    )


def _paste(canvas: np.ndarray, target: Target, place: np.ndarray, zoom: float = 1.0) -> np.ndarray:
    """`canvas` with the ellipse in the target's box, enlarged, its centre `place` off the
    middle, edges faded.
    """
    centre = CROP_CENTER + place
    half = np.maximum(target.size * zoom / 2, 1)  # a box less than a pixel high would cover none
    left, top = np.maximum(np.ceil(centre - half), 0).astype(int)
    right, bottom = np.minimum(np.floor(centre + half) + 1, CROP_SIZE).astype(int)
    start = CROP_CENTER + ((left, top) - centre) / zoom  # in the target's crop
    affine = np.array([[1 / zoom, 0, start[0]], [0, 1 / zoom, start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(target.pixels, affine, (right - left, bottom - top), flags=flags).astype(
        np.float32
    )
    x, y = (
        (np.arange(left, right) - centre[0]) / half[0],
        (np.arange(top, bottom) - centre[1]) / half[1],
    )
    radius = np.hypot(x[None, :], y[:, None])  # (h, w): 1 on the ellipse
    opacity = np.clip((1 - radius) / FEATHER, 0, 1)[:, :, None].astype(np.float32)
    result = canvas.copy()
    part = result[top:bottom, left:right]
    part[:] = np.rint(part + opacity * (patch - part))
    return result
