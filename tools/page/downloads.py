"""What a viewer can save: boxes, a picture, the video with the boxes drawn in."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.encoders import Original, best_suffix, find_codec
from rbsf.datasets.video.writer import VideoWriter
from rbsf.tools.page.footage import EndOfVideo, Footage
from rbsf.tools.page.settings import Refused
from rbsf.tools.page.work import Work
from rbsf.tools.tracking.box_forms import FORMS, rows_of
from rbsf.tools.tracking.drawing import draw
from rbsf.tracker.states import Result

Found = dict[int, dict[int, Result]]  # results by frame and by number of the target


def boxes(footage: Footage, found: Found, form: str) -> tuple[str, bytes]:
    """Name and content of a file of boxes; `form` is an ending, a key of FORMS.

    Raises Refused if there are no boxes, or no such form.
    """
    if form not in FORMS:
        raise Refused(f"boxes are saved as one of {', '.join(FORMS)}")
    if not found:
        raise Refused("there are no boxes yet; draw one first")
    named = {target for results in found.values() for target in results} != {1}
    rows = [
        row
        for frame, results in found.items()
        for row in rows_of(frame, footage.about[frame].seconds, results, named)
    ]
    sizes = {frame: (footage.about[frame].width, footage.about[frame].height) for frame in found}
    return f"{_stem(footage)}_boxes{form}", FORMS[form].text(rows, sizes, True).encode()


def picture(
    footage: Footage, frame: int, image: np.ndarray, results: dict[int, Result]
) -> tuple[str, bytes]:
    """Name and content of a PNG of a frame with its boxes."""
    bgr = cv2.cvtColor(draw(image, results), cv2.COLOR_RGB2BGR)
    return f"{_stem(footage)}_{frame:06d}.png", cv2.imencode(".png", bgr)[1].tobytes()


def video(footage: Footage, found: Found, folder: Path, work: Work) -> tuple[Path, str]:
    """Write a video of all frames, with the boxes that were found, to a folder.

    Returns its path, and sentences where browsers do not play it and where boxes end. Raises
    Refused where there are no boxes, Cancelled, and OSError where writing fails.
    """
    if not found:
        raise Refused("there are no boxes yet; draw one first")
    suffix = best_suffix()
    codec = find_codec(suffix)
    path = folder / f"{_stem(footage)}_tracked{suffix}"
    original = Original(sound=footage.file)
    if footage.source:
        original = Original(footage.source.pixel_aspect, footage.file)
    with VideoWriter(path, footage.fps, codec, original) as writer:
        for frame in range(footage.count):
            work.tell("Writing the video", frame, footage.count)
            try:
                image = footage.image(frame, work)
            except EndOfVideo:
                break
            writer.write(draw(image, found.get(frame, {})), footage.about[frame].seconds)
    last = max(found)
    notes = [] if codec.plays else [f"The video is {codec.describe()}."]
    if last < footage.count - 1:
        notes.append(f"Frames after frame {last} have no boxes: nothing was tracked there yet.")
    return path, " ".join(notes)


def _stem(footage: Footage) -> str:
    """The footage's name as the beginning of a file's name."""
    return re.sub(r"[^\w-]+", "_", Path(footage.name).stem)[:60].strip("_") or "video"
