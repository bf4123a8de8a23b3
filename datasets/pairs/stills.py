"""Folders of single images, with boxes of targets or without."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rbsf.datasets.video.frames import list_images


def is_stills_folder(root: Path) -> bool:
    """Whether a folder holds single images: it has a boxes.csv, or images but no groundtruth*.txt."""
    if (root / "boxes.csv").is_file():
        return True
    return root.is_dir() and not any(root.glob("groundtruth*.txt")) and bool(list_images(root))


def read_stills(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Images of a folder, in natural order, each with its (K, 4) float64 boxes `x, y, w, h`
    (0-based).

    The boxes are the rows of `boxes.csv` (header `file,x,y,w,h`, further columns ignored). An
    image without rows, or in a folder without that file, has one row of NaN: the whole image is the
    target. Raises ValueError naming file and line for a faulty row and for an image that is listed
    but missing.
    """
    boxes: dict[str, list[list[float]]] = {name: [] for name in list_images(folder)}
    table = folder / "boxes.csv"
    for line, name, box in _read_boxes(table) if table.is_file() else ():
        if name not in boxes:
            raise ValueError(
                f"{table} line {line}: there is no image {name!r} beside it; remove the row"
            )
        boxes[name].append(box)
    whole = [[np.nan] * 4]
    return [
        (folder / name, np.array(rows or whole, dtype=np.float64)) for name, rows in boxes.items()
    ]


def _read_boxes(table: Path) -> Iterator[tuple[int, str, list[float]]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := {"file", "x", "y", "w", "h"} - set(rows.fieldnames or ()):
            raise ValueError(
                f"{table} line 1: no column {', '.join(sorted(missing))}; write file,x,y,w,h"
            )
        for row in rows:
            try:
                box = [float(row[key]) for key in "xywh"]
            except (TypeError, ValueError):
                box = [np.nan]
            if not np.isfinite(box).all():
                raise ValueError(
                    f"{table} line {rows.line_num}: x,y,w,h are not four numbers; correct the row"
                )
            yield rows.line_num, row["file"], box
