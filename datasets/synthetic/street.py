"""A made-up street filmed by a drone: a car drives along it, below a bridge and out again.

Tracking it is hard: the camera shakes and turns, there is motion blur, noise and shadows, other
cars have the target's form and colours, and the target is out of sight for a time. Networks are not
trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import tau

import cv2
import numpy as np

from rbsf.datasets.synthetic import street_things as things
from rbsf.datasets.synthetic.ground import (
    LANE,
    PATH,
    PER_METRE,
    SOUTH,
    TO_METRES,
    WEST,
    paint_ground,
    road_at,
    road_turn,
)
from rbsf.datasets.synthetic.solids import SUBPIXELS, Camera, Crown, Pose, Solid, look_at
from rbsf.datasets.synthetic.textures import Rng

FPS = 25.0
EXPOSURE = 0.5  # share of the time between two frames
MOMENTS = 4  # moments averaged into one frame, which blurs moving things
NOISE = 4.0  # standard deviation in gray levels
VISIBLE = 0.2  # the target counts as visible if at least this share of it is seen

BRIDGE = (38.0, 51.0)  # y of its southern and northern edge, in metres
SHADED = 0.52  # brightness of the ground in shadow
DISTANCE, PITCH = 29.0, np.radians(40)  # the camera's metres from its aim, and its tilt downwards
FOCAL = 1.05  # focal length, in widths of the picture
SHAKE = np.radians(0.22)  # most that the camera trembles to either side

RED, IVORY, BLUE = (196, 34, 28), (236, 230, 214), (44, 74, 150)
PAINTS = ((222, 222, 218), (60, 64, 70), BLUE, (96, 120, 96), (150, 154, 160), (120, 40, 60))


@dataclass(frozen=True, eq=False)
class Drive:
    """Something that drives along the road: in a lane, or from one to another."""

    solid: Solid
    start: float  # y at the first frame, in metres
    speed: float  # metres a second; negative: towards the camera
    lane: float  # metres to the right of the road's middle
    to_lane: float | None = None
    change: tuple[float, float] = (0, 1)  # first and last second of the lane change

    def pose(self, time: float) -> Pose:
        """Where it is, `time` seconds after the first frame."""
        y = self.start + self.speed * time
        begin, end = self.change
        part = np.clip((time - begin) / (end - begin), 0, 1)
        aside = (self.to_lane if self.to_lane is not None else self.lane) - self.lane
        x = road_at(y) + self.lane + aside * part * part * (3 - 2 * part)
        turn = -aside * 6 * part * (1 - part) / (end - begin) / abs(self.speed)
        return Pose(np.array([x, y, 0.0]), road_turn(y) + turn + np.pi * (self.speed < 0))


@dataclass(frozen=True, eq=False)
class Cross:
    """Something that drives over the bridge."""

    solid: Solid
    start: float  # x at the first frame, in metres
    speed: float
    y: float

    def pose(self, time: float) -> Pose:
        """Where it is, `time` seconds after the first frame."""
        place = np.array([self.start + self.speed * time, self.y, things.DECK[1]])
        return Pose(place, -np.pi / 2 * np.sign(self.speed))


@dataclass(frozen=True, eq=False)
class Standing:
    """Something that stays where it is."""

    solid: Solid | Crown
    at: Pose

    def pose(self, time: float) -> Pose:
        """Where it is."""
        return self.at


Thing = Drive | Cross | Standing


class Street:
    """The whole video, drawn once from its seed; `render` paints any frame of it.

    `size` is (width, height) in pixels. The ground is long enough for 10 s at `FPS` frames a
    second. On one machine the same seed and size give the same bytes. Most cars have fixed places;
    the seed chooses looks, gaps in the traffic and the camera's trembling.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (640, 360)) -> None:
        self.seed, self.size = seed, size
        rng = np.random.default_rng(seed)
        self.ground = paint_ground(rng)
        self.target = Drive(things.car(RED, IVORY), 0.0, 9.5, 1.5 * LANE, 0.5 * LANE, (0.3, 2.0))
        self.traffic = _traffic(rng)
        self.sides = _sides(rng)
        deck, railing = things.bridge(*BRIDGE, half=50)
        self.deck, self.railing = (Standing(part, Pose(np.zeros(3))) for part in (deck, railing))
        self.crossing = _crossing(rng)
        self.shade = self._still_shade()
        self.ground = cv2.multiply(self.ground, cv2.merge([self.shade] * 3), scale=1 / 255)
        self.phases = rng.uniform(0, tau, (3, 4))

    def render(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Paint one frame.

        Returns it as `[H, W, 3]` uint8 RGB, and the target's box, `x, y, w, h`, clipped to the
        frame; NaN if less than VISIBLE of the target is seen.
        """
        times = (frame + EXPOSURE * (np.arange(MOMENTS) + 0.5) / MOMENTS) / FPS
        total = np.zeros((self.size[1], self.size[0], 3), np.float32)
        for time in times:
            total += self._moment(float(time))
        return self._develop(total / MOMENTS, frame), self._box(float(times.mean()))

    def _still_shade(self) -> np.ndarray:
        """The sun's light on the ground, `[H, W]` uint8, without shadows of moving things."""
        shade = np.full(self.ground.shape[:2], 255, np.uint8)
        for thing in [*self.sides, self.deck]:
            _throw_shadow(shade, thing)
        return cv2.GaussianBlur(shade, (0, 0), 0.12 * PER_METRE)

    def _light_at(self, pose: Pose) -> float:
        """The share of sunlight that reaches a thing on the ground, 0 to 1."""
        column, row = ((pose.place[:2] - (WEST, SOUTH)) * PER_METRE).astype(int)
        height, width = self.shade.shape
        if not (0 <= row < height and 0 <= column < width):
            return 1.0
        return (float(self.shade[row, column]) / 255 - SHADED) / (1 - SHADED)

    def camera(self, time: float) -> Camera:
        """The camera at a time: it follows the target's path, swings around it and trembles."""
        y = self.target.start + self.target.speed * time
        turns = time / np.array([7.3, 5.1, 9.7])
        aside, ahead, farther = np.sin(tau * turns + [0.4, 1.7, 0.9])
        x = 0.8 * road_at(y) + 2.0 + 1.6 * aside
        aim = np.array([x, y + 1.5 + 2.2 * ahead, 0.8])
        yaw = np.radians(-26) * np.cos(tau * time / 15)
        back = np.array([-np.sin(yaw), -np.cos(yaw), 0]) * np.cos(PITCH)
        up = np.array([0, 0, np.sin(PITCH)])
        place = aim + (DISTANCE + 2.5 * farther) * (back + up)
        pan, tilt, roll = SHAKE * self._tremble(time)
        aim = aim + DISTANCE * np.array([pan, 0, tilt])
        return look_at(place, aim, roll, FOCAL * self.size[0], self.size)

    def _tremble(self, time: float) -> np.ndarray:
        """The camera's trembling in pan, tilt and roll, three numbers of about -1 to 1."""
        rates = np.array([1.3, 2.9, 5.3, 8.7])  # hertz
        parts = np.array([0.45, 0.3, 0.25, 0.12])
        return (parts * np.sin(tau * rates * time + self.phases)).sum(axis=1)

    def _moment(self, time: float) -> np.ndarray:
        """What the camera sees at one time."""
        camera = self.camera(time)
        picture = self._look_at_ground(camera, time)
        for thing in self._by_depth(camera, time):
            pose = thing.pose(time)
            light = self._light_at(pose) if isinstance(thing, Drive) else 1.0
            thing.solid.paint(picture, camera, pose, light)
        return picture

    def _look_at_ground(self, camera: Camera, time: float) -> np.ndarray:
        view = camera.of_ground() @ TO_METRES
        picture = cv2.warpPerspective(self.ground, view, self.size, borderMode=cv2.BORDER_REFLECT)
        shade = np.full((self.size[1], self.size[0]), 255, np.uint8)
        for thing in [self.target, *self.traffic]:
            outline = thing.solid.shadow(thing.pose(time))
            seen, depth = camera.see(np.column_stack([outline, np.zeros(len(outline))]))
            if depth.min() > 1:
                corners = np.round(seen * 2**SUBPIXELS).astype(np.int32)
                strength = 255 - 0.9 * 255 * (1 - SHADED) * self._light_at(thing.pose(time))
                cv2.fillConvexPoly(shade, corners, strength, cv2.LINE_AA, SUBPIXELS)
        return cv2.multiply(picture, cv2.merge([shade] * 3), scale=1 / 255)

    def _by_depth(self, camera: Camera, time: float) -> list[Thing]:
        """All things in the order of painting, the farthest first.

        The bridge hides things beyond its southern edge; things south of that edge hide the bridge.
        """

        def order(thing: Thing) -> tuple[bool, float]:
            place = thing.pose(time).place
            return bool(place[1] < BRIDGE[0]), -float(camera.see(place[None])[1][0])

        ordered = sorted([self.target, *self.traffic, *self.sides], key=order)
        beyond = [thing for thing in ordered if not order(thing)[0]]
        return [*beyond, self.deck, *self.crossing, self.railing, *ordered[len(beyond) :]]

    def _box(self, time: float) -> np.ndarray:
        camera, pose = self.camera(time), self.target.pose(time)
        if self._visible(camera, time) < VISIBLE:
            return np.full(4, np.nan)
        outline = self.target.solid.outline(camera, pose)
        low = np.clip(outline.min(axis=0) + 0.5, 0, self.size)
        high = np.clip(outline.max(axis=0) + 0.5, 0, self.size)
        return np.concatenate([low, high - low])

    def _visible(self, camera: Camera, time: float) -> float:
        """The share of the target that nothing hides."""
        alone = np.zeros((self.size[1], self.size[0], 3), np.uint8)
        self.target.solid.paint(alone, camera, self.target.pose(time))
        where = alone.any(axis=2)
        things = self._by_depth(camera, time)
        hidden = np.zeros_like(alone)
        for thing in things[things.index(self.target) + 1 :]:
            thing.solid.paint(hidden, camera, thing.pose(time))
        return float((where & ~hidden.any(axis=2)).sum() / max(where.sum(), 1))

    def _develop(self, picture: np.ndarray, frame: int) -> np.ndarray:
        """Add haze in the distance, darker corners, and the sensor's noise."""
        width, height = self.size
        rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        haze = 0.22 * np.clip(1 - rows / 0.6, 0, 1)
        picture = picture + (np.array([214, 220, 226], np.float32) - picture) * haze
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
        picture = picture * (1.1 - 0.13 * (x**2 + (2 * rows - 1) ** 2))
        noise = np.random.default_rng((self.seed, frame)).normal(0, NOISE, picture.shape)
        return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def _throw_shadow(shade: np.ndarray, thing: Standing) -> None:
    """Darken the ground in the shadow of a standing thing."""
    outline = (thing.solid.shadow(thing.at) - (WEST, SOUTH)) * PER_METRE
    corners = np.round(outline * 2**SUBPIXELS).astype(np.int32)
    cv2.fillConvexPoly(shade, corners, 255 * SHADED, cv2.LINE_AA, SUBPIXELS)


def _traffic(rng: Rng) -> list[Thing]:
    """Cars like the target, which the target overtakes or meets, and others."""
    oncoming_twin = 96.0
    cars: list[Thing] = [
        Drive(things.car(RED), 15.0, 5.5, 1.5 * LANE),
        Drive(things.car(RED, BLUE, IVORY), 34.0, 5.5, 1.5 * LANE),
        Drive(things.car(RED, IVORY), oncoming_twin, -8.5, -1.5 * LANE),
        Drive(things.lorry(BLUE, (214, 210, 200)), -14.0, 5.5, 1.5 * LANE),
    ]
    cars += [Drive(_any_car(rng), y, 9.5, 0.5 * LANE) for y in (24.0, 41.0, -16.0, -34.0)]
    for lane, speed in ((-0.5 * LANE, -9.5), (-1.5 * LANE, -8.5)):
        for y in np.arange(12, 190, 21) + rng.uniform(-5, 5, 9):
            if lane == -0.5 * LANE or abs(y - oncoming_twin) > 10:
                cars.append(Drive(_any_car(rng), float(y), speed, lane))
    return cars


def _any_car(rng: Rng) -> Solid:
    return things.car(PAINTS[rng.integers(len(PAINTS))])


def _crossing(rng: Rng) -> list[Thing]:
    """Cars on the bridge, the farther ones first."""
    lanes = np.linspace(*BRIDGE, 9)[[6, 2]]
    cars: list[Thing] = []
    for y, speed in zip(lanes, (-9.0, 10.0), strict=True):
        for x in np.arange(-90, 90, 17) + rng.uniform(-4, 4, 11):
            cars.append(Cross(_any_car(rng), float(x), speed, float(y)))
    return cars


def _sides(rng: Rng) -> list[Standing]:
    """Trees along the paths, and houses behind them."""
    found: list[Standing] = []
    for side in (-1, 1):
        for y in np.arange(-40, 175, 9.5):
            y = y + rng.uniform(-2.5, 2.5)
            if BRIDGE[0] - 5 < y < BRIDGE[1] + 7 or rng.random() < 0.15:
                continue
            x = road_at(y) + side * (PATH + rng.uniform(-0.4, 1.6))
            at = Pose(np.array([x, y, 0.0]))
            found += [Standing(part, at) for part in things.tree(rng)]
        for y in np.arange(-36, 170, 17):
            if BRIDGE[0] - 10 < y < BRIDGE[1] + 10:
                continue
            width, depth, height = rng.uniform((9, 8, 4.5), (13, 12, 9))
            x = road_at(y) + side * (PATH + 6 + width / 2 + rng.uniform(0, 4))
            solid = things.house(rng, width, depth, height)
            found.append(Standing(solid, Pose(np.array([x, y, 0.0]), road_turn(float(y)))))
    return found
