"""Made-up videos to try the trackers on, whose true boxes are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from rbsf.datasets.synthetic.scene import Scene, SceneConfig
from rbsf.datasets.video.sources import Frames

SIZE = (480, 360)  # pixels, (width, height)
FRAMES = 200
FPS = 25.0


@dataclass(frozen=True)
class Clip:
    """A scene by its seed, and what a viewer sees in it."""

    title: str
    seed: int
    config: SceneConfig = field(default_factory=SceneConfig)

    def open(self) -> tuple[Frames, Scene]:
        """Its frames, and the scene that knows the true boxes."""
        scene = _scene(self.seed, FRAMES, SIZE, self.config)

        def start() -> Iterator[tuple[np.ndarray, float | None]]:
            return ((scene.render(number)[0], number / FPS) for number in range(FRAMES))

        return Frames(self.title, FPS, FRAMES, start), scene


@cache  # it takes about a second to make, and all viewers may share it
def _scene(seed: int, frames: int, size: tuple[int, int], config: SceneConfig) -> Scene:
    return Scene(seed, frames, size, config)


CLIPS = (
    Clip("Blue figure", 5),
    Clip("Red figure, dark ground", 3),
    Clip("Small figure among others", 6),
    Clip("Often hidden, and lost", 4, SceneConfig(occlusions=5, cover=1.0)),
)
