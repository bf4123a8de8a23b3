"""Synthetic tracking videos with true boxes: a textured figure moves over a textured, moving
background.

A video is a pure function of its seed, size and settings: the same call gives the same bytes on one
machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rbsf.datasets.synthetic.scene import Scene, SceneConfig
from rbsf.datasets.video.frames import VideoWriter
from rbsf.system.files import write_atomically


def make_sequence(
    seed: int,
    frames: int = 100,
    size: tuple[int, int] = (320, 240),
    config: SceneConfig | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `frames` pairs of a frame (H x W x 3 uint8 RGB) and the target's box (`x, y, w, h`
    float64, 0-based).

    `size` is (width, height). The box bounds the whole target, hidden parts too, clipped to the
    frame. Raises ValueError for a size below 32 x 32 or no frames.
    """
    scene = Scene(seed, frames, size, config or SceneConfig())
    return (scene.render(frame) for frame in range(frames))


def video_name(seed: int) -> str:
    """Name under which the video of a seed is written."""
    return f"synthetic_{seed:06d}"


def write_got10k(
    root: str | Path,
    count: int,
    seed: int = 0,
    frames: int = 100,
    size: tuple[int, int] = (320, 240),
    config: SceneConfig | None = None,
) -> None:
    """Write `count` videos as a GOT-10k split: JPEG frames, `groundtruth.txt` and, when all is
    done, `list.txt`.

    Video `i` is `make_sequence(seed + i, ...)`. Raises OSError where `root` cannot be
    written.
    """
    root = Path(root)
    names = [video_name(seed + i) for i in range(count)]
    (root / "list.txt").unlink(missing_ok=True)  # of an earlier, now overwritten, split
    for i, name in enumerate(tqdm(names, unit="video", desc=f"writing {root}")):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.jpg"):
            old.unlink()
        boxes = []
        for number, (image, box) in enumerate(make_sequence(seed + i, frames, size, config), 1):
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
            (folder / f"{number:08d}.jpg").write_bytes(jpeg)
            boxes.append(box)
        _write_boxes(folder / "groundtruth.txt", boxes)
    write_atomically(root / "list.txt", "".join(f"{name}\n" for name in names).encode())


def write_video(
    path: str | Path,
    seed: int = 0,
    frames: int = 200,
    size: tuple[int, int] = (320, 240),
    config: SceneConfig | None = None,
    fps: float = 25.0,
) -> None:
    """Write `make_sequence(seed, ...)` as a video; beside it its boxes as `.txt`, an
    `x,y,w,h` line a frame.
    """
    path, boxes = Path(path), []
    with VideoWriter(path, fps) as video:
        for image, box in tqdm(
            make_sequence(seed, frames, size, config), total=frames, unit="frame", desc=str(path)
        ):
            video.write(image)
            boxes.append(box)
    _write_boxes(path.with_suffix(".txt"), boxes)


def _write_boxes(path: Path, boxes: list[np.ndarray]) -> None:
    lines = "".join(",".join(f"{v:.4f}" for v in box) + "\n" for box in boxes)
    write_atomically(path, lines.encode())
