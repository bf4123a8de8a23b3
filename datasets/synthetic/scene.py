"""One synthetic scene: its contents, their motion, and the painting of frames."""

from __future__ import annotations

from dataclasses import dataclass
from math import tau

import cv2
import numpy as np

from rbsf.datasets.synthetic.textures import (
    Rng,
    Sprite,
    make_sprite,
    palette,
    star,
    texture,
    value_noise,
)
from rbsf.tracker.geometry import FROM_NEW_PIXELS

GRAIN = 64  # pixels by which the sheet of noise is larger than the frame
TINT = np.array([[0.8, 0.8, 0.8], [0.2, 0.0, -0.2]])  # RGB: brightness; change from warm to cold
MARGIN = 8  # pixels around a figure that are painted with it
OWN_RANGES = ("target", "scale", "distractors")  # settings whose range is not "0 or more"


@dataclass(frozen=True)
class SceneConfig:
    """How hard a video is. A value of 0 switches an effect off.

    `target`: the longer side of the target, as a share of the frame's shorter side: from, to.
    `speed`: fastest motion of the target, as a share of its size, per frame. `camera`: fastest
    motion of the background, as a share of the frame's longer side, per frame. `shake`: pixels by
    which the whole picture trembles. `scale`: the target grows and shrinks by up to this factor
    after the first frame (1: never). `rotation`: degrees to either side. `deform`: change of width
    against height, as when an object turns. `distractors`: number of other figures, fewest and
    most. `occlusions`: objects that pass in front of the target, per 100 frames. `cover`: share of
    the target's width that such an object hides. `light`: change of brightness over time, and depth
    of shadows. `blur`: exposure in frames; things smear along their motion of that time. `noise`:
    standard deviation in gray levels. Raises ValueError for a value out of range.
    """

    target: tuple[float, float] = (0.2, 0.3)
    speed: float = 0.05
    camera: float = 0.008
    shake: float = 0.6
    scale: float = 1.7
    rotation: float = 20.0
    deform: float = 0.08
    distractors: tuple[int, int] = (1, 3)
    occlusions: float = 1.0
    cover: float = 0.4
    light: float = 0.25
    blur: float = 0.8
    noise: float = 4.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in OWN_RANGES and not 0 <= value < np.inf:
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        self._check_own_ranges()

    def _check_own_ranges(self) -> None:
        if not 1 <= self.scale <= 4:
            raise ValueError(f"scale is {self.scale}; it must lie between 1 (never changes) and 4")
        if not 0.02 <= self.target[0] <= self.target[1] <= 0.6:
            advice = "give two shares of the frame between 0.02 and 0.6, small one first"
            raise ValueError(f"target is {self.target}; {advice}")
        if not 0 <= self.distractors[0] <= self.distractors[1]:
            raise ValueError(f"distractors is {self.distractors}; give two counts, small one first")
        if self.light >= 1 or self.deform >= 1 or self.cover > 1:
            raise ValueError("light and deform must be below 1, cover at most 1")


def wave(rng: Rng, frames: int, period: float) -> np.ndarray:
    """A smooth, never repeating curve from -1 to 1, `[frames]` float64.

    It changes by at most `2 pi / period` per frame.
    """
    angle = tau * np.arange(frames)
    periods = period * np.array([1.0, 0.55]) * rng.uniform(1, 1.2, 2)
    periods = periods * 1.45  # because the slopes of two waves add up
    phases = rng.uniform(0, tau, 2)
    slow = np.sin(angle / periods[0] + phases[0])
    fast = np.sin(angle / periods[1] + phases[1])
    return 0.65 * slow + 0.35 * fast


def _path(rng: Rng, frames: int, reach: np.ndarray, speed: float) -> np.ndarray:
    """A path, `[frames, 2]` (x, y), that goes up to `reach` to either side.

    The speed is at most `speed` pixels per frame on each axis.
    """
    if speed == 0:
        place = rng.uniform(-0.5, 0.5, (1, 2)) * reach
        return np.repeat(place, frames, axis=0)
    axes = []
    for longest in reach:
        period = tau * max(longest, 1e-6) / speed
        axes.append(longest * wave(rng, frames, period))
    return np.stack(axes, axis=1)


@dataclass(frozen=True, eq=False)
class Actor:
    """A sprite, and where it is in each of N frames."""

    sprite: Sprite
    centers: np.ndarray  # [N, 2], x and y in pixels of the frame
    shapes: np.ndarray  # [N, 2, 2], matrices that scale and turn

    def draw(self, canvas: np.ndarray, frame: int, blur: float) -> None:
        """Paint onto `canvas`, `[H, W, 3]` uint8 RGB, in place.

        The sprite is smeared by `blur` frames of its motion.
        """
        left, top, right, bottom = self._bounds(frame)
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, canvas.shape[1]), min(bottom, canvas.shape[0])
        if right <= left or bottom <= top:
            return
        middle = (np.array(self.sprite.pixels.shape[1::-1]) - 1) / 2
        shift = self.centers[frame] - (left, top) - self.shapes[frame] @ middle
        affine = np.hstack([self.shapes[frame], shift[:, None]])
        size = (right - left, bottom - top)
        layer = cv2.warpAffine(self.sprite.pixels, affine, size, flags=cv2.INTER_LINEAR)
        layer = smear(layer, blur * _motion(self.centers, frame))
        patch = canvas[top:bottom, left:right]
        transparency = cv2.merge([255 - layer[..., 3]] * 3)
        behind = cv2.multiply(patch, transparency, scale=1 / 255)
        cv2.add(layer[..., :3], behind, dst=patch)

    def _bounds(self, frame: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the figure, with MARGIN pixels on each side."""
        x, y, w, h = self.box(frame)
        return int(x) - MARGIN, int(y) - MARGIN, int(x + w) + MARGIN, int(y + h) + MARGIN

    def box(self, frame: int) -> np.ndarray:
        """Bounds of the whole figure as `x, y, w, h` float64, not clipped to the frame."""
        outline = self.sprite.hull @ self.shapes[frame].T + self.centers[frame]
        low, high = outline.min(axis=0), outline.max(axis=0)
        corner = low + 0.5  # a pixel reaches half a pixel around its coordinate
        return np.concatenate([corner, high - low])


def _motion(centers: np.ndarray, frame: int) -> np.ndarray:
    """How far centres, `[N, 2]`, have moved since the frame before; 0 in the first frame."""
    return centers[frame] - centers[max(frame - 1, 0)]


def smear(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Blur an image along `motion` (x, y in pixels), as an exposure blurs moving things."""
    length = float(np.hypot(*motion))
    if length < 1.0:
        return image
    side = 2 * min(int(np.ceil(length / 2)), 10) + 1
    kernel = np.zeros((side, side), dtype=np.float32)
    middle = side // 2
    half = np.clip(motion / 2, -middle, middle)
    start, end = _in_sixteenths(middle - half), _in_sixteenths(middle + half)
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _in_sixteenths(point: np.ndarray) -> tuple[int, int]:
    """A point in sixteenths of a pixel, as `cv2.line` with a shift of 4 takes it."""
    x, y = point.tolist()
    return round(x * 16), round(y * 16)


class Scene:
    """The contents of one video, drawn once from its seed; `render` paints any frame of it.

    `size` is (width, height). Raises ValueError for a size below 32 x 32, no frames, or a seed
    below 0.
    """

    def __init__(self, seed: int, frames: int, size: tuple[int, int], config: SceneConfig) -> None:
        if seed < 0 or frames < 1 or min(size) < 32:
            what = f"video {seed} of {frames} frames of {size[0]}x{size[1]}"
            advice = "give a seed from 0, 1 frame or more, 32x32 up"
            raise ValueError(f"{what} cannot be made; {advice}")
        self.seed, self.frames, self.size, self.config = seed, frames, size, config
        self.rng = np.random.default_rng(seed)
        self._make_background()
        self._make_target()
        self.behind = self._make_scenery() + self._make_distractors()
        self.before = self._make_occluders()
        self.shake = config.shake * self.rng.normal(0, 1, (frames, 2))
        light = np.stack([wave(self.rng, frames, 60) for _ in TINT], axis=1)  # [N, 2]
        self.gain = 1 + config.light * light @ TINT  # [N, 3]
        sheet = (size[1] + GRAIN, size[0] + GRAIN, 3)
        grain = np.random.default_rng(seed + 1).normal(0, config.noise, sheet)
        self.grain = grain.round().astype(np.int16)

    def _make_background(self) -> None:
        """Make a canvas larger than the frame, its shadows, and the camera's way over it."""
        rng, longest = self.rng, max(self.size)
        margin = int(0.35 * longest)
        shape = (self.size[1] + 2 * margin, self.size[0] + 2 * margin)
        cell = longest * rng.uniform(0.04, 0.3)
        canvas = texture(rng, shape, cell, palette(rng, 4, contrast=45, vivid=20))
        for _ in range(rng.integers(6, 16)):  # pieces of other textures: fields, walls, windows
            cell = longest * rng.uniform(0.02, 0.1)
            piece = texture(rng, shape, cell, palette(rng, contrast=40, vivid=20))
            where = np.zeros(shape, dtype=np.uint8)
            cv2.fillPoly(where, [self._field(rng, shape)], 1)
            canvas[where > 0] = piece[where > 0]
        self.canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.6, 1.4))
        depth = np.clip(self.config.light * rng.uniform(0, 2), 0, 0.7)
        in_shadow = value_noise(rng, shape, longest / 3, 1) > 0.55
        shade = (255 * (1 - depth * in_shadow)).astype(np.uint8)
        self.shade = cv2.GaussianBlur(shade, (0, 0), longest / 60)
        speed = self.config.camera * longest
        self.camera = _path(rng, self.frames, np.array([margin, margin]) * 0.8, speed)
        moving = float(self.config.camera > 0)
        self.camera_turn = np.radians(4) * moving * wave(rng, self.frames, 150)
        self.camera_zoom = 1 + 0.05 * moving * wave(rng, self.frames, 150)

    def _field(self, rng: Rng, shape: tuple[int, int]) -> np.ndarray:
        """Outline of one piece of ground, as points for OpenCV.

        It is an irregular patch, or a rectangle, upright or not.
        """
        center = rng.uniform(0, 1, 2) * shape[::-1]
        sides = rng.uniform(0.1, 0.5, 2) * max(self.size)
        if rng.random() < 0.4:
            return star(rng, center, sides / 2, 0.4)
        turn = rng.uniform(0, 90) if rng.random() < 0.5 else 0.0
        return cv2.boxPoints((center.tolist(), sides.tolist(), turn)).astype(np.int32)

    def _shapes(self, scale: float, turn: float, deform: float) -> np.ndarray:
        """How an actor grows, turns and deforms: matrices, `[N, 2, 2]`."""
        growth = wave(self.rng, self.frames, 100)
        size = np.exp(np.log(scale) * (growth - growth[0]) / 2)  # compared with the first frame
        angle = np.radians(turn) * wave(self.rng, self.frames, 50)
        squeeze = deform * wave(self.rng, self.frames, 60)
        cos, sin = np.cos(angle), np.sin(angle)
        turns = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
        sizes = np.stack([size * (1 + squeeze), size * (1 - squeeze)], axis=1)  # [N, 2]
        return turns * sizes[:, None, :]

    def _figure(self, longest: float, colors: np.ndarray) -> Sprite:
        """A figure whose longer side has `longest` pixels."""
        shorter = longest * self.rng.uniform(0.45, 1.0)
        height, width = max(int(longest), 6), max(int(shorter), 6)
        if self.rng.random() >= 0.6:
            height, width = width, height
        return make_sprite(self.rng, (height, width), colors)

    def _make_target(self) -> None:
        """Make the figure to track, in colours that stand out from the background."""
        config = self.config
        longest = self.rng.uniform(*config.target) * min(self.size)
        trials = [palette(self.rng) for _ in range(6)]
        background = self.canvas.mean(axis=(0, 1))  # mean colour
        contrast = [np.abs(trial.mean(axis=0) - background).sum() for trial in trials]
        self.skin = trials[int(np.argmax(contrast))]
        sprite = self._figure(longest, self.skin)
        # The target's middle keeps enough distance from the frame's edge that at least half of it
        # is inside, at any scale.
        reach = np.maximum(np.array(self.size) / 2 - 0.4 * longest * config.scale, 0)
        self.target_side = longest
        path = _path(self.rng, self.frames, reach, config.speed * longest)
        centers = (np.array(self.size) - 1) / 2 + path
        shapes = self._shapes(config.scale, config.rotation, config.deform)
        self.target = Actor(sprite, centers, shapes)

    def _unchanged(self) -> np.ndarray:
        """Matrices of an actor that neither grows nor turns, `[N, 2, 2]`."""
        return np.repeat(np.eye(2)[None], self.frames, axis=0)

    def _make_scenery(self) -> list[Actor]:
        """Make still things nearer than the background.

        They move 1.5 times as fast with the camera as the background (parallax).
        """
        actors = []
        for _ in range(self.rng.integers(3, 8)):
            longest = self.rng.uniform(0.1, 0.35) * min(self.size)
            sprite = self._figure(longest, palette(self.rng, contrast=40, vivid=25))
            place = self.rng.uniform(-0.3, 1.3, 2) * self.size
            actors.append(Actor(sprite, place - 1.5 * self.camera, self._unchanged()))
        return actors

    def _make_distractors(self) -> list[Actor]:
        """Make figures like the target, one in three in its colours, that move behind it."""
        config, actors = self.config, []
        fewest, most = config.distractors
        speed = config.speed * self.target_side
        for _ in range(self.rng.integers(fewest, most + 1)):
            colors = self.skin if self.rng.random() < 0.33 else palette(self.rng)
            sprite = self._figure(self.target_side * self.rng.uniform(0.7, 1.2), colors)
            path = _path(self.rng, self.frames, 0.55 * np.array(self.size), speed)
            shapes = self._shapes(min(config.scale, 1.3), config.rotation, config.deform)
            actors.append(Actor(sprite, np.array(self.size) / 2 + path, shapes))
        return actors

    def _make_occluders(self) -> list[Actor]:
        """Make upright things that cross the frame in a straight line and meet the target."""
        rng, config = self.rng, self.config
        actors: list[Actor] = []
        if config.occlusions == 0 or config.cover == 0:
            return actors
        interval = 100 / config.occlusions
        for start in np.arange(0, self.frames, interval):
            meet = int(start + rng.uniform(0.3, 0.9) * interval)
            if meet >= self.frames:
                break
            x, y, w, h = self.target.box(meet)
            height = max(int(h * rng.uniform(1.2, 1.8)), 6)
            width = max(int(w * config.cover), 6)
            velocity = rng.choice([-1, 1]) * self.size[0] * rng.uniform(0.012, 0.02)
            meeting_place = np.array([x + w / 2, y + h * rng.uniform(0.3, 0.7)])
            steps = np.arange(self.frames)[:, None] - meet
            centers = meeting_place + steps * [velocity, 0]
            sprite = make_sprite(rng, (height, width), palette(rng))
            actors.append(Actor(sprite, centers, self._unchanged()))
        return actors

    def render(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Paint one frame.

        Returns it as `[H, W, 3]` uint8 RGB, and the box of the whole target, `x, y, w, h`, clipped
        to the frame.
        """
        affine = self._view(frame)
        image = self._look(self.canvas, affine)
        image = smear(image, self.config.blur * _motion(self.camera, frame))
        for actor in [*self.behind, self.target, *self.before]:
            actor.draw(image, frame, self.config.blur)
        if self.config.light:
            shade = self._look(self.shade, affine)[..., None].repeat(3, axis=2)
            image = cv2.multiply(image, shade, scale=1 / 255)
            levels = np.clip(np.arange(256)[:, None] * self.gain[frame], 0, 255)  # [256, 3]
            image = cv2.LUT(image, levels.round().astype(np.uint8)[None])
        if self.config.shake:
            trembling = np.hstack([np.eye(2), self.shake[frame][:, None]])
            image = cv2.warpAffine(image, trembling, self.size, borderMode=cv2.BORDER_REPLICATE)
        return self._expose(image, frame), self.box(frame)

    def _view(self, frame: int) -> np.ndarray:
        """Affine map, `[2, 3]`, from pixels of the frame to those of the canvas."""
        turn, zoom = self.camera_turn[frame], self.camera_zoom[frame]
        cos, sin = np.cos(turn) * zoom, np.sin(turn) * zoom
        matrix = np.array([[cos, -sin], [sin, cos]])
        middle = np.array(self.canvas.shape[1::-1]) / 2 + self.camera[frame]
        start = middle - matrix @ (np.array(self.size) / 2)
        return np.hstack([matrix, start[:, None]])

    def _look(self, canvas: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """What the camera sees of a canvas."""
        return cv2.warpAffine(
            canvas, affine, self.size, flags=FROM_NEW_PIXELS, borderMode=cv2.BORDER_REFLECT_101
        )

    def _expose(self, image: np.ndarray, frame: int) -> np.ndarray:
        """Add the sensor's noise: each frame takes another part of one large sheet of noise."""
        if not self.config.noise:
            return image
        x, y = np.random.default_rng((self.seed, frame)).integers(0, GRAIN, 2)
        window = np.ascontiguousarray(self.grain[y : y + self.size[1], x : x + self.size[0]])
        return cv2.add(image, window, dtype=cv2.CV_8U)

    def box(self, frame: int) -> np.ndarray:
        """The box of the whole target, `x, y, w, h` float64, clipped to the frame."""
        x, y, w, h = self.target.box(frame)
        x += self.shake[frame][0]
        y += self.shake[frame][1]
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(self.size[0])), min(y + h, float(self.size[1]))
        return np.array([left, top, right - left, bottom - top])
