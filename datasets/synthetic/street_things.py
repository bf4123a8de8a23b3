"""What stands and drives on a made-up street: cars, houses, trees, a bridge."""

from __future__ import annotations

from collections.abc import Sequence
from math import tau

import numpy as np

from rbsf.datasets.synthetic.solids import Crown, Solid
from rbsf.datasets.synthetic.textures import Rng

Color = Sequence[float]  # RGB, 0 to 255

GLASS, TYRE, STEEL = (38, 48, 60), (24, 24, 26), (70, 72, 76)
WHITE, HEADLIGHT, TAIL_LIGHT = (238, 236, 228), (255, 250, 205), (120, 8, 10)
CONCRETE = (176, 172, 164)
DECK = (5.2, 6.2)  # underside and surface of the bridge, metres above the ground
SEGMENT = 5.0  # length of a segment of the bridge, in metres


def car(paint: Color, stripes: Color | None = None, roof: Color | None = None) -> Solid:
    """A car, 4.4 m long, that heads along y. `stripes`, `roof`: their colours."""
    solid = Solid()
    dark = [0.55 * value for value in paint]
    solid.add_block((-0.9, 0.9, -2.2, 2.2), (-0.94, 0.94, -2.2, 2.2), (0.28, 0.62), dark, dark)
    body = solid.add_block(
        (-0.94, 0.94, -2.2, 2.2), (-0.84, 0.84, -2.1, 2.0), (0.62, 0.95), paint, paint
    )
    for side in (-0.945, 0.945):
        for axle in (-1.35, 1.38):
            solid.add(_wheel(side, axle), TYRE, (side, 0, 0))
    for left in (0.06, 0.76):
        solid.add_panel(body["back"], TAIL_LIGHT, (left, left + 0.18), (0.35, 0.85))
        solid.add_panel(body["front"], HEADLIGHT, (left, left + 0.18), (0.3, 0.8))
    _stripe(solid, body["top"], stripes)
    solid.add_panel(body["top"], [0.82 * v for v in paint], (0.06, 0.94), (0.07, 0.78))
    cabin = solid.add_block(
        (-0.8, 0.8, -1.75, 0.95), (-0.62, 0.62, -1.2, 0.2), (0.95, 1.5), paint, roof or paint
    )
    for face in ("back", "right", "front", "left"):
        solid.add_panel(cabin[face], GLASS, (0.07, 0.93), (0.12, 0.9))
    for face in ("right", "left"):
        solid.add_panel(cabin[face], paint, (0.47, 0.53), (0, 1))
    _stripe(solid, cabin["top"], stripes)
    return solid


def _wheel(side: float, axle: float) -> np.ndarray:
    angle = np.linspace(0, tau, 10, endpoint=False)
    ring = np.stack([np.zeros(10), np.cos(angle), np.sin(angle)], axis=1)
    return [side, axle, 0.34] + 0.34 * ring


def _stripe(solid: Solid, face: int, color: Color | None) -> None:
    if color is not None:
        for left in (0.28, 0.56):
            solid.add_panel(face, color, (left, left + 0.16), (0, 1))


def lorry(paint: Color, load: Color) -> Solid:
    """A lorry, 8 m long, that heads along y."""
    solid = Solid()
    solid.add_block((-1.15, 1.15, -4, 4), (-1.15, 1.15, -4, 4), (0.4, 1.0), STEEL, STEEL)
    for side in (-1.16, 1.16):
        for axle in (-3.0, -1.9, 3.0):
            solid.add(_wheel(side, axle) * [1, 1, 1.3], TYRE, (side, 0, 0))
    cabin = solid.add_block((-1.1, 1.1, 2, 4), (-1.1, 1.1, 2, 3.8), (1.0, 2.5), paint, paint)
    solid.add_panel(cabin["front"], GLASS, (0.05, 0.95), (0.45, 0.95))
    for face in ("right", "left"):
        solid.add_panel(cabin[face], GLASS, (0.3, 0.7), (0.5, 0.95))
    box = solid.add_block((-1.25, 1.25, -4, 1.8), (-1.25, 1.25, -4, 1.8), (1.0, 3.1), load, load)
    for face in ("right", "left"):
        solid.add_panel(box[face], paint, (0.0, 1.0), (0.35, 0.6))
    for place in np.arange(0.1, 1, 0.2):
        solid.add_panel(box["top"], [0.85 * v for v in load], (0, 1), (place, place + 0.02))
    return solid


def house(rng: Rng, width: float, depth: float, height: float) -> Solid:
    """A house with windows and a flat or a pitched roof, with its middle at x = y = 0."""
    solid = Solid()
    wall = rng.uniform((150, 130, 105), (225, 205, 180))
    tiles = rng.uniform((105, 55, 40), (175, 95, 75)) if rng.random() < 0.7 else np.array(STEEL)
    bounds = (-width / 2, width / 2, -depth / 2, depth / 2)
    walls = solid.add_block(bounds, bounds, (0, height), wall, tiles)
    for name, length in (("back", width), ("front", width), ("right", depth), ("left", depth)):
        _windows(solid, walls[name], int(length / 3), int(height / 2.8))
    if rng.random() < 0.6:
        _pitched_roof(solid, bounds, height, tiles, wall)
        return solid
    solid.add_panel(walls["top"], [0.8 * v for v in tiles], (0.05, 0.95), (0.05, 0.95))
    for x, y in rng.uniform(-0.3, 0.3, (3, 2)) * [width, depth]:
        block = (x - 0.8, x + 0.8, y - 0.6, y + 0.6)
        solid.add_block(block, block, (height, height + 0.9), CONCRETE, CONCRETE)
    return solid


def _windows(solid: Solid, wall: int, columns: int, rows: int) -> None:
    for column in range(columns):
        for row in range(rows):
            left, low = (column + 0.28) / columns, (row + 0.35) / rows
            right, high = left + 0.44 / columns, low + 0.45 / rows
            solid.add_panel(wall, GLASS, (left, right), (low, high))


def _pitched_roof(
    solid: Solid, bounds: tuple[float, ...], height: float, tiles: np.ndarray, wall: np.ndarray
) -> None:
    """A ridge along y, with rows of tiles."""
    x0, x1, y0, y1 = bounds
    eaves, ridge = 0.4, height + 0.33 * (x1 - x0)
    for y, outward in ((y0, -1), (y1, 1)):
        solid.add([(x0, y, height), (x1, y, height), (0, y, ridge)], wall, (0, outward, 0))
    for x, outward in ((x0 - eaves, -1), (x1 + eaves, 1)):
        corners = [(x, y0 - eaves, height), (x, y1 + eaves, height)]
        corners += [(0, y1 + eaves, ridge), (0, y0 - eaves, ridge)]
        slope = solid.add(corners, tiles, (outward, 0, 1))
        for place in np.arange(0.1, 1, 0.15):
            solid.add_panel(slope, 0.86 * tiles, (0, 1), (place, place + 0.05))


def tree(rng: Rng) -> tuple[Solid, Crown]:
    """A trunk, and a crown that is lit from above."""
    radius, height = rng.uniform(1.7, 2.7), rng.uniform(4.2, 5.6)
    trunk = Solid()
    trunk.add_block(
        (-0.18, 0.18, -0.18, 0.18), (-0.12, 0.12, -0.12, 0.12), (0, height), (86, 66, 48), STEEL
    )
    count = 70
    ball = rng.normal(0, 1, (count, 3))
    ball *= (rng.uniform(0.35, 1, (count, 1)) ** 0.5) / np.linalg.norm(ball, axis=1, keepdims=True)
    centers = ball * radius * [1, 1, 0.85] + [0, 0, height]
    hue = rng.uniform((52, 86, 30), (98, 118, 46))
    lit = 0.62 + 0.3 * ball @ [-0.54, -0.34, 0.77] + rng.normal(0, 0.08, count)
    return trunk, Crown(centers, rng.uniform(0.2, 0.34, count) * radius, hue * lit[:, None] * 1.5)


def bridge(south: float, north: float, half: float) -> tuple[Solid, Solid]:
    """A road across, from y `south` to `north` and `half` metres to either side.

    Returns the bridge and its southern railing, which hides the lower part of cars on the bridge.
    """
    deck, railing = Solid(), Solid()
    for west in np.arange(-half, half, SEGMENT):
        top = _add_beam(deck, west, (south, north), DECK, (88, 88, 92))
        for low, high in ((0, 0.1), (0.9, 1)):
            deck.add_panel(top, CONCRETE, (0, 1), (low, high))
        deck.add_panel(top, WHITE, (0, 1), (0.493, 0.507))
        for line in (0.29, 0.7):
            deck.add_panel(top, WHITE, (0.1, 0.5), (line, line + 0.012))
        above = (DECK[1], DECK[1] + 0.8)
        _add_beam(deck, west, (north - 0.3, north), above, (214, 210, 202))
        _add_beam(railing, west, (south, south + 0.3), above, (214, 210, 202))
    return deck, railing


def _add_beam(
    solid: Solid, west: float, ys: tuple[float, float], heights: tuple[float, float], top: Color
) -> int:
    """Add a segment of an endless beam along x; returns the number of its top face."""
    (south, north), (low, high), east = ys, heights, west + SEGMENT
    for y, outward in ((south, -1), (north, 1)):
        corners = [(west, y, low), (east, y, low), (east, y, high), (west, y, high)]
        face = solid.add(corners, CONCRETE, (0, outward, 0))
        solid.add_panel(face, STEEL, (0, 0.015), (0, 1))
    corners = [(west, south, high), (east, south, high), (east, north, high), (west, north, high)]
    return solid.add(corners, top, (0, 0, 1))
