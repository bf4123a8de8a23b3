"""Folders of single images, with boxes of targets or without."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rbsf.datasets.video.images import list_images
from rbsf.datasets.video.layouts import holds_sequences, is_video, warn_of_data
from rbsf.datasets.video.sequences import MAX_PIXELS
from rbsf.system.text import listed, read_text


def is_stills_folder(root: Path) -> bool:
    """Whether a folder has a boxes.csv, or images but no sequences.

    Raises ValueError for a `list.txt` that names nothing, or several splits of a data set.
    """
    if (root / "boxes.csv").is_file():
        return True
    return bool(_loose_images(root)) and not holds_sequences(root)


def _loose_images(root: Path) -> list[str]:
    """Names of the images in a folder, but for those of a sequence, which are its frames."""
    if not root.is_dir() or any(root.glob("groundtruth*.txt")):
        return []
    return list_images(root)


def warn_of_images(root: Path) -> None:
    """Warn of images beside the sequences in `root`, since they are left out."""
    names = _loose_images(root)
    if names:
        left_out = f"{len(names)} images beside its sequences are left out: {listed(names)}"
        warnings.warn(f"{root}: {left_out}; to use them, give them a folder", stacklevel=2)


def read_stills(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Read a folder's images, in natural order, each with its boxes.

    Boxes are `[K, 4]` float64, `x, y, w, h`, from 0: the rows of `boxes.csv` (header
    `file,x,y,w,h`, further columns ignored). An image without rows, or in a folder without that
    file, has one row of NaN: the whole image is the target. A warning names such images if there is
    a `boxes.csv`, and another the folders and videos beside the images that look like data. Raises
    ValueError, naming file and line, for a faulty row and for an image that is listed but missing.
    """
    others = [path for path in folder.iterdir() if path.is_dir() or is_video(path)]
    warn_of_data(folder, others, "images")
    boxes: dict[str, list[list[float]]] = {name: [] for name in list_images(folder)}
    table = folder / "boxes.csv"
    if table.is_file():
        for line, name, box in _read_boxes(table):
            if name not in boxes:
                fault = f"there is no image {name!r} beside it"
                raise ValueError(f"{table} line {line}: {fault}; remove the row")
            boxes[name].append(box)
        _warn_of_whole_images(table, [name for name, rows in boxes.items() if not rows])
    whole = [[np.nan] * 4]
    return [(folder / name, np.array(rows or whole, float)) for name, rows in boxes.items()]


def _read_boxes(table: Path) -> Iterator[tuple[int, str, list[float]]]:
    """Yield each row's line number, image and box."""
    rows = csv.DictReader(io.StringIO(read_text(table), newline=""))
    try:
        names = list(rows.fieldnames or ())
        missing = sorted({"file", "x", "y", "w", "h"} - set(names))
        if missing:
            raise ValueError(f"{table} line 1: no column {', '.join(missing)}; write file,x,y,w,h")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{table} line 1: the column {twice} is there twice; remove one")
        for row in rows:
            if None in row:  # DictReader puts further fields there
                fault = f"it has more fields than the {len(names)} columns of line 1"
                raise ValueError(f"{table} line {rows.line_num}: {fault}; correct the row")
            box = _parse_numbers(row)
            if box is None:
                fault = f"x,y,w,h are not four numbers up to {MAX_PIXELS:.0f}"
                raise ValueError(f"{table} line {rows.line_num}: {fault}; correct the row")
            yield rows.line_num, row["file"], box
    except csv.Error as error:
        raise ValueError(f"{table} line {rows.line_num}: {error}; correct the row") from None


def _warn_of_whole_images(table: Path, names: list[str]) -> None:
    if names:
        fault = (
            f"{len(names)} images have no row, such as {names[0]}: each is one target as a whole"
        )
        warnings.warn(f"{table}: {fault}", stacklevel=2)


def _parse_numbers(row: dict[str, str]) -> list[float] | None:
    try:
        box = [float(row[key]) for key in "xywh"]
    except (TypeError, ValueError):
        return None
    return box if all(abs(number) <= MAX_PIXELS for number in box) else None
