"""The formats of a file of boxes: CSV, JSON, MOTChallenge and COCO.

A row is a target's box in a frame: `frame` (from 0), `time` (seconds), `target` (from 1, if there
are several), `x`, `y`, `w`, `h` (pixels from 0), `score`, `lost`, `state`, and `file` if frames are
image files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # flags import this module, and --help should not wait for NumPy
    from rbsf.tracker.states import Result

Row = dict[str, float | int | str]
Size = tuple[int, int]  # (width, height) of a frame in pixels


def rows_of(
    frame: int,
    seconds: float,
    results: dict[int, Result],
    named: bool,
    file: str = "",
) -> list[Row]:
    """The rows of a frame, from the results by number of the target.

    `named`: whether rows have the target's number. `file`: name of the frame's image file.
    """
    rows: list[Row] = []
    for target, result in results.items():
        row: Row = {"frame": frame, "time": round(seconds, 3)}
        if named:
            row["target"] = target
        for side, value in zip("xywh", result.box, strict=True):
            row[side] = round(float(value), 3)
        row["score"] = round(result.score, 4)
        row["lost"] = int(result.lost)
        row["state"] = result.state.value
        if file:
            row["file"] = file
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Form:
    """A file format.

    `text` makes the file's text from rows and from the sizes of their frames, by number; its third
    argument says whether these are the file's first rows. `grows`: later rows may be appended.
    """

    text: Callable[[list[Row], dict[int, Size], bool], str]
    grows: bool


def _as_csv(rows: list[Row], sizes: dict[int, Size], first: bool) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    if first:
        table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _as_json(rows: list[Row], sizes: dict[int, Size], first: bool) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _as_mot(rows: list[Row], sizes: dict[int, Size], first: bool) -> str:
    """Lines `frame,id,x,y,w,h,conf,-1,-1,-1`; frames and pixels count from 1, as MOTChallenge does.

    A lost target has no line.
    """
    lines = []
    for row in rows:
        if row["lost"]:
            continue
        x, y = (round(float(row[side]) + 1, 3) for side in "xy")
        values = (int(row["frame"]) + 1, row.get("target", 1), x, y, row["w"], row["h"])
        lines.append(",".join(map(str, (*values, row["score"], -1, -1, -1))) + "\n")
    return "".join(lines)


def _as_coco(rows: list[Row], sizes: dict[int, Size], first: bool) -> str:
    """Every frame is an image, whose id is its number + 1; a lost target has no annotation."""
    images = {row["frame"]: _coco_image(row, sizes) for row in rows}
    found = [row for row in rows if not row["lost"]]
    content = {
        "images": list(images.values()),
        "annotations": [_coco_box(row, number) for number, row in enumerate(found, 1)],
        "categories": [{"id": 1, "name": "target", "supercategory": "target"}],
    }
    return json.dumps(content, indent=1) + "\n"


def _coco_image(row: Row, sizes: dict[int, Size]) -> dict[str, object]:
    frame = int(row["frame"])
    width, height = sizes[frame]
    name = row.get("file", f"{frame:06d}.jpg")  # for a video, the name that its frame would have
    return {
        "id": frame + 1,
        "file_name": name,
        "width": width,
        "height": height,
        "frame": frame,
        "time": row["time"],
    }


def _coco_box(row: Row, number: int) -> dict[str, object]:
    return {
        "id": number,
        "image_id": int(row["frame"]) + 1,
        "category_id": 1,
        "bbox": [row[side] for side in "xywh"],
        "area": round(float(row["w"]) * float(row["h"]), 3),
        "iscrowd": 0,
        "track_id": row.get("target", 1),
        "score": row["score"],
    }


FORMS = {
    ".coco.json": Form(_as_coco, grows=False),
    ".csv": Form(_as_csv, grows=True),
    ".json": Form(_as_json, grows=False),
    ".txt": Form(_as_mot, grows=True),
}


def form_of(path: Path) -> Form:
    """The format for a file's name. Raises ValueError for an unknown ending."""
    for ending, form in FORMS.items():
        if path.name.lower().endswith(ending):
            return form
    endings = ".csv, .json, .txt (MOT) or .coco.json"
    raise ValueError(f"--boxes {path}: give a file name that ends in {endings}")
