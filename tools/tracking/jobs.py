"""What a run of tools/track.py has to do: its videos, their boxes, and where the results go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rbsf.system.files import is_stream
from rbsf.system.program import check_writable, is_same_file
from rbsf.system.text import one_line
from rbsf.tools.tracking.box_forms import form_of

if TYPE_CHECKING:  # modules with OpenCV are imported late, so that --help is quick
    from rbsf.tools.tracking.recording import Outputs


@dataclass
class Job:
    """A video to track: its boxes from --init, and where its results go."""

    video: str
    boxes: list[tuple[float, ...]]
    outputs: Outputs


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """The videos to track. Raises ValueError if one has no box or an output cannot be written."""
    boxes = boxes_of(args)
    outputs = outputs_of(args)
    return [Job(*each) for each in zip(args.video, boxes, outputs, strict=True)]


def boxes_of(args: argparse.Namespace) -> list[list[tuple[float, ...]]]:
    """The boxes of each video. Raises ValueError if one has none, except with --select."""
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


def parse_box(text: str) -> tuple[float, ...]:
    """Read `x,y,w,h`. Raises ValueError if these are not four numbers.

    Their values are checked later, by `Follower.init`.
    """
    try:
        box = tuple(float(v) for v in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        advice = "give x,y,w,h in pixels, such as 120,80,40,60"
        raise ValueError(f"--init {text!r} is not four numbers; {advice}")
    return box


def outputs_of(args: argparse.Namespace) -> list[Outputs]:
    """Where the results of each video go. Raises ValueError if an output cannot be written."""
    from rbsf.tools.tracking.recording import Outputs

    outputs = []
    for name in unlike(map(source_name, args.video)):
        boxes = Path(args.boxes) if args.boxes else None
        if boxes and not _names_file(args, args.boxes):
            boxes = boxes / f"{name}.csv"
        out = video_path(args, name)
        check_outputs(args, out, boxes)
        count_video, count_boxes = (
            not args.force and not _names_file(args, given) for given in (args.out, args.boxes)
        )
        outputs.append(Outputs(out, boxes, count_video, count_boxes, args.show))
    return outputs


def _names_file(args: argparse.Namespace, given: str | None) -> bool:
    """Whether `given`, an --out or --boxes, names one video's file rather than a folder."""
    return bool(given) and len(args.video) == 1 and not _is_folder(str(given))


def _is_folder(given: str) -> bool:
    return given.endswith(("/", os.sep)) or Path(given).is_dir()


def video_path(args: argparse.Namespace, name: str) -> Path | None:
    """Where the tracked video of a source of this name is written; None if it is not."""
    if args.no_out:
        return None
    if _names_file(args, args.out):
        return Path(args.out)
    from rbsf.datasets.video.encoders import best_suffix

    return Path(args.out or "", f"{name}_tracked{best_suffix()}")


def check_outputs(args: argparse.Namespace, out: Path | None, boxes: Path | None) -> None:
    """Raise ValueError where a file cannot be written, is the input, or is there already."""
    from rbsf.datasets.video.writer import part_of as video_part
    from rbsf.tools.tracking.box_writer import part_of as boxes_part

    several = len(args.video) > 1
    for flag, path, given in (("--out", out, args.out), ("--boxes", boxes, args.boxes)):
        if path is None:
            continue
        if several and given and not _is_folder(given):
            raise ValueError(f"{flag} {given}: of several videos give a folder, such as {given}/")
        if any(is_same_file(path, Path(video)) for video in args.video):
            raise ValueError(f"{path} is one of the videos to track; give another {flag}")
        if flag == "--boxes":
            form_of(path)
        if is_stream(path):
            raise ValueError(f"{flag} {path}: it is a pipe or a device; give a file name")
        check_writable(path)
        if _names_file(args, given) and not args.force:
            check_not_there(path, boxes_part(path) if flag == "--boxes" else video_part(path))


def check_not_there(path: Path, part: Path) -> None:
    """Raise ValueError if a result is there, or what a killed run has left of it."""
    if is_filled(path):
        raise ValueError(f"{path} is there already; give another name, or replace it: --force")
    if is_filled(part):
        what = "is of a run that was killed, or is still going on"
        raise ValueError(f"{part} {what}; rename it, or replace it: --force")


def is_filled(path: Path) -> bool:
    """Whether writing would destroy something at a path; an empty file does not count."""
    return path.exists() and path.stat().st_size > 0


def unlike(names: Iterable[str]) -> list[str]:
    """Make all names different: `a, a` becomes `a, a_2`."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(next(each for each in chain([name], numbered) if each not in found))
    return found


def source_name(video: str) -> str:
    """Short name of a --video.

    `a/cat.mp4`, `a/cat/*.jpg` and `http://a/cat.mp4?b` give cat, and 0 gives camera0.
    """
    if video.isdecimal():
        return f"camera{video}"
    if "://" in video:
        return Path(urlsplit(video).path).stem or "stream"
    path = Path(video).absolute()
    return (path if path.exists() else path.parent).stem


@dataclass
class Failures:
    """The errors of a run's videos, none of which ends the others."""

    videos: int
    messages: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """Report and keep an error in this context, or raise it if there is only one video."""
        try:
            yield
        except (ValueError, OSError) as error:
            if self.videos == 1:
                raise
            text = one_line(error)
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
