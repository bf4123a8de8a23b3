"""Make synthetic tracking videos with true boxes.

rbsf make-synthetic --out synthetic --count 50     # a GOT-10k split to train on
rbsf make-synthetic --out demo --count 1 --video   # demo/synthetic_000000.mp4, .txt
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import check_writable, positive_int, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--count", type=positive_int, default=10, metavar="N", help="videos (default: 10)")
    add(
        "--frames",
        type=positive_int,
        default=100,
        metavar="N",
        help="frames of each (default: 100)",
    )
    add(
        "--size",
        type=parse_size,
        default=(320, 240),
        metavar="WxH",
        help="pixels (default: 320x240)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="video i is drawn from seed S + i (default: 0)",
    )
    add(
        "--video", action="store_true", help="write .mp4 and .txt files instead of folders of JPEGs"
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
