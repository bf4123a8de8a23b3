"""One synthetic scene: what it shows, how everything in it moves, and how a frame of it is painted."""

from __future__ import annotations

from dataclasses import dataclass

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

GRAIN = 64  # pixels by which the sheet of noise is larger than the frame
TINT = np.array(
    [[0.8, 0.8, 0.8], [0.2, 0.0, -0.2]]
)  # RGB: brightness, and a change from warm to cold


@dataclass(frozen=True)
class SceneConfig:
    """How hard a video is; 0 switches an effect off."""

    target: tuple[float, float] = (
        0.2,
        0.3,
    )  # longer side of the target, share of the frame's shorter side: from, to
    speed: float = 0.05  # fastest motion of the target, share of its size per frame
    camera: float = (
        0.008  # fastest motion of the background, share of the frame's longer side per frame
    )
    shake: float = 0.6  # pixels that the whole picture trembles
    scale: float = (
        1.7  # the target grows and shrinks by up to this factor after the first frame (1: never)
    )
    rotation: float = 20.0  # degrees to either side
    deform: float = 0.08  # change of width against height, as when an object turns
    distractors: tuple[int, int] = (1, 3)  # other figures: fewest, most
    occlusions: float = 1.0  # passes of an object before the target, per 100 frames
    cover: float = 0.4  # share of the target's width that such an object hides
    light: float = 0.25  # change of brightness over time, and depth of shadows
    blur: float = 0.8  # exposure in frames: how far things smear along their motion
    noise: float = 4.0  # standard deviation in gray levels

    def __post_init__(self) -> None:
        for name in (
            "speed",
            "camera",
            "shake",
            "rotation",
            "deform",
            "occlusions",
            "cover",
            "light",
            "blur",
            "noise",
        ):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 1 <= self.scale <= 4:
            raise ValueError(f"scale is {self.scale}; it must lie between 1 (never changes) and 4")
        if not 0.02 <= self.target[0] <= self.target[1] <= 0.6:
            raise ValueError(
                f"target is {self.target}; give two shares of the frame between 0.02 and 0.6, small one first"
            )
        if not 0 <= self.distractors[0] <= self.distractors[1]:
            raise ValueError(f"distractors is {self.distractors}; give two counts, small one first")
        if self.light >= 1 or self.deform >= 1 or self.cover > 1:
            raise ValueError("light and deform must be below 1, cover at most 1")


def wave(rng: Rng, frames: int, period: float) -> np.ndarray:
    """A smooth, never repeating curve within -1..1, (frames,) float64; at most `2 pi / period`
    per frame.
    """
    time = np.arange(frames)
    periods = (
        period * np.array([1.0, 0.55]) * rng.uniform(1, 1.2, 2) * 1.45
    )  # 1.45: two slopes add up
    phases = rng.uniform(0, 2 * np.pi, 2)
    return 0.65 * np.sin(2 * np.pi * time / periods[0] + phases[0]) + 0.35 * np.sin(
        2 * np.pi * time / periods[1] + phases[1]
    )


def _path(rng: Rng, frames: int, reach: np.ndarray, speed: float) -> np.ndarray:
    """A path within `+-reach` (x, y), no faster than `speed` pixels per frame and axis;
    (frames, 2).
    """
    if speed == 0:
        return np.repeat(rng.uniform(-0.5, 0.5, (1, 2)) * reach, frames, axis=0)
    return np.stack(
        [r * wave(rng, frames, 2 * np.pi * max(r, 1e-6) / speed) for r in reach], axis=1
    )


@dataclass(frozen=True, eq=False)
class Actor:
    """A sprite and where it is: `centers` (N, 2) pixels of the frame, `shapes` (N, 2, 2) scale
    and turn.
    """

    sprite: Sprite
    centers: np.ndarray
    shapes: np.ndarray

    def draw(self, canvas: np.ndarray, frame: int, blur: float) -> None:
        """Paint onto `canvas`, H x W x 3 uint8 RGB, in place, smeared by `blur` frames of its
        motion.
        """
        left, top, right, bottom = self._bounds(frame, margin=8)
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, canvas.shape[1]), min(bottom, canvas.shape[0])
        if right <= left or bottom <= top:
            return
        middle = (np.array(self.sprite.pixels.shape[1::-1]) - 1) / 2
        shift = self.centers[frame] - (left, top) - self.shapes[frame] @ middle
        affine = np.hstack([self.shapes[frame], shift[:, None]])
        layer = cv2.warpAffine(
            self.sprite.pixels, affine, (right - left, bottom - top), flags=cv2.INTER_LINEAR
        )
        layer = smear(layer, blur * (self.centers[frame] - self.centers[max(frame - 1, 0)]))
        patch = canvas[top:bottom, left:right]
        behind = cv2.multiply(patch, cv2.merge([255 - layer[..., 3]] * 3), scale=1 / 255)
        cv2.add(layer[..., :3], behind, dst=patch)

    def _bounds(self, frame: int, margin: int) -> tuple[int, int, int, int]:
        x, y, w, h = self.box(frame)
        return int(x) - margin, int(y) - margin, int(x + w) + margin, int(y + h) + margin

    def box(self, frame: int) -> np.ndarray:
        """Bounds of the whole figure as `x, y, w, h` float64, not clipped to the frame."""
        outline = self.sprite.hull @ self.shapes[frame].T + self.centers[frame]
        low, high = outline.min(axis=0), outline.max(axis=0)
        return np.concatenate(
            [low + 0.5, high - low]
        )  # a pixel reaches half a pixel around its coordinate


def smear(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Blur an image along `motion` (x, y pixels), as a moving object is during the exposure."""
    length = float(np.hypot(*motion))
    if length < 1.0:
        return image
    side = 2 * min(int(np.ceil(length / 2)), 10) + 1
    kernel = np.zeros((side, side), dtype=np.float32)
    half, middle = np.clip(motion / 2, -(side // 2), side // 2), side // 2
    scaled = [tuple(round(float(v) * 16) for v in middle + s * half) for s in (-1, 1)]
    cv2.line(kernel, scaled[0], scaled[1], 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


class Scene:
    """Everything one video shows, drawn once from its seed; `render` then paints any frame of it."""

    def __init__(self, seed: int, frames: int, size: tuple[int, int], config: SceneConfig) -> None:
        if seed < 0 or frames < 1 or min(size) < 32:
            what = f"video {seed} of {frames} frames of {size[0]}x{size[1]}"
            raise ValueError(
                f"{what} cannot be made; give a seed from 0, 1 frame or more, 32x32 up"
            )
        self.rng, self.frames, self.size, self.config = (
            np.random.default_rng(seed),
            frames,
            size,
            config,
        )
        self.seed = seed
        self._make_background()
        self._make_target()
        self.behind = self._make_scenery() + self._make_distractors()
        self.before = self._make_occluders()
        self.shake = config.shake * self.rng.normal(0, 1, (frames, 2))
        self.gain = (
            1 + config.light * np.stack([wave(self.rng, frames, 60) for _ in TINT], axis=1) @ TINT
        )
        grain = np.random.default_rng(seed + 1).normal(
            0, config.noise, (size[1] + GRAIN, size[0] + GRAIN, 3)
        )
        self.grain = grain.round().astype(np.int16)

    def _make_background(self) -> None:
        """A canvas larger than the frame, its shadows, and the camera's way over it."""
        rng, longest = self.rng, max(self.size)
        margin = int(0.35 * longest)
        shape = (self.size[1] + 2 * margin, self.size[0] + 2 * margin)
        canvas = texture(
            rng, shape, longest * rng.uniform(0.04, 0.3), palette(rng, 4, contrast=45, vivid=20)
        )
        for _ in range(rng.integers(6, 16)):  # fields, walls, windows: pieces of other textures
            piece = texture(
                rng, shape, longest * rng.uniform(0.02, 0.1), palette(rng, contrast=40, vivid=20)
            )
            where = cv2.fillPoly(np.zeros(shape, dtype=np.uint8), [self._field(rng, shape)], 1)
            canvas[where > 0] = piece[where > 0]
        self.canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.6, 1.4))
        depth = self.config.light * rng.uniform(0, 2)
        shade = 1 - np.clip(depth, 0, 0.7) * (value_noise(rng, shape, longest / 3, 1) > 0.55)
        self.shade = cv2.GaussianBlur((255 * shade).astype(np.uint8), (0, 0), longest / 60)
        speed = self.config.camera * longest
        self.camera = _path(rng, self.frames, np.array([margin, margin]) * 0.8, speed)
        moving = float(self.config.camera > 0)
        self.camera_turn = np.radians(4) * moving * wave(rng, self.frames, 150)
        self.camera_zoom = 1 + 0.05 * moving * wave(rng, self.frames, 150)

    def _field(self, rng: Rng, shape: tuple[int, int]) -> np.ndarray:
        """Outline of one piece of ground: a rectangle, upright or not, or an irregular patch;
        points for OpenCV.
        """
        center, sides = (
            rng.uniform(0, 1, 2) * shape[::-1],
            rng.uniform(0.1, 0.5, 2) * max(self.size),
        )
        if rng.random() < 0.4:
            return star(rng, center, sides / 2, 0.4)
        turn = rng.uniform(0, 90) if rng.random() < 0.5 else 0.0
        return cv2.boxPoints((center.tolist(), sides.tolist(), turn)).astype(np.int32)

    def _shapes(self, scale: float, turn: float, deform: float) -> np.ndarray:
        """How an actor grows, turns and deforms: (N, 2, 2) matrices."""
        growth = wave(self.rng, self.frames, 100)
        size = np.exp(np.log(scale) * (growth - growth[0]) / 2)  # against the first frame
        angle = np.radians(turn) * wave(self.rng, self.frames, 50)
        squeeze = deform * wave(self.rng, self.frames, 60)
        turned = np.stack(
            [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1
        ).reshape(-1, 2, 2)
        return turned * np.stack([size * (1 + squeeze), size * (1 - squeeze)], axis=1)[:, None, :]

    def _figure(self, longest: float, colors: np.ndarray) -> Sprite:
        aspect = self.rng.uniform(0.45, 1.0)
        sides = (
            (longest, longest * aspect) if self.rng.random() < 0.6 else (longest * aspect, longest)
        )
        return make_sprite(self.rng, (max(int(sides[0]), 6), max(int(sides[1]), 6)), colors)

    def _make_target(self) -> None:
        """The figure to track, in colours that stand out from the background."""
        config = self.config
        longest = self.rng.uniform(*config.target) * min(self.size)
        trials = [palette(self.rng) for _ in range(6)]
        contrast = [np.abs(t.mean(axis=0) - self.canvas.mean(axis=(0, 1))).sum() for t in trials]
        self.skin = trials[int(np.argmax(contrast))]
        sprite = self._figure(longest, self.skin)
        # Its middle keeps so far from the frame's edge that at least half of it stays inside, at
        # any scale.
        reach = np.maximum(np.array(self.size) / 2 - 0.4 * longest * config.scale, 0)
        self.target_side = longest
        centers = (np.array(self.size) - 1) / 2 + _path(
            self.rng, self.frames, reach, config.speed * longest
        )
        self.target = Actor(
            sprite, centers, self._shapes(config.scale, config.rotation, config.deform)
        )

    def _make_scenery(self) -> list[Actor]:
        """Still things nearer than the background: they move half as much again with the camera
        (parallax).
        """
        actors = []
        for _ in range(self.rng.integers(3, 8)):
            sprite = self._figure(
                self.rng.uniform(0.1, 0.35) * min(self.size),
                palette(self.rng, contrast=40, vivid=25),
            )
            place = self.rng.uniform(-0.3, 1.3, 2) * self.size
            still = np.repeat(np.eye(2)[None], self.frames, axis=0)
            actors.append(Actor(sprite, place - 1.5 * self.camera, still))
        return actors

    def _make_distractors(self) -> list[Actor]:
        """Figures like the target, one in three in its colours, that go their own ways behind it."""
        config, actors = self.config, []
        for _ in range(self.rng.integers(config.distractors[0], config.distractors[1] + 1)):
            colors = self.skin if self.rng.random() < 0.33 else palette(self.rng)
            sprite = self._figure(self.target_side * self.rng.uniform(0.7, 1.2), colors)
            path = _path(
                self.rng, self.frames, 0.55 * np.array(self.size), config.speed * self.target_side
            )
            shapes = self._shapes(min(config.scale, 1.3), config.rotation, config.deform)
            actors.append(Actor(sprite, np.array(self.size) / 2 + path, shapes))
        return actors

    def _make_occluders(self) -> list[Actor]:
        """Upright things that cross the frame in a straight line and meet the target on their way."""
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
            shape = (max(int(h * rng.uniform(1.2, 1.8)), 6), max(int(w * config.cover), 6))
            velocity = rng.choice([-1, 1]) * self.size[0] * rng.uniform(0.012, 0.02)
            steps = np.arange(self.frames)[:, None] - meet
            centers = np.array([x + w / 2, y + h * rng.uniform(0.3, 0.7)]) + steps * [velocity, 0]
            still = np.repeat(np.eye(2)[None], self.frames, axis=0)
            actors.append(Actor(make_sprite(rng, shape, palette(rng)), centers, still))
        return actors

    def render(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Paint one frame: H x W x 3 uint8 RGB, and the whole target's `x, y, w, h` box clipped
        to the frame.
        """
        affine = self._view(frame)
        image = self._look(self.canvas, affine)
        image = smear(
            image, self.config.blur * (self.camera[frame] - self.camera[max(frame - 1, 0)])
        )
        for actor in [*self.behind, self.target, *self.before]:
            actor.draw(image, frame, self.config.blur)
        if self.config.light:
            image = cv2.multiply(
                image, self._look(self.shade, affine)[..., None].repeat(3, axis=2), scale=1 / 255
            )
            levels = np.clip(np.arange(256)[:, None] * self.gain[frame], 0, 255)
            image = cv2.LUT(image, levels.round().astype(np.uint8)[None])
        trembling = np.hstack([np.eye(2), self.shake[frame][:, None]])
        if self.config.shake:
            image = cv2.warpAffine(image, trembling, self.size, borderMode=cv2.BORDER_REPLICATE)
        return self._expose(image, frame), self._box(frame)

    def _view(self, frame: int) -> np.ndarray:
        """Affine map (2, 3) from pixels of the frame to those of the canvas."""
        turn, zoom = self.camera_turn[frame], self.camera_zoom[frame]
        cos, sin = np.cos(turn) * zoom, np.sin(turn) * zoom
        matrix = np.array([[cos, -sin], [sin, cos]])
        middle = np.array(self.canvas.shape[1::-1]) / 2 + self.camera[frame]
        return np.hstack([matrix, (middle - matrix @ (np.array(self.size) / 2))[:, None]])

    def _look(self, canvas: np.ndarray, affine: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            canvas, affine, self.size, flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )

    def _expose(self, image: np.ndarray, frame: int) -> np.ndarray:
        """Add the sensor's noise: a window, new in each frame, into one large sheet of it."""
        if not self.config.noise:
            return image
        x, y = np.random.default_rng((self.seed, frame)).integers(0, GRAIN, 2)
        window = np.ascontiguousarray(self.grain[y : y + self.size[1], x : x + self.size[0]])
        return cv2.add(image, window, dtype=cv2.CV_8U)

    def _box(self, frame: int) -> np.ndarray:
        x, y, w, h = self.target.box(frame)
        x, y = x + self.shake[frame][0], y + self.shake[frame][1]
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(self.size[0])), min(y + h, float(self.size[1]))
        return np.array([left, top, right - left, bottom - top])
