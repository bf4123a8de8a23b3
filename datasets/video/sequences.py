"""Annotated sequences, read from the layouts in which tracking data is published.

Boxes are `x, y, w, h` in pixels, 0-based; OTB and UAV123 count from 1 and are shifted here, and
only here.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.frames import list_images, open_frames, read_image
from rbsf.datasets.video.index import Record, default_cache, fingerprint, load_index, save_index
from rbsf.datasets.video.layouts import Entry, find_entries, otb_name
from rbsf.datasets.video.sources import count_frames, read_video_frame

COVER, ABSENCE = "cover.label", "absence.label"
_SPAN = r"@(\d+)\+(\d+)$"  # at the end of a part's name
MIN_INDEXED = 100  # sequences from which an index is kept; fewer are listed in no time


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames and the target's box in each.

    `frames`: image paths, in order; empty where only the boxes are at hand. `boxes`: (N, 4)
    float64; a row of NaN where the target is absent or (all but the first frame of GOT-10k's test
    split) its box is not published. `one_based`: the published files, results too, count pixels
    from 1; `boxes` never do.
    """

    name: str
    frames: tuple[str, ...]
    boxes: np.ndarray
    one_based: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.image(i) for i in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        """Frame `index` as H x W x 3 uint8 RGB; raises ValueError, naming the file, where it
        cannot be read.
        """
        return read_image(self.frames[index])

    def files(self) -> tuple[str, ...]:
        """The files that its frames lie in, in order, each once."""
        return self.frames

    def part(self, first: int, stop: int) -> Sequence:
        """Frames `first` to `stop - 1`, counted from 0, as a sequence of its own:
        `David@60+150` has 150.
        """
        name = f"{self.name}@{first}+{stop - first}"
        return replace(
            self, name=name, frames=self.frames[first:stop], boxes=self.boxes[first:stop]
        )


def whole_name(name: str) -> str:
    """Name of the sequence that a part is of; of a whole one its own."""
    return re.sub(_SPAN, "", name)


def span_of(name: str) -> slice:
    """The frames of its sequence that a part has, by its name; of a whole one all."""
    found = re.search(_SPAN, name)
    return slice(int(found[1]), int(found[1]) + int(found[2])) if found else slice(None)


class VideoSequence(Sequence):
    """A sequence whose frames lie in one video: frame 12 is named `clip.mp4#12`."""

    def __iter__(self) -> Iterator[np.ndarray]:
        path, _, first = self.frames[0].rpartition("#")
        return islice(open_frames(path), int(first), int(first) + len(self))

    def image(self, index: int) -> np.ndarray:
        """Frame `index` as H x W x 3 uint8 RGB, by a seek; raises ValueError where it cannot be
        decoded.
        """
        path, _, number = self.frames[index].rpartition("#")
        return read_video_frame(path, int(number))

    def files(self) -> tuple[str, ...]:
        """The video."""
        return (self.frames[0].rpartition("#")[0],)


def read_boxes(path: Path) -> np.ndarray:
    """Read `x, y, w, h` lines (comma, tab or space) as (N, 4) float64, not shifted.

    A row of NaN, and one of no area (OTB writes 0,0,0,0), is an absent target and becomes NaN.
    Raises ValueError, naming file and line, for anything else that is not a box.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotation {path} does not exist")
    lines = (
        path.read_text(encoding="utf-8-sig").strip().splitlines()
    )  # some editors put a mark first
    if not lines:
        raise ValueError(f"annotation {path} is empty; give one x,y,w,h line per frame")
    boxes = np.array([_parse_box(line, path, number) for number, line in enumerate(lines, 1)])
    boxes[(boxes[:, 2:] == 0).any(axis=1)] = np.nan
    if np.isnan(boxes[:, 0]).all():
        raise ValueError(
            f"annotation {path} has no box at all: the target is absent from all {len(boxes)} frames"
        )
    return boxes


def _parse_box(line: str, path: Path, number: int) -> list[float]:
    try:
        box = [float(v) for v in line.replace(",", " ").split()]
    except ValueError:
        box = []
    absent = sum(v != v for v in box)
    if len(box) != 4 or absent not in (0, 4) or float("inf") in map(abs, box) or min(box[2:]) < 0:
        raise ValueError(
            f"{path} line {number}: {line.strip()!r} is not a box; write x,y,w,h in pixels (all nan = absent)"
        )
    return box


def _absent(entry: Entry, count: int) -> np.ndarray:
    """Where the target of a GOT-10k sequence is absent, though its annotation repeats the last box:
    (N,) bool.

    `cover.label`, how much of it is seen from 0 to 8, decides as in the got10k toolkit; else
    `absence.label`.
    """
    for name, absent, valid in ((COVER, "0", set("012345678")), (ABSENCE, "1", set("01"))):
        path = entry.annotation.with_name(name)
        if path.is_file():
            labels = path.read_text().split()
            if len(labels) != count or not set(labels) <= valid:
                raise ValueError(
                    f"{path}: {len(labels)} labels for {count} boxes; give one whole number, 0 to {max(valid)}, a frame"
                )
            return np.array(labels) == absent
    return np.zeros(count, dtype=bool)


def _frame_number(name: str) -> int:
    digits = re.findall(r"\d+", Path(name).stem)
    return int(digits[-1]) if digits else -1


def read_entry(entry: Entry) -> Sequence:
    """Read the boxes of an entry and list its frames; raises ValueError where the two do not match."""
    boxes = read_boxes(entry.annotation)
    boxes[_absent(entry, len(boxes))] = np.nan
    if entry.one_based:
        boxes[:, :2] -= 1
    if entry.folder.is_file():
        return _read_video_entry(entry, boxes)
    if not entry.folder.is_dir():
        raise FileNotFoundError(
            f"sequence {entry.name}: folder of frames {entry.folder} does not exist"
        )
    names = list_images(entry.folder)
    if entry.span:
        first, last = entry.span
        names = [n for n in names if first <= _frame_number(n) <= last]
    if entry.first_only and len(boxes) == 1 < len(names):
        boxes = np.vstack([boxes, np.full((len(names) - 1, 4), np.nan)])
    if len(names) != len(boxes) or not names:
        raise ValueError(_mismatch(entry, names, len(boxes)))
    return Sequence(entry.name, tuple(str(entry.folder / n) for n in names), boxes, entry.one_based)


def _read_video_entry(entry: Entry, boxes: np.ndarray) -> VideoSequence:
    count = open_frames(entry.folder).count
    if count is not None and count != len(
        boxes
    ):  # headers estimate: only then is it worth decoding all
        count = count_frames(entry.folder)
    if count is not None and count != len(boxes):
        raise ValueError(
            f"sequence {entry.name}: {count} frames in {entry.folder} but {len(boxes)} boxes in {entry.annotation}"
        )
    return VideoSequence(entry.name, tuple(f"{entry.folder}#{i}" for i in range(len(boxes))), boxes)


def _mismatch(entry: Entry, names: list[str], boxes: int) -> str:
    text = f"sequence {entry.name}: {len(names)} frames in {entry.folder} but {boxes} boxes in {entry.annotation}"
    numbers = [_frame_number(n) for n in names]
    gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    if 0 < len(gaps) <= len(names):
        text += f"; frame number {gaps[0]} is missing" + (
            f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        )
    return text + "; restore the missing files or leave the sequence out"


def load_sequences(
    root: str | Path,
    layout: str | None = None,
    names: Iterable[str] | None = None,
    cache_dir: str | Path | None = None,
    broken: dict[str, str] | None = None,
) -> list[Sequence]:
    """Read the annotated sequences under `root`, in the order of the dataset.

    `layout` is a key of `rbsf.datasets.video.layouts.LAYOUTS` (None: found out); `names`
    keeps only those sequences. What is found in a large dataset is kept in `cache_dir` (default:
    `rbsf.datasets.video.index.default_cache`) until the dataset changes. Raises ValueError
    (FileNotFoundError for a missing file) where `root` has no known layout, a name is not there,
    or frames and boxes of a sequence do not match; given `broken`, such a sequence is left out
    and put there as {name: what is wrong}.
    """
    root = Path(root)
    entries = _select(find_entries(root, layout), names, root)
    if len(entries) < MIN_INDEXED or entries[0].folder.is_file():
        return _read_entries(entries, broken)
    return _load_indexed(entries, root, Path(cache_dir) if cache_dir else default_cache(), broken)


def check_broken(reasons: list[str], skip: bool) -> None:
    """Raise ValueError that says what is wrong with broken sequences; with `skip` warn of each
    instead.
    """
    if reasons and not skip:
        said = "; ".join(reasons[:5]) + f"; and {len(reasons) - 5} more" * (len(reasons) > 5)
        raise ValueError(
            f"broken sequences: {len(reasons)}: {said}; mend them, or leave them out by --skip-broken"
        )
    for reason in reasons:
        tqdm.write(f"warning: left out: {reason}", file=sys.stderr)


def _read_entries(entries: Iterable[Entry], broken: dict[str, str] | None) -> list[Sequence]:
    sequences = []
    for entry in entries:
        try:
            sequences.append(read_entry(entry))
        except (ValueError, OSError) as error:
            if broken is None:
                raise
            broken[entry.name] = str(error)
    return sequences


def _load_indexed(
    entries: list[Entry], root: Path, cache_dir: Path, broken: dict[str, str] | None
) -> list[Sequence]:
    labels = (COVER, ABSENCE)
    sources = (
        (repr(e), [e.folder, e.annotation, *(e.annotation.with_name(label) for label in labels)])
        for e in entries
    )
    key = fingerprint(sources)
    label = hashlib.sha256(f"{root.resolve()} {[e.name for e in entries]}".encode()).hexdigest()[
        :16
    ]
    path = cache_dir / f"sequences-{label}.npz"
    records = load_index(path, key)
    if records is None:
        read = _read_entries(tqdm(entries, desc=f"listing {root}", unit="sequence"), broken)
        if len(read) == len(entries):  # what is broken is looked at again next time
            records = [
                Record(e.name, str(e.folder), [Path(f).name for f in s.frames], s.boxes)
                for e, s in zip(entries, read, strict=True)
            ]
            save_index(path, key, records)
        return read
    return [
        Sequence(r.name, tuple(os.path.join(r.folder, f) for f in r.files), r.boxes, e.one_based)
        for r, e in zip(records, entries, strict=True)
    ]


def _select(entries: list[Entry], names: Iterable[str] | None, root: Path) -> list[Entry]:
    if names is None:
        return entries
    known = {otb_name(entry.name): entry for entry in entries}
    wanted = [otb_name(name) for name in names]
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        what = (
            f"has no sequence {missing[0]!r}"
            if missing
            else "was asked for an empty list of sequences"
        )
        raise ValueError(
            f"dataset {root} {what}; it has {len(entries)}: {', '.join(list(known)[:5])} ..."
        )
    return [known[name] for name in wanted]
