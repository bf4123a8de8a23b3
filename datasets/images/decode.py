"""Square crops out of image files, decoded no larger than the crop needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

AREA = (0.08, 1.0)  # of a random crop, as a share of the image
RATIO = (3 / 4, 4 / 3)  # of its width to its height
TRIES = 10  # crops drawn until one fits
REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True)
class RandomCrop:
    """What a random crop draws, before anything is known of the image."""

    areas: np.ndarray  # [TRIES] shares of the image's area
    ratios: np.ndarray  # [TRIES] width / height
    place: np.ndarray  # [2] 0..1: left to right, top to bottom
    mirror: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> RandomCrop:
        """Draw one: area uniform in AREA, log of the ratio uniform in RATIO, mirrored or not."""
        ratios = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), TRIES))
        return cls(rng.uniform(*AREA, TRIES), ratios, rng.random(2), bool(rng.random() < 0.5))

    def box(self, width: int, height: int) -> Box:
        """The first crop that fits into the image; where none does, the largest in its middle with
        a ratio in RATIO.
        """
        pixels = self.areas * width * height
        widths, heights = (
            np.sqrt(pixels * r).round().astype(int) for r in (self.ratios, 1 / self.ratios)
        )
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        if not fits.any():
            w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
            return (width - w) // 2, (height - h) // 2, w, h
        w, h = int(widths[fits.argmax()]), int(heights[fits.argmax()])
        return int(self.place[0] * (width - w + 1)), int(self.place[1] * (height - h + 1)), w, h


@dataclass(frozen=True)
class CentreCrop:
    """The square in the middle whose side is a share of the short side: 224 / 256 = resize to 256,
    then cut 224.
    """

    share: float
    mirror: bool = False

    def box(self, width: int, height: int) -> Box:
        """The square, at least one pixel."""
        side = max(round(min(width, height) * self.share), 1)
        return (width - side) // 2, (height - side) // 2, side, side


def decode_crop(
    data: bytes, crop: RandomCrop | CentreCrop, size: int, reduced: bool = True
) -> np.ndarray | None:
    """A crop of an image file as size x size x 3 uint8 RGB; None where OpenCV cannot decode the
    file whole.

    Gray is repeated, CMYK converted, alpha dropped, a rotation noted in EXIF applied. `reduced`:
    a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest at which the crop still has
    `size` pixels in width and height.
    """
    header = jpeg_size(data) if reduced else None
    flags = _flags(crop.box(*header), size) if header else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a size that OpenCV refuses
        return None
    if image is None:
        return None
    x, y, width, height = crop.box(image.shape[1], image.shape[0])
    # Of four neighbours a linear mean misses nothing down to half the size, and takes a fifth of
    # the time.
    how = cv2.INTER_AREA if width * height > 4 * size * size else cv2.INTER_LINEAR
    image = cv2.resize(image[y : y + height, x : x + width], (size, size), interpolation=how)
    return cv2.cvtColor(cv2.flip(image, 1) if crop.mirror else image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by a JPEG's header, as stored (before any rotation); None for what is no
    JPEG.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (
            0xC4,
            0xC8,
            0xCC,
        ):  # start of frame: length, bits, height, width
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return (width, height) if width and height else None
        fill = marker == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _flags(box: Box, size: int) -> int:
    factor = math.floor(min(box[2:]) / size)
    return next((REDUCED[f] for f in REDUCED if f <= factor), cv2.IMREAD_COLOR)
