"""What a tracking run leaves behind: drawn frames, boxes, and words on lost targets and on speed."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.frames import VideoWriter
from rbsf.files import write_atomically
from tracker.siamfc import Backbone, Result

COLORS = [(64, 220, 64), (255, 160, 0), (64, 160, 255), (255, 64, 200), (240, 230, 60)]  # RGB, by target
LOST_COLOR = (255, 40, 40)
WINDOW = "track (q ends)"


@dataclass
class Timing:
    """Seconds a run spends on decoding, in the network and on everything else."""

    start: float = field(default_factory=time.perf_counter)
    decode: float = 0.0
    network: float = 0.0

    def decoding(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass frames on, and count the time that they take to come."""
        source = iter(frames)
        while True:
            start = time.perf_counter()
            image = next(source, None)
            self.decode += time.perf_counter() - start
            if image is None:
                return
            yield image

    def of_network(self, backbone: Backbone) -> Backbone:
        """Wrap a backbone to count the time spent in it."""

        def timed(crops: np.ndarray) -> np.ndarray:
            start = time.perf_counter()
            features = backbone(crops)
            self.network += time.perf_counter() - start
            return features

        return timed

    def summary(self, count: int) -> str:
        """One line on speed, for ``count`` frames since ``start``."""
        total = time.perf_counter() - self.start
        shares = {
            "decode": self.decode,
            "network": self.network,
            "rest": total - self.decode - self.network,
        }
        split = ", ".join(f"{name} {1000 * s / count:.1f} ms ({s / total:.0%})" for name, s in shares.items())
        return f"{count} frames in {total:.1f} s: {count / total:.1f} fps; per frame {split}"


@dataclass
class Recorder:
    """Takes each frame's results: keeps the boxes, tells losses, draws, writes and shows."""

    fps: float | None  # None: a camera, timed by the clock
    writer: VideoWriter | None
    show: bool
    start: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, float | int]] = field(default_factory=list)
    frames: int = 0
    lost: set[int] = field(default_factory=set)

    def add(self, image: np.ndarray, results: list[Result]) -> bool:
        """Record a frame (H x W x 3 uint8 RGB) and a result per target; False once the window is closed."""
        seconds = self.frames / self.fps if self.fps else time.perf_counter() - self.start
        for target, result in enumerate(results, 1):
            x, y, w, h = (round(float(v), 3) for v in result.box)
            row = {
                "frame": self.frames,
                "time": round(seconds, 3),
                "target": target,
                "x": x,
                "y": y,
                "w": w,
                "h": h,
            }
            self.rows.append(row | {"score": round(result.score, 4)})
            self._tell_loss(target, result, several=len(results) > 1)
        self.frames += 1
        if self.writer or self.show:
            drawn = draw(image, results)
            if self.writer:
                self.writer.write(drawn)
            return not self.show or show(drawn)
        return True

    def _tell_loss(self, target: int, result: Result, several: bool) -> None:
        if result.lost == (target in self.lost):
            return
        self.lost ^= {target}
        change = "probably lost" if result.lost else "found again"
        who = f"target {target}" if several else "target"
        tqdm.write(f"frame {self.frames}: {who} {change} (score {result.score:.2f})")


def draw(image: np.ndarray, results: list[Result]) -> np.ndarray:
    """Draw boxes and scores into a copy of an H x W x 3 uint8 RGB image; lost targets in red."""
    image = image.copy()
    line = max(2, round(min(image.shape[:2]) / 240))
    for target, result in enumerate(results, 1):
        color = LOST_COLOR if result.lost else COLORS[(target - 1) % len(COLORS)]
        x, y, w, h = (round(float(v)) for v in result.box)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, line)
        text = f"{target}: " if len(results) > 1 else ""
        text += f"{result.score:.2f}" + (" lost?" if result.lost else "")
        font, size = cv2.FONT_HERSHEY_SIMPLEX, line / 4
        (width, height), _ = cv2.getTextSize(text, font, size, 1)
        x, y = max(x, 0), max(y, height + 2 * line)  # above the box, where there is room
        cv2.rectangle(image, (x, y - height - 2 * line), (x + width, y), color, cv2.FILLED)
        cv2.putText(image, text, (x, y - line), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def show(image: np.ndarray) -> bool:
    """Show an RGB image in the window; False once the user presses q or Escape or closes it."""
    cv2.imshow(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    key = cv2.waitKey(1) & 0xFF
    return key not in (ord("q"), 27) and cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1


def format_boxes(rows: list[dict[str, float | int]], suffix: str) -> str:
    """Lay rows out as CSV or JSON, with a ``target`` column only where there are several targets."""
    if all(row["target"] == 1 for row in rows):
        rows = [{key: value for key, value in row.items() if key != "target"} for row in rows]
    if suffix == ".json":
        return json.dumps(rows, indent=1) + "\n"
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def save_boxes(rows: list[dict[str, float | int]], path: Path) -> None:
    """Write the boxes to ``path``; where that fails (a full disk) print them and raise OSError."""
    text = format_boxes(rows, path.suffix.lower())
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        print(text, end="")
        raise OSError(f"{error}; the boxes were printed instead") from error
    print(f"boxes: {path}")
