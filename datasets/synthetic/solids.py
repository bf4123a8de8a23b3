"""Things made of flat faces or balls, and the camera that paints them.

The axes are x to the right, y ahead and z up, in metres; the ground is z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import tau

import cv2
import numpy as np
from numpy.typing import ArrayLike

SUN = np.array([-0.54, -0.34, 0.77])  # direction to the sun
SHADOW = -SUN[:2] / SUN[2]  # offset of the shadow of a point 1 m above the ground, in m
AMBIENT = 0.5  # brightness of a face that the sun does not reach
SUBPIXELS = 4  # bits of a pixel's fraction, for OpenCV's `shift`
NEAR = 0.5  # metres in front of the camera; nearer things are not painted

Bounds = tuple[float, float, float, float]  # lowest x, highest x, lowest y, highest y, in metres


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera."""

    place: np.ndarray  # [3], metres
    axes: np.ndarray  # [3, 3], rows are the directions of right, down and forward
    focal: float  # pixels
    size: tuple[int, int]  # width, height in pixels

    def see(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `[N, 2]` of points `[N, 3]`, and how far in front of the camera they are."""
        seen = (points - self.place) @ self.axes.T
        depth = np.maximum(seen[:, 2], 1e-6)
        middle = (np.array(self.size) - 1) / 2
        return self.focal * seen[:, :2] / depth[:, None] + middle, seen[:, 2]

    def of_ground(self) -> np.ndarray:
        """Homography `[3, 3]` from x, y on the ground to pixels."""
        middle = (np.array(self.size) - 1) / 2
        lens = np.array([[self.focal, 0, middle[0]], [0, self.focal, middle[1]], [0, 0, 1]])
        return lens @ np.column_stack([self.axes[:, 0], self.axes[:, 1], -self.axes @ self.place])


def look_at(
    place: np.ndarray, aim: np.ndarray, roll: float, focal: float, size: tuple[int, int]
) -> Camera:
    """A camera at `place` that looks at the point `aim`, turned by `roll` radians."""
    forward = (aim - place) / np.linalg.norm(aim - place)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    axes = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    return Camera(place, axes, focal, size)


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a thing stands, and how far it is turned about its vertical axis."""

    place: np.ndarray  # [3], metres
    heading: float = 0.0  # radians

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Turn vectors, `[N, 3]`."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return vectors @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


class Solid:
    """A thing of flat convex faces, which are painted in the order in which they were added."""

    def __init__(self) -> None:
        self.faces: list[np.ndarray] = []  # each [K, 3]
        self.normals: list[np.ndarray] = []
        self.colors: list[np.ndarray] = []  # RGB, 0 to 255

    def add(self, corners: ArrayLike, color: ArrayLike, outward: ArrayLike) -> int:
        """Add a face that is seen from the side of the vector `outward`; returns its number."""
        points = np.array(corners, dtype=float)
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal /= np.linalg.norm(normal)
        self.faces.append(points)
        self.normals.append(normal if normal @ np.asarray(outward) > 0 else -normal)
        self.colors.append(np.array(color, dtype=float))
        return len(self.faces) - 1

    def add_block(
        self,
        bottom: Bounds,
        top: Bounds,
        heights: tuple[float, float],
        sides: ArrayLike,
        roof: ArrayLike,
    ) -> dict[str, int]:
        """Add a block between two rectangles; returns the numbers of its faces by their names."""
        low, high = _rectangle(bottom, heights[0]), _rectangle(top, heights[1])
        outward = {"back": (0, -1, 0), "right": (1, 0, 0), "front": (0, 1, 0), "left": (-1, 0, 0)}
        added = {}
        for i, (name, direction) in enumerate(outward.items()):
            j = (i + 1) % 4
            added[name] = self.add([low[i], low[j], high[j], high[i]], sides, direction)
        added["top"] = self.add(high, roof, (0, 0, 1))
        return added

    def add_panel(
        self, face: int, color: ArrayLike, across: tuple[float, float], up: tuple[float, float]
    ) -> None:
        """Paint a part of a face of four corners.

        `across` and `up` are ranges from 0 to 1, along the face's first side and its last one.
        """
        a, b, c, d = self.faces[face]
        left, right = across

        def corner(u: float, v: float) -> np.ndarray:
            first, last = (1 - u) * a + u * b, (1 - u) * d + u * c
            return (1 - v) * first + v * last

        low, high = up
        corners = [corner(left, low), corner(right, low), corner(right, high), corner(left, high)]
        self.add(corners, color, self.normals[face])

    def paint(self, canvas: np.ndarray, camera: Camera, pose: Pose, light: float = 1.0) -> None:
        """Paint onto `canvas`, `[H, W, 3]` uint8 RGB, in place.

        `light` is the share of sunlight that reaches the thing. A face that reaches behind the
        camera is left out.
        """
        points = pose.turn(np.concatenate(self.faces)) + pose.place
        pixels, depth = camera.see(points)
        if _outside(pixels[depth > NEAR], camera.size):
            return
        normals = pose.turn(np.array(self.normals))
        brightness = AMBIENT + (1 - AMBIENT) * np.clip(normals @ SUN, 0, 1) * light
        colors = np.array(self.colors) * brightness[:, None]
        starts = np.cumsum([0, *map(len, self.faces)])
        facing = ((camera.place - points[starts[:-1]]) * normals).sum(axis=1) > 0
        in_front = np.minimum.reduceat(depth, starts[:-1]) > NEAR
        fixed = np.round(pixels * 2**SUBPIXELS).clip(-(2**24), 2**24).astype(np.int32)
        for i in np.flatnonzero(facing & in_front):
            corners, color = fixed[starts[i] : starts[i + 1]], colors[i].tolist()
            cv2.fillConvexPoly(canvas, corners, color, cv2.LINE_AA, SUBPIXELS)

    def outline(self, camera: Camera, pose: Pose) -> np.ndarray:
        """Pixels of all corners, `[N, 2]`."""
        return camera.see(pose.turn(np.concatenate(self.faces)) + pose.place)[0]

    def shadow(self, pose: Pose) -> np.ndarray:
        """Outline of the shadow on the ground, x and y in metres, `[P, 2]`."""
        points = pose.turn(np.concatenate(self.faces)) + pose.place
        thrown = points[:, :2] + points[:, 2:] * SHADOW
        return cv2.convexHull(thrown.astype(np.float32))[:, 0]


@dataclass(frozen=True, eq=False)
class Crown:
    """The leaves of a tree: balls, each of one colour."""

    centers: np.ndarray  # [N, 3], metres
    radii: np.ndarray  # [N], metres
    colors: np.ndarray  # [N, 3] RGB

    def paint(self, canvas: np.ndarray, camera: Camera, pose: Pose, light: float = 1.0) -> None:
        """As `Solid.paint`."""
        pixels, depth = camera.see(self.centers + pose.place)
        if depth.min() < NEAR or _outside(pixels, camera.size):
            return
        fixed = np.round(pixels * 2**SUBPIXELS).astype(int).tolist()
        radii = np.round(self.radii * camera.focal / depth * 2**SUBPIXELS).astype(int).tolist()
        colors = (self.colors * light).tolist()
        for i in np.argsort(-depth):
            cv2.circle(canvas, fixed[i], radii[i], colors[i], -1, cv2.LINE_AA, SUBPIXELS)

    def shadow(self, pose: Pose) -> np.ndarray:
        """As `Solid.shadow`."""
        ring = np.linspace(0, tau, 12, endpoint=False)
        circle = np.stack([np.cos(ring), np.sin(ring)], axis=1)
        middles = (self.centers + pose.place)[:, :2] + self.centers[:, 2:] * SHADOW
        points = middles[:, None] + circle * self.radii[:, None, None]
        return cv2.convexHull(points.reshape(-1, 2).astype(np.float32))[:, 0]


def _rectangle(bounds: Bounds, height: float) -> np.ndarray:
    x0, x1, y0, y1 = bounds
    return np.array([(x0, y0, height), (x1, y0, height), (x1, y1, height), (x0, y1, height)])


def _outside(pixels: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether all points lie beyond the same edge of the picture by more than a margin."""
    margin = 60  # pixels
    if not len(pixels):
        return True
    low, high = pixels.min(axis=0) - margin, pixels.max(axis=0) + margin
    return bool((high < 0).any() or (low > size).any())
