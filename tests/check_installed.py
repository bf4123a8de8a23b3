"""Check that an installed copy has its kernels and tracks a made-up video with `rbsf track`.

python tests/check_installed.py     # with the Python of the environment that has it

The workflow of the wheels and the slow tests run it. It needs no test package and no clone.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import rbsf
from rbsf.datasets.synthetic.videos import write_video
from rbsf.engine.cpu import MISSING, available_isas, native

FRAMES, SEED = 20, 5
LEAST_OVERLAP = 0.5


def overlap(box: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes, x,y,w,h."""
    corner, size = np.array([box[:2], other[:2]]), np.array([box[2:], other[2:]])
    shared = np.prod(np.clip((corner + size).min(axis=0) - corner.max(axis=0), 0, None))
    return float(shared / (np.prod(size, axis=1).sum() - shared))


def main() -> None:
    """Exit with one line and code 1 where something is wrong."""
    if native is None:
        sys.exit(f"error: {rbsf.__file__} has no kernels: {MISSING}")
    command = [sys.executable, "-m", "rbsf", "track", "--no-out"]
    with tempfile.TemporaryDirectory() as folder:
        video, boxes = Path(folder) / "in.avi", Path(folder) / "boxes.csv"
        write_video(video, SEED, FRAMES)
        truth = np.loadtxt(video.with_suffix(".txt"), delimiter=",")
        first = ",".join(map(str, truth[0]))
        subprocess.run(
            [*command, "--video", str(video), "--init", first, "--boxes", str(boxes)], check=True
        )
        rows = list(csv.DictReader(boxes.open(encoding="utf-8")))
    last = overlap([float(rows[-1][side]) for side in "xywh"], truth[-1].tolist())
    if len(rows) != FRAMES or last < LEAST_OVERLAP:
        sys.exit(f"error: {len(rows)} of {FRAMES} frames, and an overlap of {last:.2f} in the last")
    print(f"{Path(rbsf.__file__).parent} tracks, overlap {last:.2f}, {', '.join(available_isas())}")


if __name__ == "__main__":
    main()
