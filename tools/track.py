"""Track targets in a video, a folder of images, a stream or a camera, given their boxes in the first frame.

    python tools/track.py --video in.mp4 --init 120,80,40,60

writes in_tracked.mp4, with the boxes drawn in, to the current folder. Boxes are x,y,w,h in pixels, 0-based;
frames are counted from 0, targets from 1. Ctrl-C, SIGTERM, or q in the window, ends a run and keeps what it has.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import Once, check_writable, frame_number, run
from rbsf.tracker.flags import add_constants_flag, add_network_flags, add_weights_flag, read_constants

if TYPE_CHECKING:  # these load OpenCV and PyTorch, which --help and a wrong command line need not wait for
    import numpy as np

    from rbsf.system.stop import StopRequest
    from rbsf.tools.recording import Recorder
    from rbsf.tracker.anchor_free import AnchorFree, Network
    from rbsf.tracker.loading import Constants
    from rbsf.tracker.siamfc import Backbone, SiamFC

DEFAULT_FPS = 25.0  # of images, which have no rate of their own


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--video",
        action=Once,
        required=True,
        help="video file, image folder, pattern ('a/*.jpg', a/%%04d.jpg), camera index, stream's URL or pipe",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--init", action="append", metavar="X,Y,W,H", help="a target's box in frame --start; repeatable"
    )
    target.add_argument("--select", action="store_true", help="draw the boxes with the mouse")
    parser.add_argument(
        "--start", type=frame_number, default=0, metavar="N", help="begin at frame N, skip those before (default: 0)"
    )
    parser.add_argument("--end", type=frame_number, metavar="N", help="end after frame N (default: the last)")
    add_weights_flag(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--out", type=Path, metavar="FILE.mp4", help="default: NAME_tracked.mp4, here")
    output.add_argument("--no-out", action="store_true", help="write no video")
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="write the boxes too: .csv (row by row into FILE.part, renamed at the end) or .json (at the end)",
    )
    parser.add_argument("--show", action="store_true", help="show the frames in a window")
    add_constants_flag(parser)
    add_network_flags(parser)
    return parser.parse_args(_keep_negative(sys.argv[1:] if argv is None else argv))


def _keep_negative(argv: list[str]) -> list[str]:
    """Write ``--init -5,0,20,20`` as ``--init=-5,0,20,20``, for argparse takes ``-5,...`` for a flag."""
    for i, (flag, value) in enumerate(pairwise(argv)):
        if flag == "--init" and re.match(r"-[\d.]", value):
            return _keep_negative([*argv[:i], f"--init={value}", *argv[i + 2 :]])
    return argv


def parse_box(text: str) -> tuple[float, ...]:
    """Read ``x,y,w,h``; ValueError where these are not four numbers (``SiamFC.init`` checks their values)."""
    try:
        box = tuple(float(v) for v in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ValueError(f"--init {text!r} is not four numbers; give x,y,w,h in pixels, such as 120,80,40,60")
    return box


def select_boxes(image: np.ndarray) -> list[tuple[float, ...]]:
    """Let the user draw boxes in an RGB image. Raises ValueError if there is none in the end."""
    import cv2

    from rbsf.tools.recording import WINDOW

    print("drag a box, confirm with SPACE, repeat for more targets, end with ESC")
    boxes = cv2.selectROIs(WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), showCrosshair=False)
    cv2.destroyWindow(WINDOW)
    if len(boxes) == 0:
        raise ValueError("no box was drawn; drag one with the mouse, then press SPACE, then ESC")
    return [tuple(float(v) for v in box) for box in boxes]


def start_trackers(
    network: Backbone | Network, image: np.ndarray, boxes: list[tuple[float, ...]], constants: Constants
) -> list[SiamFC | AnchorFree]:
    """Start one tracker per box; tells of boxes that were clipped. Raises ValueError for an unusable box."""
    from rbsf.tracker.loading import make_tracker

    trackers = [make_tracker(network, constants) for _ in boxes]
    for tracker, box in zip(trackers, boxes, strict=True):
        if note := tracker.init(image, box):
            print(note)
    return trackers


def follow(
    frames: Iterator[tuple[np.ndarray, float | None]],
    trackers: list[SiamFC | AnchorFree],
    recorder: Recorder,
    total: int | None,
    stop: StopRequest,
) -> Exception | None:
    """Track to the end of ``frames``, ``total`` by the header, or to a stop.

    Returns the error that broke in, so that the caller can save.
    """
    from tqdm import tqdm

    from rbsf.tracker.loading import update_all

    with tqdm(total=total, initial=1, desc="track", unit="frame") as bar:
        try:
            for image, seconds in frames:
                go_on = recorder.add(image, seconds, update_all(trackers, image))
                bar.update()
                if stop.signum or not go_on:
                    return None
        except (ValueError, OSError) as error:
            return error
    if total and total != recorder.frames:
        print(f"the video ended after {recorder.number} frames; by its header {recorder.first + total} were expected")
    return None


def frame_range(args: argparse.Namespace, count: int | None) -> tuple[int, int | None, int | None]:
    """First frame of a run, the one after its last, and how many a header of ``count`` frames promises (None: open)."""
    if args.end is not None and args.end < args.start:
        raise ValueError(f"--end {args.end} is before --start {args.start}; give a later frame")
    stop = None if args.end is None else args.end + 1
    ends = [end for end in (stop, count) if end is not None]
    total = min(ends) - args.start if count else 0
    return args.start, stop, total if total > 0 else None  # a header that says less than there is helps nobody


def output_path(args: argparse.Namespace) -> Path | None:
    """Where the video goes. Raises ValueError, before any work, for outputs that cannot be written."""
    out = None if args.no_out else args.out or Path(f"{source_name(args.video)}_tracked.mp4")
    if args.boxes and args.boxes.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"--boxes {args.boxes}: give a file name that ends in .csv or .json")
    for path in filter(None, (out, args.boxes)):
        if path.exists() and Path(args.video).exists() and path.samefile(args.video):
            raise ValueError(f"{path} is the input itself; give another --out")
        check_writable(path)
    if out and not args.out and out.exists():  # a name that nobody typed
        print(f"{out} is there already and will be replaced; --out gives another name")
    return out


def source_name(video: str) -> str:
    """Short name of a --video: ``a/cat.mp4``, ``a/cat/*.jpg`` and ``http://a/cat.mp4?b`` are cat, 0 is camera0."""
    if video.isdecimal():
        return f"camera{video}"
    if "://" in video:
        return Path(urlsplit(video).path).stem or "stream"
    path = Path(video).absolute()
    return (path if path.exists() else path.parent).stem


def check_screen() -> None:
    """Raise ValueError where OpenCV cannot open a window: no screen, a dead one, or OpenCV's headless
    package.

    Tried in a process of its own, for Qt ends the whole process when it finds no screen.
    """
    probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"
    try:
        works = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=30).returncode == 0
    except subprocess.TimeoutExpired:
        works = False
    if not works:
        raise ValueError(
            "no window can be opened here (no screen, or opencv-python-headless): leave out --select, --show"
        )


def main(argv: list[str] | None = None) -> int:
    """Track as the command line says; whatever ends the run early, what was computed is saved."""
    args = parse_args(argv)
    boxes = [parse_box(text) for text in args.init or []]
    if args.show or args.select:
        check_screen()

    from rbsf.datasets.video.frames import VideoWriter, open_frames
    from rbsf.system.stop import StopRequest
    from rbsf.tools.recording import BoxWriter, Recorder, Timing
    from rbsf.tracker.backbones import describe_backbone
    from rbsf.tracker.loading import constants_of, load_network, wrapped
    from rbsf.tracker.siamfc import Result

    constants = read_constants(args.constants, constants_of(args.weights))
    frames = open_frames(args.video)
    fps = frames.fps or DEFAULT_FPS
    out = output_path(args)
    writer = VideoWriter(out, fps) if out else None
    rows = BoxWriter(args.boxes) if args.boxes else None
    network = load_network(args.weights, args.device, args.precision, args.threads, args.engine)
    print(f"network: {args.weights.name}, {describe_backbone(network)}")
    begin, end, total = frame_range(args, frames.count)
    images = islice(frames.start(), begin, end)
    first, seconds = next(images, (None, None))
    if first is None:
        raise ValueError(f"{args.video} holds no frame {begin}" + ("; give an earlier --start" if begin else ""))
    boxes = boxes or select_boxes(first)

    timing = Timing()
    trackers = start_trackers(wrapped(network, timing.of_network), first, boxes, constants)
    recorder = Recorder(None if args.video.isdecimal() else fps, writer, rows, args.show, begin)
    with StopRequest() as stop, rows or nullcontext(), writer or nullcontext():
        recorder.add(first, seconds, [Result(t.box, 1.0, False) for t in trackers])
        error = follow(timing.decoding(images), trackers, recorder, total, stop)
    if out:
        print(f"video: {out}")
    print(timing.summary(recorder.frames))
    if error or stop.signum:
        print(f"ended early: the {recorder.frames} frames up to there are kept")
    if error:
        raise error
    if stop.signum:
        print("interrupted", file=sys.stderr)
        return 128 + stop.signum  # as a shell tells it: 130 for Ctrl-C, 143 for SIGTERM
    return 0


if __name__ == "__main__":
    run(main)
