"""Track targets in a video, an image folder, a stream or a camera, from boxes in the first frame.

    python tools/track.py --video in.mp4 --init 120,80,40,60

writes in_tracked.mp4, with the boxes drawn in, to the current folder; where that name is taken,
in_tracked_2.mp4. Boxes are x,y,w,h in pixels, 0-based; frames are counted from 0, targets from 1.
Ctrl-C, SIGTERM, or q in the window, ends a run and keeps what it has. In a run of several videos
each --init belongs to the --video before it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import check_writable, run
from rbsf.tools.box_forms import form_of
from rbsf.tools.span import Span, place
from rbsf.tracker.flags import (
    add_constants_flag,
    add_network_flags,
    add_weights_flag,
    read_constants,
)

# Functions below import OpenCV and PyTorch themselves, so that --help and errors come at once.
if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.video.sources import Frames
    from rbsf.tools.recording import Ending, Outputs
    from rbsf.tracker.anchor_free import Network
    from rbsf.tracker.loading import Constants
    from rbsf.tracker.siamfc import Backbone


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
        action="append",
        required=True,
        help=f"video file, image folder, pattern ({patterns}), camera index, stream's URL or pipe;"
        " repeatable",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--init",
        action=OfVideo,
        metavar="X,Y,W,H",
        help="a target's box in frame --start; repeatable",
    )
    target.add_argument("--select", action="store_true", help="draw the boxes with the mouse")
    parser.add_argument(
        "--start",
        type=place,
        default=0,
        metavar="PLACE",
        help="begin at this frame, such as 120, or time, such as 12.5s or 1:02.5 (default: 0)",
    )
    parser.add_argument(
        "--end",
        type=place,
        metavar="PLACE",
        help="end after this frame or time (default: the last frame)",
    )
    add_weights_flag(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--out",
        metavar="FILE.mp4",
        help="or .webm, .mkv, .mov, .avi (default: NAME_tracked.mp4, or .webm, here);"
        " of several videos a folder",
    )
    output.add_argument("--no-out", action="store_true", help="write no video")
    forms = (
        ".csv and .txt (MOTChallenge) are written row by row into FILE.part, renamed at the end;"
        " .json and .coco.json (COCO) at the end; of several videos a folder, for NAME.csv"
    )
    parser.add_argument("--boxes", metavar="FILE", help=f"write the boxes too: {forms}")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument("--show", action="store_true", help="show the frames in a window")
    add_constants_flag(parser)
    add_network_flags(parser)
    return parser.parse_args(_keep_negative(sys.argv[1:] if argv is None else argv))


class OfVideo(argparse.Action):
    """Collect a flag's values, and in `video_of_init` how many videos stand before each."""

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


def select_boxes(image: np.ndarray) -> list[tuple[float, ...]]:
    """Let the user draw boxes in an RGB image. Raises ValueError where there is none in the end."""
    import cv2

    from rbsf.tools.recording import WINDOW

    print("drag a box, confirm with SPACE, repeat for more targets, end with ESC")
    boxes = cv2.selectROIs(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), showCrosshair=False)
    cv2.destroyWindow(WINDOW)
    if len(boxes) == 0:
        raise ValueError("no box was drawn; drag one with the mouse, then press SPACE, then ESC")
    return [tuple(float(v) for v in box) for box in boxes]


@dataclass
class Job:
    """A video to track: its boxes by --init, and where its results go."""

    video: str
    boxes: list[tuple[float, ...]]
    outputs: Outputs


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What is to be done. Raises ValueError where a video has no box or an output cannot be."""
    boxes = boxes_of(args)
    outputs = outputs_of(args)
    return [Job(*each) for each in zip(args.video, boxes, outputs, strict=True)]


def boxes_of(args: argparse.Namespace) -> list[list[tuple[float, ...]]]:
    """The boxes of each video; ValueError where one has none, but for --select."""
    boxes = [parse_box(text) for text in args.init or []]
    if len(args.video) == 1 or args.select:
        return [boxes for _ in args.video]
    grouped = [
        [box for box, owner in zip(boxes, args.video_of_init, strict=True) if owner == number]
        for number in range(len(args.video) + 1)
    ]
    for video, own in zip(["", *args.video], grouped, strict=True):
        if bool(own) != bool(video):
            what = f"{video} has no --init" if video else "the first --init has no video"
            raise ValueError(f"{what}: of several videos, give each its --init right after it")
    return grouped[1:]


def outputs_of(args: argparse.Namespace) -> list[Outputs]:
    """Where the results of each video go. Raises ValueError where an output cannot be written."""
    from rbsf.tools.recording import Outputs

    single = len(args.video) == 1
    outputs = []
    for video, name in zip(args.video, unlike(map(source_name, args.video)), strict=True):
        named = Path(args.boxes) if args.boxes and single else None
        boxes = Path(args.boxes, f"{name}.csv") if args.boxes and not single else named
        out = video_path(args, name)
        check_outputs(args, video, out, boxes)
        count_up = not args.force
        count_video = count_up and not (args.out and single)
        outputs.append(Outputs(out, boxes, count_video, count_up and not single, args.show))
    return outputs


def video_path(args: argparse.Namespace, name: str) -> Path | None:
    """Where the video of a source of this name goes, None for nowhere."""
    if args.no_out:
        return None
    if args.out and len(args.video) == 1:
        return Path(args.out)
    from rbsf.datasets.video.encoders import best_suffix

    return Path(args.out or "", f"{name}_tracked{best_suffix()}")


def check_outputs(
    args: argparse.Namespace, video: str, out: Path | None, boxes: Path | None
) -> None:
    """Raise ValueError where a file cannot be written, is the input, or is there already."""
    several = len(args.video) > 1
    for flag, path, given in (("--out", out, args.out), ("--boxes", boxes, args.boxes)):
        if path is None:
            continue
        if several and given and not (given.endswith(("/", os.sep)) or Path(given).is_dir()):
            raise ValueError(f"{flag} {given}: of several videos give a folder, such as {given}/")
        if path.exists() and Path(video).exists() and path.samefile(video):
            raise ValueError(f"{path} is the input itself; give another {flag}")
        if flag == "--boxes":
            form_of(path)
        check_writable(path)
        if given and not several and not args.force and is_filled(path):
            raise ValueError(f"{path} is there already; give another name, or replace it: --force")


def is_filled(path: Path) -> bool:
    """Whether something is there that writing would destroy: not an empty file."""
    return path.exists() and path.stat().st_size > 0


def unlike(names: Iterable[str]) -> list[str]:
    """Names of which no two are the same: `a, a` gives `a, a_2`."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(next(each for each in chain([name], numbered) if each not in found))
    return found


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


@dataclass
class Failures:
    """The errors of a run's videos, none of which ends the others."""

    videos: int
    messages: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """Context in which an error is told and kept; that of a single video is raised."""
        try:
            yield
        except (ValueError, OSError) as error:
            if self.videos == 1:
                raise
            text = " ".join(str(error).split())
            self.messages.append(text if video in text else f"{video}: {text}")
            print(f"error: {self.messages[-1]}", file=sys.stderr)

    def tell(self) -> int:
        """Say again what failed; returns the exit code."""
        if not self.messages:
            return 0
        print(f"{len(self.messages)} of {self.videos} videos failed:", file=sys.stderr)
        for message in self.messages:
            print(f"error: {message}", file=sys.stderr)
        return 1


def main(argv: list[str] | None = None) -> int:
    """Track as the command line says; what was computed is saved, whatever ends the run."""
    args = parse_args(argv)
    span = Span(args.start, args.end)
    boxes_of(args)
    if args.show or args.select:
        check_screen()

    from rbsf.datasets.video.frames import open_frames
    from rbsf.tracker.backbones import describe_backbone
    from rbsf.tracker.loading import constants_of, load_network

    constants = read_constants(args.constants, constants_of(args.weights))
    failures = Failures(len(args.video))
    opened: list[tuple[Job, Frames]] = []
    for job in jobs_of(args):
        with failures.of(job.video):  # a live source is connected when it is read, not yet
            opened.append((job, open_frames(job.video)))
    if not opened:
        return failures.tell()
    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    print(f"network: {args.weights.name}, {describe_backbone(network)}")
    for job, frames in opened:
        with failures.of(job.video):
            if code := track_job(job, frames, network, constants, span, args.select):
                return code
    return failures.tell()


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
    from rbsf.tools.recording import track_video

    choose = select_boxes if select else lambda image: job.boxes
    return tell_ending(
        track_video(job.video, frames, choose, network, constants, job.outputs, span)
    )


def tell_ending(end: Ending) -> int:
    """Print how a run ended; returns the exit code. Raises the error that ended the run."""
    print(end.speed)
    if end.error or end.signum:
        print(f"ended early: the {end.frames} frames up to there are kept")
    if end.error:
        raise end.error
    if end.signum:
        print("interrupted", file=sys.stderr)
        return 128 + end.signum  # as a shell tells it: 130 for Ctrl-C, 143 for SIGTERM
    return 0


if __name__ == "__main__":
    run(main)
