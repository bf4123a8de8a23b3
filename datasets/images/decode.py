"""Square crops out of image files, decoded no larger than the crop needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video import jpeg
from rbsf.datasets.video.images import TOO_LARGE, decode, most_pixels

AREA = (0.08, 1.0)  # range of a random crop's area, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # range of a random crop's width / height
TRIES = 10  # crops to draw; the first that fits is used
REDUCED = {  # how OpenCV decodes at 1/8, 1/4 and 1/2 of the size
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # JPEG markers from 0xC0 to 0xCF that begin no frame

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class RandomCrop:
    """The random numbers of a crop, drawn before the image's size is known."""

    areas: np.ndarray  # [TRIES], shares of the image's area
    ratios: np.ndarray  # [TRIES], width / height
    place: np.ndarray  # [2], from 0 to 1: left to right, top to bottom
    mirror: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> RandomCrop:
        """Draw one: areas uniform in `AREA`, logarithms of ratios uniform in `RATIO`."""
        ratios = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), TRIES))
        areas = rng.uniform(*AREA, TRIES)
        place = rng.random(2)
        return cls(areas, ratios, place, mirror=bool(rng.random() < 0.5))

    def box(self, width: int, height: int) -> Box:
        """The first crop that fits into the image.

        If none does, the largest crop in the image's middle with a ratio in `RATIO`.
        """
        pixels = self.areas * width * height
        widths = np.sqrt(pixels * self.ratios).round().astype(int)
        heights = np.sqrt(pixels * (1 / self.ratios)).round().astype(int)
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        if not fits.any():
            w = min(width, round(height * RATIO[1]))
            h = min(height, round(width / RATIO[0]))
            return (width - w) // 2, (height - h) // 2, w, h
        first = fits.argmax()
        w, h = int(widths[first]), int(heights[first])
        x = int(self.place[0] * (width - w + 1))
        y = int(self.place[1] * (height - h + 1))
        return x, y, w, h


@dataclass(frozen=True)
class CentreCrop:
    """A centred rectangle with `share` times the width and height of the largest one.

    A square with a share of 224 / 256 equals resizing the short side to 256 and cutting out 224.
    """

    share: float
    ratio: float = 1.0  # width / height
    mirror = False  # not a field: no centred crop is mirrored

    def box(self, width: int, height: int) -> Box:
        """The rectangle, with sides of at least one pixel."""
        tall = self.share * min(height, width / self.ratio)
        w, h = max(round(tall * self.ratio), 1), max(round(tall), 1)
        return (width - w) // 2, (height - h) // 2, w, h


def decode_crop(
    data: bytes,
    crop: RandomCrop | CentreCrop,
    size: int | Size,
    reduced: bool = True,
    path: Path = Path(),
) -> np.ndarray:
    """Decode a crop of an image file as `[height, width, 3]` uint8 RGB.

    `size` is its (width, height), or one number for both. Gray is repeated, CMYK converted, alpha
    dropped, and a rotation noted in EXIF applied. With `reduced`, a JPEG is decoded at 1/2, 1/4 or
    1/8 of its size: the smallest at which the crop still has `size`.

    Raises ValueError, naming `path`, if the file cannot be decoded whole, or if it is larger than
    `most_pixels`.
    """
    if isinstance(size, int):
        size = (size, size)
    header = jpeg_size(data) if reduced else None
    flags = cv2.IMREAD_COLOR
    if header is not None and math.prod(header) > most_pixels():
        raise ValueError(f"image {path} {TOO_LARGE}")  # OpenCV would check the reduced size only
    if header is not None:
        flags = _reduced_flags(crop.box(*header), size)
    image = decode(np.frombuffer(data, np.uint8), path, flags)
    x, y, width, height = crop.box(image.shape[1], image.shape[0])
    # Down to half the size, linear interpolation still uses every pixel and takes a fifth of the
    # time.
    shrinks_much = width * height > 4 * math.prod(size)
    how = cv2.INTER_AREA if shrinks_much else cv2.INTER_LINEAR
    image = cv2.resize(image[y : y + height, x : x + width], size, interpolation=how)
    if crop.mirror:
        image = cv2.flip(image, 1)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _reduced_flags(box: Box, size: Size) -> int:
    """The OpenCV flag of the largest reduction at which the box still has `size` pixels."""
    factor = math.floor(min(box[2] / size[0], box[3] / size[1]))
    for step, flag in REDUCED.items():
        if step <= factor:
            return flag
    return cv2.IMREAD_COLOR


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG's header, before any rotation; None if it is not a JPEG."""
    if data[:2] != jpeg.START:
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NOT_FRAMES:
            return _frame_size(data[at + 5 : at + 9])
        is_fill_byte = marker == 0xFF
        length = int.from_bytes(data[at + 2 : at + 4], "big")  # without the marker's 2 bytes
        at += 1 if is_fill_byte else 2 + length
    return None


def _frame_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from a JPEG's frame header, which has the height first."""
    height = int.from_bytes(content[:2], "big")
    width = int.from_bytes(content[2:], "big")
    return (width, height) if width and height else None
