"""Draw tracked boxes into frames."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from rbsf.tracker.states import Result, State

Color = tuple[int, int, int]  # RGB

FIRST_COLORS = [(64, 220, 64), (255, 160, 0), (64, 160, 255), (255, 64, 200), (240, 230, 60)]
LOST_COLOR = (255, 40, 40)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HUES = (36, 318)  # range of the other colours in degrees, away from LOST_COLOR at 0
GOLDEN = 0.618034  # any number of steps of this share of a range spread evenly


def color_of(target: int) -> Color:
    """The colour of a target by its number, from 1; each target has its own."""
    if target <= len(FIRST_COLORS):
        return FIRST_COLORS[target - 1]
    low, high = HUES
    place = 0.5 + GOLDEN * (target - len(FIRST_COLORS) - 1)
    hue = low + (high - low) * (place % 1)
    saturation = 0.5 if target % 2 else 0.9
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(image: np.ndarray, results: dict[int, Result]) -> np.ndarray:
    """Draw boxes and scores into a copy of an `[H, W, 3]` uint8 RGB image; lost targets in red.

    `results`: by the target's number, which is drawn too unless target 1 is the only one.
    """
    image = image.copy()
    for target, result in results.items():
        label = "" if list(results) == [1] else f"{target}: "
        label += f"{result.score:.2f}"
        if result.state is not State.TRACKED:
            label += f" {result.state.value}"
        _draw_box(image, result, label, LOST_COLOR if result.lost else color_of(target))
    return image


def _draw_box(image: np.ndarray, result: Result, label: str, color: Color) -> None:
    line = max(2, round(min(image.shape[:2]) / 240))
    x, y, w, h = (round(float(v)) for v in result.box)
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, line)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, line / 4
    (width, height), _ = cv2.getTextSize(label, font, size, 1)
    left = max(x, 0)
    bottom = max(y, height + 2 * line)  # above the box, if there is room
    top = bottom - height - 2 * line
    cv2.rectangle(image, (left, top), (left + width, bottom), color, cv2.FILLED)
    bright = np.dot(color, (0.3, 0.6, 0.1)) > 90  # brightness as the eye sees it
    ink = BLACK if bright else WHITE
    cv2.putText(image, label, (left, bottom - line), font, size, ink, 1, cv2.LINE_AA)
