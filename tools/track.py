"""Track targets in a video, an image folder, a stream or a camera, from boxes in the first frame.

    python tools/track.py --video in.mp4 --init 120,80,40,60

writes in_tracked.mp4, with the boxes drawn in, to the current folder. Boxes are x,y,w,h in pixels,
0-based; frames are counted from 0, targets from 1. Ctrl-C, SIGTERM, or q in the window, ends a run
and keeps what it has.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import Once, check_writable, frame_number, run
from rbsf.tracker.flags import (
    add_constants_flag,
    add_network_flags,
    add_redetect_flag,
    add_weights_flag,
    read_constants,
)

# Functions below import OpenCV and PyTorch themselves, so that --help and errors come at once.
if TYPE_CHECKING:
    from rbsf.tools.recording import Ending, Span


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    patterns = "'a/*.jpg', a/%%04d.jpg"
    parser.add_argument(
        "--video",
        action=Once,
        required=True,
        help=f"video file, image folder, pattern ({patterns}), camera index, stream's URL or pipe",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--init",
        action="append",
        metavar="X,Y,W,H",
        help="a target's box in frame --start; repeatable",
    )
    target.add_argument("--select", action="store_true", help="draw the boxes with the mouse")
    parser.add_argument(
        "--start",
        type=frame_number,
        default=0,
        metavar="N",
        help="begin at frame N, skip those before (default: 0)",
    )
    parser.add_argument(
        "--end", type=frame_number, metavar="N", help="end after frame N (default: the last)"
    )
    add_weights_flag(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--out", type=Path, metavar="FILE.mp4", help="default: NAME_tracked.mp4, here"
    )
    output.add_argument("--no-out", action="store_true", help="write no video")
    forms = ".csv (row by row into FILE.part, renamed at the end) or .json (at the end)"
    parser.add_argument("--boxes", type=Path, metavar="FILE", help=f"write the boxes too: {forms}")
    parser.add_argument(
        "--show", action="store_true", help="show the frames in a window that names its keys"
    )
    add_constants_flag(parser)
    add_redetect_flag(parser)
    add_network_flags(parser)
    return parser.parse_args(_keep_negative(sys.argv[1:] if argv is None else argv))


def _keep_negative(argv: list[str]) -> list[str]:
    """Write `--init -5,0,20,20` as `--init=-5,0,20,20`: argparse takes `-5,...` for a flag."""
    for i, (flag, value) in enumerate(pairwise(argv)):
        if flag == "--init" and re.match(r"-[\d.]", value):
            return _keep_negative([*argv[:i], f"--init={value}", *argv[i + 2 :]])
    return argv


def parse_box(text: str) -> tuple[float, ...]:
    """Read `x,y,w,h`. Raises ValueError where these are not four numbers.

    Their values are checked later, by `SiamFC.init`.
    """
    try:
        box = tuple(float(v) for v in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        advice = "give x,y,w,h in pixels, such as 120,80,40,60"
        raise ValueError(f"--init {text!r} is not four numbers; {advice}")
    return box


def span_of(args: argparse.Namespace) -> Span:
    """Which frames are tracked. Raises ValueError where the end is before the start."""
    from rbsf.tools.recording import Span

    if args.end is not None and args.end < args.start:
        raise ValueError(f"--end {args.end} is before --start {args.start}; give a later frame")
    return Span(args.start, None if args.end is None else args.end + 1)


def output_path(args: argparse.Namespace) -> Path | None:
    """Where the video goes, None for nowhere; checks --boxes too.

    Raises ValueError where an output cannot be written.
    """
    out = args.out
    if not out and not args.no_out:
        out = Path(f"{source_name(args.video)}_tracked.mp4")
    if args.boxes and args.boxes.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"--boxes {args.boxes}: give a file name that ends in .csv or .json")
    for path in filter(None, (out, args.boxes)):
        _check_output(path, Path(args.video))
    if out and not args.out and out.exists():
        print(f"{out} is there already and will be replaced; --out gives another name")
    return out


def _check_output(path: Path, video: Path) -> None:
    if path.exists() and video.exists() and path.samefile(video):
        raise ValueError(f"{path} is the input itself; give another --out")
    check_writable(path)


def source_name(video: str) -> str:
    """Short name of a --video.

    That of `a/cat.mp4`, `a/cat/*.jpg` and `http://a/cat.mp4?b` is cat, that of 0 is camera0.
    """
    if video.isdecimal():
        return f"camera{video}"
    if "://" in video:
        return Path(urlsplit(video).path).stem or "stream"
    path = Path(video).absolute()
    return (path if path.exists() else path.parent).stem


def check_screen() -> None:
    """Raise ValueError where OpenCV cannot open a window, as without a screen.

    This is tried in a process of its own: Qt ends the whole process when it finds no screen.
    """
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"]
    try:
        works = subprocess.run(probe, capture_output=True, timeout=30).returncode == 0
    except subprocess.TimeoutExpired:
        works = False
    if not works:
        reason = "no screen, or opencv-python-headless"
        raise ValueError(f"no window can be opened here ({reason}): leave out --select, --show")


def main(argv: list[str] | None = None) -> int:
    """Track as the command line says; what was computed is saved, whatever ends the run."""
    args = parse_args(argv)
    boxes = [parse_box(text) for text in args.init or []]
    if args.show or args.select:
        check_screen()

    from rbsf.datasets.video.frames import open_frames
    from rbsf.tools.controls import select_boxes
    from rbsf.tools.recording import Outputs, track_video
    from rbsf.tracker.backbones import describe_backbone
    from rbsf.tracker.loading import constants_of, load_network

    constants = read_constants(args.constants, constants_of(args.weights), args.redetect)
    frames = open_frames(args.video)  # a live source is connected when it is read, not yet
    outputs, span = Outputs(output_path(args), args.boxes, args.show), span_of(args)
    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    print(f"network: {args.weights.name}, {describe_backbone(network)}")
    choose = select_boxes if args.select else lambda image: boxes
    end = track_video(args.video, frames, choose, network, constants, outputs, span)
    if outputs.video:
        print(f"video: {outputs.video}")
    return tell_ending(end)


def tell_ending(end: Ending) -> int:
    """Print how a run ended; returns the exit code. Raises the error that ended the run."""
    print(end.speed)
    if end.error or end.signum or end.by_user:
        print(f"ended early: the {end.frames} frames up to there are kept")
    if end.error:
        raise end.error
    if end.signum:
        print("interrupted", file=sys.stderr)
        return 128 + end.signum  # as a shell tells it: 130 for Ctrl-C, 143 for SIGTERM
    if end.closed:
        print("the window was closed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
