"""Procedural textures and sprites for synthetic videos: everything is drawn from a NumPy generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator
Shape = tuple[int, int]  # height, width


def value_noise(rng: Rng, shape: Shape, cell: float, octaves: int = 3) -> np.ndarray:
    """Smooth noise, (H, W) float32 in 0..1, whose largest spots are about `cell` pixels wide."""
    height, width = shape
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        grid = rng.random((int(height / step) + 2, int(width / step) + 2), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _coordinates(rng: Rng, shape: Shape, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates in units of `cell`, turned by a random angle and bent a little; two (H,
    W) float32.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(cell)
    turn = rng.uniform(0, np.pi)
    bend = rng.uniform(0, 1.5) * value_noise(rng, shape, 4 * cell, octaves=1)
    return x * np.cos(turn) - y * np.sin(turn) + bend, x * np.sin(turn) + y * np.cos(turn) + bend


def _stripes(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, _ = _coordinates(rng, shape, cell)
    return 0.5 + 0.5 * np.clip(rng.uniform(1, 4) * np.sin(np.pi * u), -1, 1)


def _checks(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, v = _coordinates(rng, shape, cell)
    return 0.5 + 0.5 * np.clip(4 * np.sin(np.pi * u) * np.sin(np.pi * v), -1, 1)


def _bricks(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    u, v = _coordinates(rng, shape, cell)
    row = np.floor(v)
    column = np.floor(u / 2 + row / 2)
    shade = rng.random(4096, dtype=np.float32)[((row * 57 + column * 131) % 4096).astype(np.int32)]
    mortar = (v - row < 0.12) | (u / 2 + row / 2 - column < 0.06)
    return np.where(mortar, np.float32(0), 0.35 + 0.65 * shade)


def _blobs(rng: Rng, shape: Shape, cell: float) -> np.ndarray:
    field = np.full(shape, 0.15, dtype=np.float32)
    for _ in range(min(int(shape[0] * shape[1] / cell**2) + 2, 400)):
        center = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        axes = tuple(int(max(1, cell * r)) for r in rng.uniform(0.2, 0.7, 2))
        cv2.ellipse(
            field, center, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 1), -1, cv2.LINE_AA
        )
    return field


PATTERNS: tuple[Callable[[Rng, Shape, float], np.ndarray], ...] = (
    value_noise,
    _stripes,
    _checks,
    _bricks,
    _blobs,
)


def palette(rng: Rng, colors: int = 3, contrast: float = 60.0, vivid: float = 40.0) -> np.ndarray:
    """Colours around one random hue; (colors, 3) float64 RGB 0..255.

    `contrast`: how far they differ in brightness, gray levels; `vivid`: how far the hue is from
    gray.
    """
    hue = rng.normal(0, vivid, 3)
    gray = rng.uniform(60, 195) + rng.normal(
        0, contrast, (colors, 1)
    )  # brightness varies more than hue
    return np.clip(gray + hue + rng.normal(0, vivid / 3, (colors, 3)), 5, 250)


def texture(rng: Rng, shape: Shape, cell: float, colors: np.ndarray) -> np.ndarray:
    """One random pattern with grain, painted with `colors` ((K, 3), RGB); H x W x 3 uint8."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng, shape, cell)
    grain = value_noise(rng, shape, max(cell / 3, 2.0))
    index = np.clip(255 * (0.8 * pattern + 0.2 * grain), 0, 255).astype(np.uint8)
    stops = np.linspace(0, 255, len(colors))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in colors.T], axis=1)
    return table.astype(np.uint8)[index]


def star(rng: Rng, center: np.ndarray, radius: np.ndarray, rough: float) -> np.ndarray:
    """Irregular closed curve around `center`, (96, 1, 2) int32 for OpenCV."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    reach = np.ones_like(angle)
    for wave in range(2, 7):
        reach += rough * rng.normal() / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    points = (
        center
        + np.stack([np.cos(angle), np.sin(angle)], axis=1)
        * radius
        * np.clip(reach, 0.4, 1.6)[:, None]
    )
    return points.round().astype(np.int32)[:, None]


def _silhouette(rng: Rng, shape: Shape) -> np.ndarray:
    """Mask of a random figure that fills `shape`: a rough blob, a body with a head, or a box; (H,
    W) uint8.
    """
    height, width = shape
    mask = np.zeros(shape, dtype=np.uint8)
    middle, half = np.array([width, height]) / 2, np.array([width, height]) / 2
    kind = rng.integers(3)
    if kind == 0:
        cv2.fillPoly(mask, [star(rng, middle, 0.8 * half, 0.25)], 255)
    elif kind == 1:  # a body, and a head at its end
        cv2.fillPoly(mask, [star(rng, middle * [1, 1.25], half * [0.8, 0.7], 0.15)], 255)
        cv2.fillPoly(mask, [star(rng, middle * [1, 0.4], half * [0.45, 0.38], 0.08)], 255)
    else:  # a box with one corner cut, such as a vehicle
        cut = rng.uniform(0.1, 0.4, 2) * [width, height]
        corners = [
            (0, cut[1]),
            (cut[0], 0),
            (width - 1, 0),
            (width - 1, height - 1),
            (0, height - 1),
        ]
        cv2.fillPoly(mask, [np.array(corners, dtype=np.int32)], 255)
    left, top, w, h = cv2.boundingRect(mask)
    return cv2.resize(
        mask[top : top + h, left : left + w], (width, height), interpolation=cv2.INTER_LINEAR
    )


@dataclass(frozen=True, eq=False)
class Sprite:
    """`pixels`: H x W x 4 uint8, RGB times alpha, and alpha. `hull`: (P, 2) float64, outline
    around the middle.
    """

    pixels: np.ndarray
    hull: np.ndarray


def make_sprite(rng: Rng, shape: Shape, colors: np.ndarray) -> Sprite:
    """A figure of `shape` pixels with an irregular outline, a soft edge, and a texture with two
    to five patches.
    """
    border = 2
    mask = np.pad(_silhouette(rng, shape), border)
    size = (mask.shape[0], mask.shape[1])
    skin = texture(rng, size, max(max(shape) * rng.uniform(0.12, 0.35), 3), colors)
    for _ in range(rng.integers(2, 6)):
        patch = texture(
            rng,
            size,
            max(max(shape) * rng.uniform(0.06, 0.2), 3),
            palette(rng, contrast=70, vivid=45),
        )
        where = np.zeros(size, dtype=np.uint8)
        center, radius = (
            rng.uniform(0.2, 0.8, 2) * size[::-1],
            rng.uniform(0.1, 0.3, 2) * size[::-1],
        )
        cv2.fillPoly(where, [star(rng, center, radius, 0.3)], 255)
        skin[where > 0] = patch[where > 0]
    return _finish(rng, skin, mask)


def _finish(rng: Rng, skin: np.ndarray, mask: np.ndarray) -> Sprite:
    """Shade the figure as if lit from one side, soften its edge and find its outline."""
    height, width = mask.shape
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.clip(depth / (0.12 * min(height, width)), 0, 1)  # 0 at the edge
    side = (
        np.linspace(-1, 1, width) * rng.uniform(-0.2, 0.2)
        + np.linspace(-1, 1, height)[:, None] * -0.15
    )
    lit = np.clip(skin * ((0.6 + 0.4 * rim) * (1 + side))[..., None], 0, 255)
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.8)
    pixels = np.dstack([lit * (alpha[..., None] / 255.0), alpha]).round().astype(np.uint8)
    rows, columns = np.nonzero(mask > 127)
    corners = np.concatenate(
        [np.stack([columns + dx, rows + dy], axis=1) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
    )
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
    return Sprite(pixels, hull - [(width - 1) / 2, (height - 1) / 2])
