"""Track targets in a video, an image folder, a stream or a camera, from boxes in the first frame.

For in.mp4 it writes in_tracked.mp4, with the boxes drawn in, to the current folder, or
in_tracked_2.mp4 if that name is taken. Boxes are x,y,w,h in pixels, counted from 0. Frames are
counted from 0, targets from 1. Ctrl-C, SIGTERM, SIGHUP, or q in the window, ends a run and keeps
its results. In a run of several videos, each --init belongs to the --video before it.

While a run goes on, rows of --boxes as .csv and .txt are written to PATH.part; PATH appears at its
end.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.shipped import find_weights
from rbsf.system.flags import make_parser
from rbsf.system.program import run
from rbsf.tools.tracking.jobs import Failures, Job, boxes_of, jobs_of
from rbsf.tools.tracking.span import Span, place, rate
from rbsf.tracker.flags import (
    add_constants_flag,
    add_network_flags,
    add_redetect_flag,
    add_weights_flag,
    default_tracker,
    read_constants,
    with_redetect,
)

# Functions below import OpenCV and PyTorch themselves, so that --help and errors come at once.
if TYPE_CHECKING:
    from rbsf.datasets.video.sources import Frames
    from rbsf.tools.tracking.recording import Ending
    from rbsf.tracker.anchor_free import Network
    from rbsf.tracker.loading import Constants
    from rbsf.tracker.siamfc import Backbone

EXAMPLE = "--video in.mp4 --init 120,80,40,60 --boxes boxes.csv"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE, allow_abbrev=False)
    patterns = "'a/*.jpg', a/%%04d.jpg"
    first.add_argument(
        "--video",
        action="append",
        required=True,
        metavar="PATH",
        help="Track in this video file, folder of images, pattern of images"
        f" ({patterns}), camera (0, 1 ...), stream (rtsp://...) or pipe; repeatable",
    )
    target = first.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--init",
        action=OfVideo,
        metavar="X,Y,W,H",
        help="Follow the target in this box of the first frame that is tracked: left and top"
        " side, width and height in pixels; repeatable (default: none; give it, or --select)",
    )
    target.add_argument(
        "--select", action="store_true", help="Draw the boxes with the mouse in place of --init"
    )
    first.add_argument(
        "--start",
        type=place,
        default=0,
        metavar="PLACE",
        help="Begin at this frame, such as 120, or this time, such as 12.5s or 1:02.5",
    )
    first.add_argument(
        "--end",
        type=place,
        metavar="PLACE",
        help="End after this frame or this time (default: the last frame)",
    )
    first.add_argument(
        "--fps",
        type=rate,
        metavar="N",
        help="Take images, and streams that name no rate, as N frames a second (default: 25)",
    )
    add_weights_flag(first)
    output = first.add_mutually_exclusive_group()
    output.add_argument(
        "--out",
        metavar="PATH",
        help="Write the video with the boxes to this file: .mp4, .webm, .mkv, .mov or .avi; for"
        " several videos give a folder (default: NAME_tracked.mp4, or .webm, in this folder)",
    )
    output.add_argument("--no-out", action="store_true", help="Write no video")
    first.add_argument(
        "--boxes",
        metavar="PATH",
        help="Write the boxes to this file too: .csv, .json, .txt (MOTChallenge) or .coco.json"
        " (COCO); for several videos give a folder, which gets a NAME.csv for each",
    )
    first.add_argument(
        "--show",
        action="store_true",
        help="Show the frames in a window, which names the keys that it knows",
    )
    others = parser.add_argument_group("how targets are followed, and what is replaced")
    add_constants_flag(others, choose=True)
    add_redetect_flag(others)
    others.add_argument("--force", action="store_true", help="Replace files that are there already")
    add_network_flags(parser)
    parser.set_defaults(weights=None)
    args = parser.parse_args(_keep_negative(sys.argv[1:] if argv is None else argv))
    args.weights = args.weights or find_weights(default_tracker(args.constants))
    return args


class OfVideo(argparse.Action):
    """Collect a flag's values, and in `video_of_init` how many videos come before each."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        args: argparse.Namespace,
        value: object,
        option: str | None = None,
    ) -> None:
        """Append `value`."""
        setattr(args, self.dest, [*(getattr(args, self.dest) or []), value])
        args.video_of_init = [*getattr(args, "video_of_init", []), len(args.video or [])]


def _keep_negative(argv: list[str]) -> list[str]:
    """Write `--init -5,0,20,20` as `--init=-5,0,20,20`: argparse takes `-5,...` for a flag."""
    for i, (flag, value) in enumerate(pairwise(argv)):
        if flag == "--init" and re.match(r"-[\d.]", value):
            return _keep_negative([*argv[:i], f"--init={value}", *argv[i + 2 :]])
    return argv


def check_screen() -> None:
    """Raise ValueError if OpenCV cannot open a window, as without a screen.

    A separate process tries this, because Qt ends the whole process if it finds no screen.
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
    """Track as the command line says; all results so far are saved, whatever ends the run."""
    args = parse_args(argv)
    span = Span(args.start, args.end)
    boxes_of(args)
    if args.show or args.select:
        check_screen()

    from rbsf.datasets.video.frames import open_frames
    from rbsf.tools.tracking.introduction import describe_weights, tell
    from rbsf.tracker.engines import choose_engine, describe_engine, describe_run
    from rbsf.tracker.loading import constants_of, load_network

    constants = with_redetect(
        read_constants(args.constants, constants_of(args.weights)), args.redetect
    )
    failures = Failures(len(args.video))
    opened: list[tuple[Job, Frames]] = []
    for job in jobs_of(args):
        with failures.of(job.video):  # a live source is only connected when it is read
            opened.append((job, at_rate(open_frames(job.video), args.fps)))
    if not opened:
        return failures.tell()
    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    print(f"network: {args.weights.name}, {describe_engine(network)}")
    file, _ = choose_engine(args.weights, args.engine)
    tell(describe_weights(file, describe_run(network, args.device, args.precision)))
    for job, frames in opened:
        with failures.of(job.video):
            if code := track_job(job, frames, network, constants, span, args.select):
                return code
    return failures.tell()


def at_rate(frames: Frames, fps: float | None) -> Frames:
    """The frames, at the rate of --fps if it is given. Raises ValueError if they have their own."""
    if fps is None:
        return frames
    if frames.fps or frames.live:
        own = f"{frames.fps:g} frames a second" if frames.fps else "the times of a live source"
        raise ValueError(f"--fps {fps:g}: {frames.name} has {own}; leave --fps out")
    return replace(frames, fps=fps)


def track_job(
    job: Job,
    frames: Frames,
    network: Backbone | Network,
    constants: Constants,
    span: Span,
    select: bool,
) -> int:
    """Track one video; returns the exit code of a run that a signal ended, else 0.

    Raises the error that ended the run.
    """
    from rbsf.tools.tracking.controls import select_boxes
    from rbsf.tools.tracking.recording import track_video

    choose = select_boxes if select else lambda image: job.boxes
    return tell_ending(
        track_video(job.video, frames, choose, network, constants, job.outputs, span)
    )


def tell_ending(end: Ending) -> int:
    """Print how a run ended; returns the exit code. Raises the error that ended the run."""
    print(end.speed)
    if end.error or end.signum or end.by_user:
        print(f"ended early: the {end.frames} frames up to there are kept")
    if end.error:
        raise end.error
    if end.signum:
        print("interrupted", file=sys.stderr)
        return 128 + end.signum  # as shells report it: 130 for Ctrl-C, 143 for SIGTERM
    if end.closed:
        print("the window was closed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
