"""Make a video with true boxes, track it with the shipped 1-bit weights, and score the result.

It writes these files to --out: video.mp4, its true boxes video.txt, tracked.mp4, boxes.csv, and
demo.png with frames and the overlap.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, require, run, seed_number
from rbsf.tracker.flags import add_network_flags, add_weights_flag

if TYPE_CHECKING:
    import numpy as np

    from rbsf.tracker.states import Result

EXAMPLE = "--out demo --frames 100"
SHOWN = 6  # frames in the picture
TRUE_COLOR = (255, 255, 255)  # RGB, for true boxes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    first.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="PATH", help="Write to this folder"
    )
    add_weights_flag(first)
    first.add_argument(
        "--seed",
        type=seed_number,
        default=5,
        metavar="N",
        help="Make the video of this number; 0 to 7 were tried with the float tracker, and 5 is"
        " among the easy ones",
    )
    first.add_argument(
        "--frames", type=positive_int, default=200, metavar="N", help="Make a video of N frames"
    )
    add_network_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make, track, score; returns 0 when done, 128 + signal when stopped."""
    args = parse_args(argv)
    require("eval")
    import numpy as np

    from rbsf.datasets.synthetic.videos import write_video
    from rbsf.eval.metrics import overlaps

    start = time.perf_counter()
    video = args.out / "video.mp4"
    args.out.mkdir(parents=True, exist_ok=True)
    write_video(video, args.seed, args.frames)
    truth = np.loadtxt(video.with_suffix(".txt"), delimiter=",", ndmin=2)
    results, signum = track(args, video, truth[0].tolist())
    if signum:  # some frames have no results
        print("interrupted", file=sys.stderr)
        return 128 + signum
    overlap = overlaps(np.array([result.box for result in results]), truth)
    scores = np.array([result.score for result in results])
    save_picture(args.out / "demo.png", args.out / "tracked.mp4", truth, overlap, scores)
    print(f"picture: {args.out / 'demo.png'}")
    seconds = time.perf_counter() - start
    print(f"mean overlap with the true boxes: {overlap[1:].mean():.3f}; {seconds:.0f} s in all")
    print(f"to track in the browser: {sys.executable} -m rbsf serve, then open its address")
    return 0


def track(
    args: argparse.Namespace, video: Path, box: list[float]
) -> tuple[list[Result], int | None]:
    """Follow the target in `box`, x,y,w,h, of the first frame; write tracked.mp4 and boxes.csv.

    Returns a result for each frame, and the signal that ended the run early, if one did.
    """
    from rbsf.datasets.video.frames import open_frames
    from rbsf.tools.tracking.recording import Outputs, track_video
    from rbsf.tools.tracking.span import Span
    from rbsf.tracker.engines import describe_engine
    from rbsf.tracker.loading import constants_of, load_network

    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    print(f"network: {args.weights.name}, {describe_engine(network)}")
    results: list[Result] = []
    files = (args.out / "tracked.mp4", args.out / "boxes.csv")
    outputs = Outputs(*files, watch=results.extend)
    frames, constants = open_frames(video), constants_of(args.weights)()
    end = track_video(
        str(video), frames, lambda image: [tuple(box)], network, constants, outputs, Span()
    )
    if end.error:
        raise end.error
    print(end.speed)
    return results, end.signum


def save_picture(
    path: Path, tracked: Path, truth: np.ndarray, overlap: np.ndarray, scores: np.ndarray
) -> None:
    """Write a PNG of frames of the tracked video with the true boxes in white, and of two curves.

    The curves are the overlap with the true box and the score, for each frame.
    """
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
        if number not in shown:
            continue
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
