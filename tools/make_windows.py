"""Add boxes at random places to videos that have none, so that a network can learn from a teacher.

Each video gets --count boxes that stand still. They are written to NAME_1.txt, NAME_2.txt and so
on, each beside a link to the video. The target is whatever the box shows: training with --teacher
takes no box as true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, run, seed_number

if TYPE_CHECKING:
    import numpy as np

EXAMPLE = "--videos unlabelled --out windows --count 6"
SIZES = (0.08, 0.4)  # least and greatest mean side of a box, as shares of the frame's short side
MAX_ASPECT = 2.0  # largest width / height, or height / width


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--videos",
        type=Path,
        required=True,
        metavar="PATH",
        help="Give boxes to the video files in this folder",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="Write to this folder, which is then a --data of tools/prepare_pairs.py",
    )
    add(
        "--count",
        type=positive_int,
        default=6,
        metavar="N",
        help="Give each video N boxes",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="Draw places and sizes by this number",
    )
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
    check_names(videos, args.out)
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


def check_names(videos: list[Path], out: Path) -> None:
    """Raise ValueError if files in `out` would replace videos or each other."""
    if out.resolve() == videos[0].parent.resolve():
        raise ValueError(f"--out {out} is the folder of the videos; give another")
    names = [path.stem for path in videos]
    for path in videos:
        if names.count(path.stem) > 1:
            raise ValueError(f"several videos are named {path.stem}, such as {path}; rename one")


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
