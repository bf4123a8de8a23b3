"""Give videos without boxes boxes at random places, so that a network can learn from a teacher.

    rbsf make-windows --videos unlabelled --out windows --count 6

Each video gets COUNT boxes that stand still; OUT/NAME_1.txt to OUT/NAME_COUNT.txt lie beside links
to the video. The target is whatever is there: training by --teacher takes no box for true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import positive_int, run

if TYPE_CHECKING:
    import numpy as np

SIZES = (0.08, 0.4)  # least and greatest mean side of a box, in parts of the frame's short side
MAX_ASPECT = 2.0  # of width to height, or of height to width


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--videos", type=Path, required=True, metavar="DIR", help="folder of video files")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write; --data of prepare_pairs.py",
    )
    add(
        "--count",
        type=positive_int,
        default=6,
        metavar="N",
        help="boxes of a video (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of places and sizes (default: 0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Draw boxes and write them."""
    args = parse_args(argv)
    import numpy as np
    from tqdm import tqdm

    from rbsf.datasets.video.frames import VIDEO_SUFFIXES, open_frames
    from rbsf.system.files import write_atomically

    videos = sorted(path for path in args.videos.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise ValueError(f"--videos {args.videos}: there is no video file")
    args.out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(tqdm(videos, unit="video")):
        shapes = [frame.shape[:2] for frame in open_frames(str(path))]
        rng = np.random.default_rng((args.seed, number))
        for window in range(1, args.count + 1):
            box = random_box(rng, *shapes[0])
            name = args.out / f"{path.stem}_{window}"
            link = name.with_suffix(path.suffix)
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
            line = ",".join(f"{v:.1f}" for v in box) + "\n"
            write_atomically(name.with_suffix(".txt"), line.encode() * len(shapes))
    print(f"{args.out}: {args.count} boxes in each of {len(videos)} videos")


def random_box(
    rng: np.random.Generator, height: int, width: int
) -> tuple[float, float, float, float]:
    """A random box x, y, w, h in pixels inside of a frame."""
    side = min(height, width) * rng.uniform(*SIZES)
    stretch = MAX_ASPECT ** rng.uniform(-0.5, 0.5)
    w, h = side * stretch, side / stretch
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return x, y, w, h


if __name__ == "__main__":
    run(main)
