"""The main job on an embedded default: make a video with true boxes, track it with the shipped 1-bit weights, score it.

Leaves in --out: video.mp4 and its true boxes video.txt, tracked.mp4, boxes.csv, and demo.png with frames and overlap.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import positive_int, require, run
from rbsf.tracker.flags import add_network_flags, add_weights_flag

if TYPE_CHECKING:
    import numpy as np

SHOWN = 6  # frames in the picture
TRUE_COLOR = (255, 255, 255)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: %(default)s)")
    add_weights_flag(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=5,
        help="of the video (default: %(default)s; seeds 0 to 7 were tried with the float tracker, and 5 is among the"
        " easy ones)",
    )
    parser.add_argument("--frames", type=positive_int, default=200, help="of the video (default: %(default)s)")
    add_network_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make, track, score."""
    args = parse_args(argv)
    require("eval")
    import numpy as np

    from rbsf.datasets.synthetic.videos import write_video
    from rbsf.eval.metrics import overlaps
    from rbsf.tools import track

    start = time.perf_counter()
    video = args.out / "video.mp4"
    args.out.mkdir(parents=True, exist_ok=True)
    write_video(video, args.seed, args.frames)
    truth = np.loadtxt(video.with_suffix(".txt"), delimiter=",", ndmin=2)
    files = {"--out": args.out / "tracked.mp4", "--boxes": args.out / "boxes.csv", "--weights": args.weights}
    network = {"--engine": args.engine, "--precision": args.precision, "--device": args.device}
    if args.threads:
        network["--threads"] = args.threads
    flags = [str(text) for pair in (files | network).items() for text in pair]
    if code := track.main(["--video", str(video), "--init", ",".join(str(v) for v in truth[0]), *flags]):
        return code  # stopped: there are not boxes for all frames
    boxes, scores = read_boxes(args.out / "boxes.csv")
    overlap = overlaps(boxes, truth)
    save_picture(args.out / "demo.png", args.out / "tracked.mp4", truth, overlap, scores)
    print(f"picture: {args.out / 'demo.png'}")
    print(f"mean overlap with the true boxes: {overlap[1:].mean():.3f}; {time.perf_counter() - start:.0f} s in all")
    return 0


def read_boxes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x,y,w,h and scores (N,) from a CSV of tools/track.py."""
    import numpy as np

    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(r[k]) for k in "xywh"] for r in rows]), np.array([float(r["score"]) for r in rows])


def save_picture(path: Path, tracked: Path, truth: np.ndarray, overlap: np.ndarray, scores: np.ndarray) -> None:
    """Write a PNG: frames of the tracked video with the true boxes (white), above each frame's overlap and score."""
    import cv2
    import numpy as np
    from matplotlib.figure import Figure

    from rbsf.datasets.video.frames import open_frames
    from rbsf.system.files import write_atomically

    shown = np.linspace(0, len(truth) - 1, min(SHOWN, len(truth))).round().astype(int)
    figure = Figure(figsize=(14, 5), layout="constrained")
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 0.8))
    places = iter(range(len(shown)))
    for number, image in enumerate(open_frames(str(tracked))):
        if number in shown:
            x, y, w, h = (round(v) for v in truth[number])
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), TRUE_COLOR, 1)
            axes = figure.add_subplot(grid[0, next(places)])
            axes.imshow(image)
            axes.set_title(f"frame {number}", fontsize=9)
            axes.axis("off")
    axes = figure.add_subplot(grid[1, :])
    axes.plot(overlap, label=f"overlap with the true box, mean {overlap[1:].mean():.2f}")
    axes.plot(scores, label="score", alpha=0.6)
    axes.set(xlabel="frame", ylim=(0, 1.05), xlim=(0, len(truth) - 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=80))


if __name__ == "__main__":
    run(main)
