"""The place and size of a target from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    box_center,
    check_box,
    crop_square,
    exemplar_side,
    mean_color,
    rescaled,
)

LEAST_CONTRAST = 1.0  # standard deviation of the pixels of a target that can be followed
PLAIN = "the box and what is around it show one plain colour: there is nothing to follow"


@dataclass
class Target:
    """A target's place and size in the frame, in pixels, float64."""

    center: np.ndarray  # (x, y)
    size: np.ndarray  # (w, h)
    frame: np.ndarray  # (width, height) of the last frame
    fill: tuple[float, ...]  # colour outside the frame

    @classmethod
    def of(cls, image: np.ndarray, box: Sequence[float] | np.ndarray) -> tuple[Target, str | None]:
        """The target in `box` of an RGB image, and a sentence if the box is doubtful, else None.

        A box is doubtful if it was clipped to the frame, or if all its pixels and those around it
        have one colour. Raises ValueError as `check_box` does.
        """
        height, width = image.shape[:2]
        box, note = check_box(box, width, height)
        frame = np.array([width, height])
        target = cls(box_center(box), box[2:].copy(), frame, mean_color(image))
        crop = target.crop(image, exemplar_side(target.size), EXEMPLAR_SIZE)
        if crop.std(axis=(0, 1)).max() < LEAST_CONTRAST:
            note = f"{note}; {PLAIN}" if note else PLAIN
        return target, note

    def crop(
        self, image: np.ndarray, side: float, pixels: int, center: np.ndarray | None = None
    ) -> np.ndarray:
        """A square of `side` image pixels as `[pixels, pixels, 3]` uint8.

        `center`: (x, y), by default the target's centre.
        """
        place = self.center if center is None else center
        return crop_square(image, place, side, pixels, self.fill)

    def move(self, offset: np.ndarray) -> None:
        """Move the centre by (x, y) pixels, but not out of the frame."""
        self.center = np.clip(self.center + offset, 0, self.frame - 1)

    def follow_frame(self, image: np.ndarray) -> np.ndarray | None:
        """Treat an image of a different size as the same view, rescaled.

        Returns the ratio (x, y) of the sizes, or None if they are equal.
        """
        frame = np.array([image.shape[1], image.shape[0]])
        if (frame == self.frame).all():
            return None
        ratio = frame / self.frame
        self.center = rescaled(self.center, ratio)
        self.size = self.size * ratio
        self.frame = frame
        return ratio
