"""Boxes and square crops, used by training pairs and by tracking.

A box is `x, y, w, h` in pixels, 0-based floats. It covers the pixels `x` to `x + w - 1`, so its
centre is at pixel coordinate `x + (w - 1) / 2`. Images are `[H, W, 3]` uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from rbsf.models import EXEMPLAR_SIZE
from rbsf.models import SEARCH_SIZE as SEARCH_SIZE  # for importers of this file

FROM_NEW_PIXELS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the map is from new pixels to old ones
STRIDE = 8  # pixels of the search crop between neighbouring responses
CONTEXT = 0.5  # share of (w + h) / 2 added on each side of the target


def box_center(box: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the centre `(cx, cy)` of an `x, y, w, h` box in pixel coordinates, float64."""
    x, y, w, h = (float(v) for v in box)
    return np.array([x + (w - 1) / 2, y + (h - 1) / 2])


def box_around(
    center: Sequence[float] | np.ndarray, size: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the `x, y, w, h` box of `size = (w, h)` with its centre at `center = (cx, cy)`."""
    (cx, cy), (w, h) = center, size
    return np.array([cx - (w - 1) / 2, cy - (h - 1) / 2, w, h], dtype=np.float64)


def exemplar_side(size: Sequence[float] | np.ndarray) -> float:
    """Side, in image pixels, of the square around a target that is cropped to 127 pixels.

    `size` is the target's `(w, h)`. SiamFC, section 2.4: `s^2 = (w + 2p)(h + 2p)` with
    `2p = CONTEXT * (w + h)`.
    """
    return float(exemplar_sides(np.asarray(size, dtype=np.float64)))


def exemplar_sides(sizes: np.ndarray) -> np.ndarray:
    """The same for many targets: `sizes` `[2, ...]` gives an array `[...]`."""
    w, h = sizes
    margin = CONTEXT * (w + h)
    return np.sqrt((w + margin) * (h + margin))


def rescaled(place: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """A place (x, y) in an image that is `ratio` (x, y) times as large."""
    return (place + 0.5) * ratio - 0.5  # pixel 0 reaches from -0.5 to 0.5


def crop_square(
    image: np.ndarray,
    center: Sequence[float] | np.ndarray,
    side: float | np.ndarray,
    size: int,
    fill: Sequence[float] | None = None,
) -> np.ndarray:
    """Cut a square of `side` image pixels around `center` and resize it.

    Returns `[size, size, 3]` uint8. With a `side` (in x, in y) a rectangle is cut and stretched to
    a square. `center` may be anywhere; pixels outside the image are `fill` (default: the image's
    mean colour).
    """
    height, width = image.shape[:2]
    side = np.broadcast_to(side, 2)
    scale = side / size  # image pixels per crop pixel, in x and in y
    start = np.asarray(center, dtype=np.float64) - scale * (size - 1) / 2
    first = np.clip(np.floor(start), 0, (width - 1, height - 1)).astype(int)
    left, top = first
    right, bottom = np.maximum(np.ceil(start + side).astype(int), first) + 1
    # With a fourth channel OpenCV takes half the time, including the two conversions.
    part = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2RGBA)
    border = mean_color(image) if fill is None else fill
    crop_to_part = np.array([[scale[0], 0, start[0] - left], [0, scale[1], start[1] - top]])
    crop = cv2.warpAffine(
        part,
        crop_to_part,
        (size, size),
        flags=FROM_NEW_PIXELS,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(*(float(c) for c in border), 0),
    )
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def target_crop(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The crop around the target in `box`, `[size, size, 3]` uint8 RGB.

    `size` is EXEMPLAR_SIZE or SEARCH_SIZE.
    """
    side = exemplar_side(box[2:]) * size / EXEMPLAR_SIZE
    return crop_square(image, box_center(box), side, size)


def mean_color(image: np.ndarray) -> tuple[float, ...]:
    """Mean of each channel of an image `[H, W, C]`."""
    return tuple(cv2.mean(image)[: image.shape[2]])


def check_box(
    box: Sequence[float] | np.ndarray, width: int, height: int
) -> tuple[np.ndarray, str | None]:
    """Check a target box against a `width` x `height` frame.

    Returns the box, float64, clipped to the frame, and a sentence if clipping changed it, else
    None. Raises ValueError that names the fault for a box that is not four finite numbers, has no
    area, lies outside the frame, or is less than one pixel wide or high inside it.
    """
    try:
        values = np.asarray(box, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"box {box!r}: give four numbers x,y,w,h in pixels") from None
    if box is None:
        raise ValueError("box is None; give four numbers x,y,w,h in pixels")
    _check_numbers(values)
    text = _numbers(values)
    frame = f"{width}x{height} frame"
    x, y, w, h = values
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        raise ValueError(f"box {text} lies outside the {frame}")
    inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
    clipped = values if inside else np.array([left, top, right - left, bottom - top])
    if min(clipped[2:]) < 1:
        raise ValueError(
            f"box {text} is too small: less than one pixel wide or high inside the {frame}"
        )
    if inside:
        return values, None
    advice = "a box is x,y,w,h, not two corners"
    return (
        clipped,
        f"box {text} reaches outside the {frame}; clipped to {_numbers(clipped)}; {advice}",
    )


def _check_numbers(box: np.ndarray) -> None:
    """Raise ValueError if a box is not four finite numbers or has no area."""
    text = _numbers(box)
    if box.size != 4:
        raise ValueError(f"box {text!r} has {box.size} numbers; give four: x,y,w,h in pixels")
    if not np.isfinite(box).all():
        raise ValueError(f"box {text} holds a number that is not finite; give x,y,w,h in pixels")
    w, h = box[2:]
    if w <= 0 or h <= 0:
        raise ValueError(f"box {text} has no area (w={w:g}, h={h:g}); w and h must be above 0")


def _numbers(box: np.ndarray) -> str:
    return ",".join(f"{v:g}" for v in box)


def as_rgb(image: np.ndarray, order: str = "RGB") -> np.ndarray:
    """Convert an RGB, gray or RGBA image to RGB `[H, W, 3]`, uint8.

    Gray images are `[H, W]` or `[H, W, 1]`; the alpha of RGBA is dropped. With the order "BGR" the
    image is BGR or BGRA. Raises ValueError that names shape and type for any other array.
    """
    if image is None:
        advice = "which OpenCV gives after a video's last frame; stop there"
        raise ValueError(f"not an image: None, {advice}")
    if not isinstance(image, np.ndarray):
        raise ValueError(_no_image(type(image).__name__, order))
    channels = image.shape[2] if image.ndim == 3 else 0
    if image.dtype == np.uint8 and image.size:
        if image.ndim == 2 or channels == 1:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if order == "BGR" and channels in (3, 4):
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGB)
        if channels == 3:
            return image
        if channels == 4:
            return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)
    raise ValueError(_no_image(f"{image.dtype} {image.shape}", order))


def _no_image(found: str, order: str) -> str:
    return f"not an image: {found}; give H x W x 3 uint8 {order} (gray and {order}A are converted)"
