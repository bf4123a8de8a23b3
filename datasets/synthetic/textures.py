"""Textures and sprites for synthetic videos, drawn at random from a NumPy generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import tau

import cv2
import numpy as np

Rng = np.random.Generator
Shape = tuple[int, int]  # height, width


def value_noise(rng: Rng, shape: Shape, cell: float, octaves: int = 3) -> np.ndarray:
    """Smooth noise, `[H, W]` float32 from 0 to 1, with spots of up to about `cell` pixels."""
    height, width = shape
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        rows, columns = int(height / step) + 2, int(width / step) + 2
        grid = rng.random((rows, columns), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _coordinates(rng: Rng, shape: Shape, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Two pixel coordinates in units of `cell`, each `[H, W]` float32.

    They are turned by a random angle and bent a little.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(cell)
    turn = rng.uniform(0, np.pi)
    bend = rng.uniform(0, 1.5) * value_noise(rng, shape, 4 * cell, octaves=1)
    cos, sin = np.cos(turn), np.sin(turn)
    return x * cos - y * sin + bend, x * sin + y * cos + bend


def _stripes(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, _ = _coordinates(rng, shape, cell)
    stripes = rng.uniform(1, 4) * np.sin(np.pi * u)
    return 0.5 + 0.5 * np.clip(stripes, -1, 1)


def _checks(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, v = _coordinates(rng, shape, cell)
    checks = 4 * np.sin(np.pi * u) * np.sin(np.pi * v)
    return 0.5 + 0.5 * np.clip(checks, -1, 1)


def _bricks(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, v = _coordinates(rng, shape, cell)
    row = np.floor(v)
    along = u / 2 + row / 2  # bricks are twice as long as high; each row is shifted by half a brick
    column = np.floor(along)
    shades = rng.random(4096, dtype=np.float32)
    number = ((row * 57 + column * 131) % 4096).astype(np.int32)
    is_mortar = (v - row < 0.12) | (along - column < 0.06)
    return np.where(is_mortar, np.float32(0), 0.35 + 0.65 * shades[number])


def _blobs(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    field = np.full(shape, 0.15, dtype=np.float32)
    count = min(int(shape[0] * shape[1] / cell**2) + 2, 400)
    for _ in range(count):
        center = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        axes = tuple(int(max(1, cell * r)) for r in rng.uniform(0.2, 0.7, 2))
        angle, shade = rng.uniform(0, 180), rng.uniform(0.3, 1)
        cv2.ellipse(field, center, axes, angle, 0, 360, shade, -1, cv2.LINE_AA)
    return field


PATTERNS: tuple[Callable[[Rng, Shape, float], np.ndarray], ...] = (
    value_noise,
    _stripes,
    _checks,
    _bricks,
    _blobs,
)


def palette(rng: Rng, colors: int = 3, contrast: float = 60.0, vivid: float = 40.0) -> np.ndarray:
    """Colours around one random hue, `[colors, 3]` float64 RGB, 0 to 255.

    `contrast`: how far they differ in brightness, in gray levels. `vivid`: how far the hue is from
    gray, in gray levels. Brightness varies more than hue.
    """
    hue = rng.normal(0, vivid, 3)
    brightness = rng.uniform(60, 195) + rng.normal(0, contrast, (colors, 1))
    variation = rng.normal(0, vivid / 3, (colors, 3))
    return np.clip(brightness + hue + variation, 5, 250)


def texture(rng: Rng, shape: Shape, cell: float, colors: np.ndarray) -> np.ndarray:
    """One random pattern with grain, painted with `colors` `[K, 3]` RGB; `[H, W, 3]` uint8."""
    draw = PATTERNS[rng.integers(len(PATTERNS))]
    pattern = draw(rng, shape, cell)
    grain = value_noise(rng, shape, max(cell / 3, 2.0))
    index = np.clip(255 * (0.8 * pattern + 0.2 * grain), 0, 255).astype(np.uint8)
    stops = np.linspace(0, 255, len(colors))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in colors.T], axis=1)
    return table.astype(np.uint8)[index]


def star(rng: Rng, center: np.ndarray, radius: np.ndarray, rough: float) -> np.ndarray:
    """Irregular closed curve around `center`, `[96, 1, 2]` int32 for OpenCV."""
    angle = np.linspace(0, tau, 96, endpoint=False)
    reach = np.ones_like(angle)
    for wave in range(2, 7):
        height = rough * rng.normal() / wave
        phase = rng.uniform(0, tau)
        reach += height * np.cos(wave * angle + phase)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [96, 2]
    points = center + circle * radius * np.clip(reach, 0.4, 1.6)[:, None]
    return points.round().astype(np.int32)[:, None]


def _silhouette(rng: Rng, shape: Shape) -> np.ndarray:
    """Mask of a random figure that fills `shape`, `[H, W]` uint8.

    It is a rough blob, a body with a head, or a box.
    """
    height, width = shape
    mask = np.zeros(shape, dtype=np.uint8)
    middle = half = np.array([width, height]) / 2
    kind = rng.integers(3)
    if kind == 0:
        cv2.fillPoly(mask, [star(rng, middle, 0.8 * half, 0.25)], 255)
    elif kind == 1:  # a body, and a head at its end
        cv2.fillPoly(mask, [star(rng, middle * [1, 1.25], half * [0.8, 0.7], 0.15)], 255)
        cv2.fillPoly(mask, [star(rng, middle * [1, 0.4], half * [0.45, 0.38], 0.08)], 255)
    else:  # a box with one corner cut, such as a vehicle
        x, y = rng.uniform(0.1, 0.4, 2) * [width, height]
        right, bottom = width - 1, height - 1
        corners = [(0, y), (x, 0), (right, 0), (right, bottom), (0, bottom)]
        cv2.fillPoly(mask, [np.array(corners, dtype=np.int32)], 255)
    left, top, w, h = cv2.boundingRect(mask)
    figure = mask[top : top + h, left : left + w]
    return cv2.resize(figure, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True, eq=False)
class Sprite:
    """A figure that can be painted onto a picture."""

    pixels: np.ndarray  # [H, W, 4] uint8: RGB times alpha, and alpha
    hull: np.ndarray  # [P, 2] float64: x and y of the outline, counted from the middle


def make_sprite(rng: Rng, shape: Shape, colors: np.ndarray) -> Sprite:
    """Make a figure of `shape` pixels with an irregular outline and a soft edge.

    Its texture has two to five patches of other textures.
    """
    border = 2
    longest = max(shape)
    mask = np.pad(_silhouette(rng, shape), border)
    size = (mask.shape[0], mask.shape[1])
    skin = texture(rng, size, max(longest * rng.uniform(0.12, 0.35), 3), colors)
    for _ in range(rng.integers(2, 6)):
        cell = max(longest * rng.uniform(0.06, 0.2), 3)
        patch = texture(rng, size, cell, palette(rng, contrast=70, vivid=45))
        where = np.zeros(size, dtype=np.uint8)
        center = rng.uniform(0.2, 0.8, 2) * size[::-1]
        radius = rng.uniform(0.1, 0.3, 2) * size[::-1]
        cv2.fillPoly(where, [star(rng, center, radius, 0.3)], 255)
        skin[where > 0] = patch[where > 0]
    return _finish(rng, skin, mask)


def _finish(rng: Rng, skin: np.ndarray, mask: np.ndarray) -> Sprite:
    """Shade the figure as if lit from one side, soften its edge and find its outline."""
    height, width = mask.shape
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.clip(depth / (0.12 * min(height, width)), 0, 1)  # 0 at the edge
    across = np.linspace(-1, 1, width) * rng.uniform(-0.2, 0.2)
    down = np.linspace(-1, 1, height)[:, None] * -0.15
    light = (0.6 + 0.4 * rim) * (1 + (across + down))  # [H, W]
    lit = np.clip(skin * light[..., None], 0, 255)
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.8)
    share = alpha[..., None] / 255.0
    pixels = np.dstack([lit * share, alpha])
    middle = [(width - 1) / 2, (height - 1) / 2]
    return Sprite(pixels.round().astype(np.uint8), _outline(mask) - middle)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Convex hull of a mask's pixels, with their corners: x and y, `[P, 2]` float64."""
    rows, columns = np.nonzero(mask > 127)
    corners = []
    for dx in (-0.5, 0.5):
        corners += [np.stack([columns + dx, rows + dy], axis=1) for dy in (-0.5, 0.5)]
    hull = cv2.convexHull(np.concatenate(corners).astype(np.float32))
    return hull[:, 0].astype(np.float64)
