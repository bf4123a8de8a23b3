"""Annotated sequences, read from the layouts in which tracking data is published.

Boxes are ``x, y, w, h`` in pixels, 0-based; OTB and UAV123 count from 1 and are shifted here, and only here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datasets.frames import list_images, natural_key, read_image


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames and the target's box in each.

    ``frames``: image paths, in order. ``boxes``: (N, 4) float64; a row of NaN where the target is absent or (all but
    the first frame of GOT-10k's test split) its box is not published.
    """

    name: str
    frames: tuple[str, ...]
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.image(i) for i in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        """Frame ``index`` as H x W x 3 uint8 RGB; raises ValueError, naming the file, where it cannot be read."""
        return read_image(self.frames[index])


@dataclass(frozen=True)
class Entry:
    """Where one sequence lies: what a layout finds before any frame or box is read."""

    name: str
    folder: Path
    annotation: Path
    span: tuple[int, int] | None = None  # first and last frame number that the annotation is for; None: all
    one_based: bool = False
    first_only: bool = False  # an annotation of the first frame alone is whole


def read_boxes(path: Path) -> np.ndarray:
    """Read ``x, y, w, h`` lines (comma, tab or space) as (N, 4) float64, not shifted.

    A row of NaN, and one of no area (OTB writes 0,0,0,0), is an absent target and becomes NaN. Raises ValueError,
    naming file and line, for anything else that is not a box.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotation {path} does not exist")
    lines = path.read_text().strip().splitlines()
    if not lines:
        raise ValueError(f"annotation {path} is empty; give one x,y,w,h line per frame")
    boxes = np.array([_parse_box(line, path, number) for number, line in enumerate(lines, 1)])
    boxes[(boxes[:, 2:] == 0).any(axis=1)] = np.nan
    if np.isnan(boxes[:, 0]).all():
        raise ValueError(f"annotation {path} has no box at all: the target is absent from all {len(boxes)} frames")
    return boxes


def _parse_box(line: str, path: Path, number: int) -> list[float]:
    try:
        box = [float(v) for v in line.replace(",", " ").split()]
    except ValueError:
        box = []
    absent = sum(v != v for v in box)
    if len(box) != 4 or absent not in (0, 4) or float("inf") in map(abs, box) or min(box[2:]) < 0:
        raise ValueError(f"{path} line {number}: {line.strip()!r} is not a box; write x,y,w,h in pixels (all nan = absent)")
    return box


def _absent(entry: Entry, count: int) -> np.ndarray:
    """GOT-10k's annotation repeats the last box while the target is gone; ``absence.label`` says where. (N,) bool."""
    path = entry.annotation.with_name("absence.label")
    if not path.is_file():
        return np.zeros(count, dtype=bool)
    labels = path.read_text().split()
    if len(labels) != count or not set(labels) <= {"0", "1"}:
        raise ValueError(f"{path}: {len(labels)} labels for {count} boxes; give one 0 or 1 per frame")
    return np.array(labels) == "1"


def _frame_number(name: str) -> int:
    digits = re.findall(r"\d+", Path(name).stem)
    return int(digits[-1]) if digits else -1


def read_entry(entry: Entry) -> Sequence:
    """Read the boxes of an entry and list its frames; raises ValueError where the two do not match."""
    boxes = read_boxes(entry.annotation)
    boxes[_absent(entry, len(boxes))] = np.nan
    if entry.one_based:
        boxes[:, :2] -= 1
    if not entry.folder.is_dir():
        raise FileNotFoundError(f"sequence {entry.name}: folder of frames {entry.folder} does not exist")
    names = list_images(entry.folder)
    if entry.span:
        first, last = entry.span
        names = [n for n in names if first <= _frame_number(n) <= last]
    if entry.first_only and len(boxes) == 1 < len(names):
        boxes = np.vstack([boxes, np.full((len(names) - 1, 4), np.nan)])
    if len(names) != len(boxes) or not names:
        raise ValueError(_mismatch(entry, names, len(boxes)))
    return Sequence(entry.name, tuple(str(entry.folder / n) for n in names), boxes)


def _mismatch(entry: Entry, names: list[str], boxes: int) -> str:
    text = f"sequence {entry.name}: {len(names)} frames in {entry.folder} but {boxes} boxes in {entry.annotation}"
    numbers = [_frame_number(n) for n in names]
    gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    if 0 < len(gaps) <= len(names):
        text += f"; frame number {gaps[0]} is missing" + (f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else "")
    return text + "; restore the missing files or leave the sequence out"


SPLITS = ("train", "val", "test")
# Frames that OTB's annotations are for, where the folder holds more (OTB web page).
OTB_SPANS = {
    "David": (300, 770),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Diving": (1, 215),
}
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


def _folders(root: Path, annotation: str) -> list[Path]:
    """``root`` itself where it is one sequence, else its folders, that hold a file matching ``annotation``."""
    if any(root.glob(annotation)):
        return [root]
    folders = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name))
    return [f for f in folders if any(f.glob(annotation))]


def find_got10k(root: Path) -> list[Entry]:
    """GOT-10k split: ``list.txt`` and ``NAME/00000001.jpg ...`` with ``NAME/groundtruth.txt``; 0-based as read."""
    listing = root / "list.txt"
    splits = [s for s in SPLITS if (root / s / "list.txt").is_file()]
    if not listing.is_file() and splits:
        if len(splits) > 1:
            raise ValueError(f"{root} holds the splits {', '.join(splits)}; choose one, for example {root / splits[0]}")
        return find_got10k(root / splits[0])
    if listing.is_file():
        names = listing.read_text().split()
        if not names:
            raise ValueError(f"{listing} is empty; it must name one sequence folder per line")
        folders = [root / name for name in names]
    else:
        folders = [f for f in _folders(root, "groundtruth.txt") if not (f / "img").is_dir()]
    return [Entry(f.name, f, f / "groundtruth.txt", first_only=True) for f in folders]


def otb_name(name: str) -> str:
    """Name of a target where a folder holds two: ``Jogging-1`` and ``Jogging.1`` are both ``Jogging.1``."""
    return re.sub(r"-(\d)$", r".\1", name)


def find_otb(root: Path) -> list[Entry]:
    """OTB: ``NAME/img/0001.jpg ...`` and ``NAME/groundtruth_rect.txt`` (``.1.txt``, ``.2.txt``: two targets); 1-based."""
    entries = []
    for folder in _folders(root, "groundtruth*.txt"):
        if not (folder / "img").is_dir():
            continue
        for annotation in sorted(folder.glob("groundtruth*.txt")):
            if not annotation.read_text().strip() and "." in annotation.stem:
                continue  # OTB ships Human4/groundtruth_rect.1.txt empty: only its second target counts
            target = "".join(re.findall(r"\.\d$", annotation.stem))
            span = OTB_SPANS.get(folder.name)
            entries.append(Entry(otb_name(folder.name) + target, folder / "img", annotation, span, one_based=True))
    return entries


def find_uav123(root: Path, version: str = "UAV123") -> list[Entry]:
    """UAV123: ``anno/UAV123/NAME.txt`` and ``data_seq/UAV123/FOLDER/000001.jpg ...`` (or both ``UAV123_10fps``); 1-based."""
    if version == "UAV123" and not (root / "anno" / version).is_dir():
        version = "UAV123_10fps"
    frames = root / "data_seq" / (version if version.endswith("fps") else "UAV123")
    spans = _uav123_spans("UAV123" if version.endswith("fps") else version)
    step = 3 if version.endswith("fps") else 1  # 10 fps keeps frames 1, 4, 7, ... and numbers them anew
    entries = []
    for annotation in sorted((root / "anno" / version).glob("*.txt"), key=lambda f: natural_key(f.name)):
        name = annotation.stem
        folder, first, last = spans.get(name, (name, 1, 10**9))
        span = ((first - 1) // step + 1, (last - 1) // step + 1)
        entries.append(Entry(name, frames / folder, annotation, span, one_based=True))
    return entries


def _uav123_spans(version: str) -> dict[str, tuple[str, int, int]]:
    """Folder, first and last frame of each sequence: several are cut from one folder. Table of the got10k toolkit."""
    toolkit = find_spec("got10k")
    if toolkit is None or not toolkit.submodule_search_locations:
        raise ValueError("reading UAV123 needs the got10k package (frame ranges); type: pip install got10k==0.1.3")
    table = Path(toolkit.submodule_search_locations[0]) / "datasets" / "uav123.json"
    metas = json.loads(table.read_text())[version]
    return {name: (m["folder_name"], m["start_frame"], m["end_frame"]) for name, m in metas.items()}


def find_uav20l(root: Path) -> list[Entry]:
    """The long sequences of UAV123: ``anno/UAV20L`` beside ``anno/UAV123``; only on request."""
    return find_uav123(root, "UAV20L")


LAYOUTS: dict[str, Callable[[Path], list[Entry]]] = {
    "got10k": find_got10k,
    "otb": find_otb,
    "uav123": find_uav123,
    "uav20l": find_uav20l,
}


def load_sequences(
    root: str | Path,
    layout: str | None = None,
    names: Iterable[str] | None = None,
) -> list[Sequence]:
    """Read the annotated sequences under ``root``, in the order of the dataset.

    ``layout`` is a key of ``LAYOUTS`` (None: found out); ``names`` keeps only those sequences. Raises ValueError where
    ``root`` has no known layout, a name is not there, or frames and boxes of a sequence do not match.
    """
    root = Path(root)
    entries = _select(find_entries(root, layout), names, root)
    return [read_entry(entry) for entry in entries]


def find_entries(root: Path, layout: str | None = None) -> list[Entry]:
    """Entries of every sequence under ``root``; raises ValueError that says what was looked for and what is there."""
    if not root.exists():
        raise FileNotFoundError(f"dataset {root} does not exist")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; choose from {', '.join(LAYOUTS)}")
    tried = [layout] if layout else list(LAYOUTS)
    for name in tried:
        if root.is_dir() and (entries := LAYOUTS[name](root)):
            return entries
    raise ValueError(f"no sequences found in {root}; looked for " + " or ".join(tried))


def _select(entries: list[Entry], names: Iterable[str] | None, root: Path) -> list[Entry]:
    if names is None:
        return entries
    known = {otb_name(entry.name): entry for entry in entries}
    wanted = [otb_name(name) for name in names]
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        what = f"has no sequence {missing[0]!r}" if missing else "was asked for an empty list of sequences"
        raise ValueError(f"dataset {root} {what}; it has {len(entries)}: {', '.join(list(known)[:5])} ...")
    return [known[name] for name in wanted]
