"""Messages at the start of a tracking run, on stderr: the network, the video and the targets.

    weights: rbsf2.safetensors, 0.43 MB; packed engine, instruction set avx2, 2 threads
    in.mp4: 640 x 360 pixels, 25 frames a second, 250 frames (10.0 s) by its header
    target 1: x 120 to 160, y 80 to 140 of 640 x 360

A user who confuses two box conventions, or two files, notices before the work is done.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rbsf.tools.tracking.span import DEFAULT_FPS

if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.video.sources import Frames

Size = tuple[int, int]  # width and height in pixels

FAR = 0.1  # a box is far outside if it exceeds the frame by this share of its width or height


def tell(line: str) -> None:
    """Print a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


def describe_weights(path: Path, runs: str) -> str:
    """The name and size of a weights file, and what runs it."""
    return f"weights: {path.name}, {path.stat().st_size / 1e6:.2f} MB; {runs}"


def describe_source(source: str, frames: Frames, size: Size) -> str:
    """The size, rate and length of a video, as far as they are known before it is read.

    A name and a password in an address are left out.
    """
    width, height = size
    rate = f"{frames.fps:.4g} frames a second" if frames.fps else "no frame rate of its own"
    if not frames.fps and not frames.live:
        rate += f", taken as {DEFAULT_FPS:g} frames a second (--fps)"
    shown = re.sub(r"://[^/@]*@", "://", source)
    return f"{shown}: {width} x {height} pixels, {rate}, {_length(frames)}"


def _length(frames: Frames) -> str:
    if frames.live:
        return "live"
    if not frames.count:
        return "length unknown"
    if frames.files:
        return f"{frames.count} image{'s' if frames.count > 1 else ''}"
    seconds = f" ({frames.count / frames.fps:.1f} s)" if frames.fps else ""
    return f"{frames.count} frames{seconds} by its header"


def describe_target(number: int, box: Sequence[float] | np.ndarray, size: Size, frame: int) -> str:
    """Where a target is in the frame: `box` is x,y,w,h in pixels, `frame` a number from 0."""
    x, y, w, h = box
    place = f"x {x:g} to {x + w:g}, y {y:g} to {y + h:g}"
    where = f", in frame {frame}" if frame else ""
    return f"target {number}: {place} of {size[0]} x {size[1]}{where}"


def ask_for_corners(box: Sequence[float], size: Size) -> str:
    """A question if a box was probably given as x1,y1,x2,y2, else an empty text.

    Such a box reaches far outside the frame, but lies inside if its last two numbers are the second
    corner.
    """
    x, y, w, h = box
    beyond = max((x + w) / size[0], (y + h) / size[1]) - 1
    inside = 0 <= x < w <= size[0] and 0 <= y < h <= size[1]
    if beyond <= FAR or not inside:
        return ""
    given = f"{x:g},{y:g},{w:g},{h:g}"
    meant = f"{x:g},{y:g},{w - x:g},{h - y:g}"
    return (
        f"did you mean corners? --init {given} as x,y,w,h reaches far outside the frame;"
        f" for the corners {x:g},{y:g} and {w:g},{h:g} type --init {meant}"
    )
