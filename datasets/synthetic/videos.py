"""Synthetic tracking videos with true boxes: a textured figure moves over a moving background.

A video is a pure function of its seed, size and settings: on one machine the same call gives the
same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rbsf.datasets.synthetic.scene import Scene, SceneConfig
from rbsf.datasets.video.writer import VideoWriter
from rbsf.system.files import write_atomically

FPS = 25.0


def make_sequence(
    seed: int,
    frames: int = 100,
    size: tuple[int, int] = (320, 240),
    config: SceneConfig | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `frames` frames, each with the target's box.

    A frame is `[H, W, 3]` uint8 RGB; `size` is (width, height). A box is `x, y, w, h` float64,
    counted from 0. It bounds the whole target, including hidden parts, and is clipped to the frame.
    Raises ValueError for a size below 32 x 32 or no frames.
    """
    scene = Scene(seed, frames, size, config or SceneConfig())
    return (scene.render(frame) for frame in range(frames))


def video_name(seed: int) -> str:
    """Name under which the video of a seed is written."""
    return f"synthetic_{seed:06d}"


def check_own_folder(folder: Path, own: Collection[str]) -> None:
    """Raise ValueError if a folder holds anything but the names `own` and hidden files.

    Other data in it would be lost to a `list.txt`, or taken for synthetic videos.
    """
    inside = folder.iterdir() if folder.is_dir() else ()
    others = sorted(path.name for path in inside if path.name not in own and path.name[0] != ".")
    if others:
        found = f"it holds {len(others)} other files or folders, such as {others[0]}"
        raise ValueError(f"{folder} is not for these videos alone: {found}; give another folder")


def write_got10k(
    root: str | Path,
    count: int,
    seed: int = 0,
    frames: int = 100,
    size: tuple[int, int] = (320, 240),
) -> None:
    """Write `count` videos as a GOT-10k split.

    Each has JPEG frames and `groundtruth.txt`; `list.txt` is written last. Video `i` is
    `make_sequence(seed + i, ...)`. Raises ValueError if `root` holds anything else, and OSError if
    it cannot be written.
    """
    root = Path(root)
    names = [video_name(seed + i) for i in range(count)]
    check_own_folder(root, {"list.txt", *names})
    (root / "list.txt").unlink(missing_ok=True)  # from an earlier split, which is overwritten
    for i, name in enumerate(tqdm(names, unit="video", desc=f"writing {root}")):
        _empty_of_frames(root / name)
        _write_frames(root / name, make_sequence(seed + i, frames, size))
    write_atomically(root / "list.txt", "".join(f"{name}\n" for name in names).encode())


def _empty_of_frames(folder: Path) -> None:
    """Make the folder, or remove the frames of an earlier video from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()


def _write_frames(folder: Path, video: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a video as JPEG frames and a file of their boxes."""
    boxes = []
    for number, (image, box) in enumerate(video, 1):
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        (folder / f"{number:08d}.jpg").write_bytes(jpeg.tobytes())
        boxes.append(box)
    _write_boxes(folder / "groundtruth.txt", boxes)


def write_video(
    path: str | Path, seed: int = 0, frames: int = 200, size: tuple[int, int] = (320, 240)
) -> None:
    """Write `make_sequence(seed, ...)` as a video of FPS frames a second.

    The boxes are written beside it as `.txt`, with a line `x,y,w,h` for each frame.
    """
    path, boxes = Path(path), []
    with VideoWriter(path, FPS) as video:
        sequence = make_sequence(seed, frames, size)
        for image, box in tqdm(sequence, total=frames, unit="frame", desc=str(path)):
            video.write(image)
            boxes.append(box)
    _write_boxes(path.with_suffix(".txt"), boxes)


def _write_boxes(path: Path, boxes: list[np.ndarray]) -> None:
    lines = "".join(",".join(f"{v:.4f}" for v in box) + "\n" for box in boxes)
    write_atomically(path, lines.encode())
