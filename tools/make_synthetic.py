"""Make synthetic tracking videos with true boxes.

They are written as a split of GOT-10k, to train on, or with --video as .mp4 files with their boxes
in .txt files, such as synthetic_000000.mp4.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import check_writable, positive_int, run, seed_number

EXAMPLES = """
--out synthetic --count 50
--out demo --count 1 --video
"""


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES)
    add = first.add_argument
    add("--out", type=Path, required=True, metavar="PATH", help="Write to this folder")
    add("--count", type=positive_int, default=10, metavar="N", help="Make N videos")
    add(
        "--frames",
        type=positive_int,
        default=100,
        metavar="N",
        help="Give each video N frames",
    )
    add(
        "--size",
        type=parse_size,
        default=(320, 240),
        metavar="WxH",
        help="Make frames of this width and height in pixels (default: 320x240)",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="Draw the first video by this number, the second by the next one, and so on",
    )
    add(
        "--video",
        action="store_true",
        help="Write an .mp4 and a .txt file for each video in place of a folder of JPEGs",
    )
    return parser.parse_args()


def parse_size(text: str) -> tuple[int, int]:
    """Read `320x240` as (width, height)."""
    if not re.fullmatch(r"\d+x\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 320x240")
    width, height = text.split("x")
    return int(width), int(height)


def main() -> None:
    """Write the videos."""
    args = parse_args()
    check_writable(args.out / "list.txt")
    from rbsf.datasets.synthetic.videos import video_name, write_got10k, write_video

    if not args.video:
        write_got10k(args.out, args.count, args.seed, args.frames, args.size)
        return
    for seed in range(args.seed, args.seed + args.count):
        write_video(args.out / f"{video_name(seed)}.mp4", seed, args.frames, args.size)


if __name__ == "__main__":
    run(main)
