"""Made-up videos to try the trackers on, whose true boxes are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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
        scene = Scene(self.seed, FRAMES, SIZE, self.config)

        def start() -> Iterator[tuple[np.ndarray, float | None]]:
            return ((scene.render(number)[0], number / FPS) for number in range(FRAMES))

        return Frames(self.title, FPS, FRAMES, start), scene


CLIPS = (
    Clip("Blue figure", 5),
    Clip("Red figure, dark ground", 3),
    Clip("Small figure among others", 6),
    Clip("Hidden now and then", 2, SceneConfig(occlusions=3, cover=1.0)),
)
