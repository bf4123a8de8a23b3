"""The ground of a made-up street, seen from above: a road in a town, its paths and its lawns."""

from __future__ import annotations

from math import tau

import cv2
import numpy as np
from numpy.typing import ArrayLike

from rbsf.datasets.synthetic.textures import Rng, value_noise

PER_METRE = 12  # pixels per metre of the ground's picture
WEST, SOUTH = -60.0, -45.0  # the ground's first column and row, in metres
WIDTH, LENGTH = 120, 225  # metres
LANE = 3.5  # metres
ROAD = 8.0  # half of the width of the road, in metres
PATH = 11.0  # from the road's middle to the far edge of the paths, in metres
BEND, PERIOD = 5.0, 130.0  # metres that the road swings to either side, and length of a swing
CROSSING = 16.0  # y of the crossing, in metres

TO_METRES = np.array([[1 / PER_METRE, 0, WEST], [0, 1 / PER_METRE, SOUTH], [0, 0, 1]])


def road_at(y: ArrayLike) -> np.ndarray:
    """The x of the road's middle at y, in metres."""
    return np.asarray(BEND * np.sin(tau * np.asarray(y) / PERIOD))


def road_turn(y: float) -> float:
    """Angle of the road from straight ahead, in radians, positive to the left."""
    angle = tau * y / PERIOD
    slope = BEND * tau / PERIOD * np.cos(angle)
    return float(-np.arctan(slope))


def paint_ground(rng: Rng) -> np.ndarray:
    """Paint `[LENGTH * PER_METRE, WIDTH * PER_METRE, 3]` uint8 RGB, with the south on top."""
    shape = (LENGTH * PER_METRE, WIDTH * PER_METRE)
    y = (np.arange(shape[0], dtype=np.float32)[:, None] / PER_METRE + SOUTH).repeat(shape[1], 1)
    x = np.arange(shape[1], dtype=np.float32)[None] / PER_METRE + WEST
    across = (x - road_at(y)).astype(np.float32)  # metres from the road's middle
    away = np.abs(across)
    picture = _lawn(rng, shape)
    _lay(picture, away < PATH, _paving(rng, shape, across, y))
    _lay(picture, away < ROAD + 0.25, np.float32(168))  # kerb
    _lay(picture, away < ROAD, _asphalt(rng, shape, across))
    _lay(picture, _markings(across, away, y), 205 + 25 * value_noise(rng, shape, 9)[..., None])
    clouds = 0.9 + 0.2 * value_noise(rng, shape, 40 * PER_METRE, 2)
    return np.clip(picture * clouds[..., None], 0, 255).astype(np.uint8)


def _lay(picture: np.ndarray, where: np.ndarray, colors: np.ndarray | np.float32) -> None:
    np.copyto(picture, colors, where=where[..., None])


def _lawn(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Grass with dry spots, mown in stripes."""
    green, dry = np.array([72, 104, 48], np.float32), np.array([138, 130, 78], np.float32)
    spots = np.clip(2.2 * value_noise(rng, shape, 9 * PER_METRE, 4) - 0.75, 0, 1)[..., None]
    blades = 0.72 + 0.5 * value_noise(rng, shape, 7, 2)[..., None]
    rows = np.arange(shape[0], dtype=np.float32)[:, None, None] / PER_METRE
    stripes = 1 + 0.07 * np.sign(np.sin(rows * np.pi / 2.5))
    return (green + (dry - green) * spots) * blades * stripes


def _paving(rng: Rng, shape: tuple[int, int], across: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slabs of one metre, each with its own shade."""
    shades = rng.uniform(0.86, 1.06, 4096).astype(np.float32)
    slab = (np.floor(across) * 57 + np.floor(y) * 131).astype(np.int64) % 4096
    joint = (across % 1 < 0.07) | (y % 1 < 0.07)
    bright = shades[slab] * np.where(joint, 0.72, 1) * (0.9 + 0.2 * value_noise(rng, shape, 5, 2))
    return bright[..., None] * np.array([172, 162, 146], np.float32)


def _asphalt(rng: Rng, shape: tuple[int, int], across: np.ndarray) -> np.ndarray:
    """Gray with grain, worn by wheels, with patches and cracks."""
    grain = value_noise(rng, shape, 3, 1) * 26 + value_noise(rng, shape, 5 * PER_METRE, 3) * 26
    wheel = np.abs((across % LANE) - LANE / 2)  # metres from the middle of the lane
    level = 66 + grain - 9 * np.exp(-(((wheel - 0.8) / 0.3) ** 2))
    for _ in range(40):  # patches
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1] // 3, shape[1]))
        height, width = (int(side) for side in rng.integers(15, 60, 2))
        level[row : row + height, column : column + width] += rng.choice([-14, 11])
    for _ in range(70):  # cracks
        start, ahead = rng.uniform(0, 1, 2) * shape[::-1], rng.normal(0, 5, 2)
        steps = (ahead + rng.normal(0, 2, (15, 2))).cumsum(axis=0) + start
        points = steps.round().astype(np.int32)[:, None]
        cv2.polylines(level, [points], False, 48.0, 1, cv2.LINE_AA)
    return level[..., None] * np.array([0.98, 1, 1.05], np.float32)


def _markings(across: np.ndarray, away: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the road is painted white, `[H, W]` bool."""
    middle = (away > 0.1) & (away < 0.24)
    between_lanes = np.abs(away - LANE) < 0.08
    dashes = between_lanes & (y % 6 < 3)
    edges = np.abs(away - 2 * LANE - 0.2) < 0.07
    to_crossing = np.abs(y - CROSSING)
    zebra = (to_crossing < 1.8) & (across % 1.1 < 0.55) & (away < 2 * LANE)
    return np.where(to_crossing < 2.4, zebra, middle | dashes | edges)
