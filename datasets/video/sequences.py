"""Annotated sequences, read from the layouts in which tracking data is published.

Boxes are `x, y, w, h` in pixels, counted from 0. OTB and UAV123 count from 1; their boxes are
shifted here, and only here.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.images import list_images, read_image
from rbsf.datasets.video.index import FORMAT, Record, default_cache, load_index, save_index
from rbsf.datasets.video.layouts import Entry, find_entries, otb_name
from rbsf.datasets.video.pixels import are_fractions, misfit
from rbsf.datasets.video.sources import count_frames, read_video_frame
from rbsf.system.files import state_digest
from rbsf.system.text import encode, read_text

COVER, ABSENCE = "cover.label", "absence.label"  # GOT-10k's
LABELS = (COVER, ABSENCE, "full_occlusion.txt", "out_of_view.txt")  # the last two are LaSOT's
_SPAN = r"@(\d+)\+(\d+)$"  # the end of a part's name: first frame and number of frames
MAX_PIXELS = 1e6  # the largest number in an annotation
MIN_INDEXED = 100  # sequences from which an index is kept; fewer are listed quickly


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames and the target's box in each.

    `frames`: image paths, in order; empty if only the boxes are known. `boxes`: `[N, 4]` float64
    `x, y, w, h`; a row of NaN where the target is absent or its box is not published (all but the
    first frame of GOT-10k's test split). `one_based`: the published files, including results, count
    pixels from 1; `boxes` never do.
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
        """Frame `index`, `[H, W, 3]` uint8 RGB.

        Raises ValueError, naming the file, if it cannot be read.
        """
        return read_image(self.frames[index])

    def files(self) -> tuple[str, ...]:
        """The files that hold its frames, in order, each once."""
        return self.frames

    def part(self, first: int, stop: int) -> Sequence:
        """Frames `first` to `stop - 1`, counted from 0, as a sequence of its own.

        Its name has the form `David@60+150`: 150 frames from frame 60 on.
        """
        name = f"{self.name}@{first}+{stop - first}"
        frames, boxes = self.frames[first:stop], self.boxes[first:stop]
        return replace(self, name=name, frames=frames, boxes=boxes)

    def annotated(self) -> np.ndarray:
        """Numbers of the frames whose box is known, in order."""
        return np.flatnonzero(np.isfinite(self.boxes).all(axis=1))

    def head(self, frames: int) -> Sequence:
        """At most `frames` frames from the first one that has a box, as a sequence of its own."""
        first = next(iter(self.annotated()), 0)
        return self.part(first, min(first + frames, len(self)))


def whole_name(name: str) -> str:
    """Name of the whole sequence of a part; a whole sequence's own name."""
    return re.sub(_SPAN, "", name)


def span_of(name: str) -> slice:
    """The frames of its sequence that a part holds, from its name; all for a whole sequence."""
    found = re.search(_SPAN, name)
    if found is None:
        return slice(None)
    first, count = int(found[1]), int(found[2])
    return slice(first, first + count)


class VideoSequence(Sequence):
    """A sequence whose frames lie in one video: frame 12 is named `clip.mp4#12`."""

    def __iter__(self) -> Iterator[np.ndarray]:
        path, _, first = self.frames[0].rpartition("#")
        return islice(open_frames(path), int(first), int(first) + len(self))

    def image(self, index: int) -> np.ndarray:
        """Frame `index`, by a seek, `[H, W, 3]` uint8 RGB.

        Raises ValueError if it cannot be decoded.
        """
        path, _, number = self.frames[index].rpartition("#")
        return read_video_frame(path, int(number))

    def files(self) -> tuple[str, ...]:
        """The video."""
        return (self.frames[0].rpartition("#")[0],)


def read_boxes(path: Path) -> np.ndarray:
    """Read lines of `x, y, w, h` (comma, tab or space between) as `[N, 4]` float64, not shifted.

    A row of NaN is an absent target. So is a row of no area (OTB writes 0,0,0,0), which becomes
    NaN. Raises ValueError, naming file and line, for anything else that is not a box and for
    fractions of the frame, and FileNotFoundError if there is no file.
    """
    lines = _box_lines(path)
    return _parse_boxes(path, lines, np.zeros(len(lines), dtype=bool))


def _box_lines(path: Path) -> list[str]:
    """The lines of an annotation, at least one."""
    if not path.is_file():
        raise FileNotFoundError(f"annotation {path} does not exist")
    lines = read_text(path).strip().splitlines()
    if not lines:
        raise ValueError(f"annotation {path} is empty; give one x,y,w,h line per frame")
    return lines


def _parse_boxes(path: Path, lines: list[str], absent: np.ndarray) -> np.ndarray:
    """Parse boxes as `read_boxes` does. Lines where `absent` `[N]` is true are not read."""
    boxes = np.full((len(lines), 4), np.nan)
    for row in np.flatnonzero(~absent):
        boxes[row] = _parse_box(lines[row], path, int(row) + 1)
    boxes[(boxes[:, 2:] == 0).any(axis=1)] = np.nan
    if np.isnan(boxes[:, 0]).all():
        nowhere = f"the target is absent from all {len(boxes)} frames"
        raise ValueError(f"annotation {path} has no box at all: {nowhere}")
    if are_fractions(boxes):
        row = int(np.isfinite(boxes[:, 0]).argmax())
        fault = "no number is above 1; write x,y,w,h in pixels, not in parts of the frame"
        raise ValueError(f"{_place(path, lines, row)}: {fault}")
    return boxes


def _place(path: Path, lines: list[str], row: int) -> str:
    """File, number and text of a line, for messages."""
    return f"{path} line {row + 1}: {lines[row].strip()!r}"


def _parse_box(line: str, path: Path, number: int) -> list[float]:
    try:
        box = [float(v) for v in line.replace(",", " ").split()]
    except ValueError:
        box = []
    numbers = sum(map(math.isfinite, box))
    all_nan = all(map(math.isnan, box))
    too_large = max(map(abs, box), default=0) > MAX_PIXELS  # such numbers overflow later
    if len(box) != 4 or too_large or (numbers != 4 and not all_nan) or min(box[2:]) < 0:
        advice = "write x,y,w,h in pixels (all nan = absent)"
        raise ValueError(f"{path} line {number}: {line.strip()!r} is not a box; {advice}")
    return box


def _absent(entry: Entry, count: int) -> np.ndarray:
    """Where the labels beside an annotation say that the target is absent, `[N]` bool.

    In such frames the annotation repeats the last box, or has none. `cover.label` says how much of
    the target is seen, from 0 to 8, and decides alone, as in the got10k toolkit; if it is missing,
    the other labels decide.
    """
    absent = np.zeros(count, dtype=bool)
    if not entry.annotation.name.startswith("groundtruth"):  # the folder is not the sequence's own
        return absent
    cover, *others = (entry.annotation.with_name(name) for name in LABELS)
    if cover.is_file():
        return _read_labels(cover, count, highest=8) == 0
    for path in others:
        if path.is_file():
            absent |= _read_labels(path, count, highest=1) == 1
    return absent


def _read_labels(path: Path, count: int, highest: int) -> np.ndarray:
    """Read a label, 0 to `highest`, for each of `count` boxes, `[N]` int64."""
    labels = read_text(path).replace(",", " ").split()
    valid = {str(number) for number in range(highest + 1)}
    if len(labels) != count or not set(labels) <= valid:
        found = f"{len(labels)} labels for {count} boxes"
        raise ValueError(f"{path}: {found}; give one whole number, 0 to {highest}, a frame")
    return np.array(labels, np.int64)


def _frame_number(name: str) -> int:
    """The last number in a file's name without suffix; -1 if there is none."""
    digits = re.findall(r"\d+", Path(name).stem)
    return int(digits[-1]) if digits else -1


def read_entry(entry: Entry) -> Sequence:
    """Read the boxes of an entry and list its frames.

    Raises ValueError if the two do not match in number, or the boxes cannot be pixels of the
    frames, and FileNotFoundError if one is missing.
    """
    if entry.fault:
        raise ValueError(f"sequence {entry.name}: {entry.fault}")
    lines = _box_lines(entry.annotation)
    sequence = _with_frames(entry, lines)
    _check_fit(entry.annotation, lines, sequence)
    return sequence


def _with_frames(entry: Entry, lines: list[str]) -> Sequence:
    """The sequence of an entry, with the boxes in the lines of its annotation."""
    boxes = _parse_boxes(entry.annotation, lines, _absent(entry, len(lines)))
    if entry.one_based:
        boxes[:, :2] -= 1
    if entry.folder.is_file():
        return _read_video_entry(entry, boxes)
    names = _list_frames(entry, len(boxes))
    if entry.first_only and len(boxes) == 1 < len(names):
        not_published = np.full((len(names) - 1, 4), np.nan)
        boxes = np.vstack([boxes, not_published])
    if len(names) != len(boxes) or not names:
        raise ValueError(_mismatch(entry, names, len(boxes)))
    frames = tuple(str(entry.folder / name) for name in names)
    return Sequence(entry.name, frames, boxes, entry.one_based)


def _check_fit(annotation: Path, lines: list[str], sequence: Sequence) -> None:
    """Raise ValueError, naming file and line, if boxes cannot be pixels of a sequence's frames.

    This reads one frame. One that cannot be read is told of later, where it is needed.
    """

    def size_of(index: int) -> tuple[int, int]:
        height, width = sequence.image(index).shape[:2]
        return width, height

    found = None
    with suppress(ValueError, OSError):
        found = misfit(sequence.boxes, size_of)
    if found:
        row, fault = found
        raise ValueError(f"{_place(annotation, lines, row)} {fault}")


def _list_frames(entry: Entry, count: int) -> list[str]:
    """Names of the image files that belong to an entry's annotation of `count` boxes.

    They are the files in the entry's span. A copy of the dataset may hold only these files, with
    new numbers; then they are all files.
    """
    if not entry.folder.is_dir():
        missing = f"folder of frames {entry.folder} does not exist"
        raise FileNotFoundError(f"sequence {entry.name}: {missing}")
    names = list_images(entry.folder)
    if entry.span is None:
        return names
    first, last = entry.span
    inside = [name for name in names if first <= _frame_number(name) <= last]
    numbers = list(map(_frame_number, names))
    without_gaps = numbers == list(range(numbers[0], numbers[0] + count)) if names else False
    return names if without_gaps and len(inside) != count else inside


def _read_video_entry(entry: Entry, boxes: np.ndarray) -> VideoSequence:
    count = open_frames(entry.folder).count
    if count is not None and count != len(boxes):
        count = count_frames(entry.folder)  # slow but exact; the header's count is an estimate
        if count != len(boxes):
            raise ValueError(_counts(entry, count, len(boxes)))
    frames = tuple(f"{entry.folder}#{i}" for i in range(len(boxes)))
    return VideoSequence(entry.name, frames, boxes)


def _counts(entry: Entry, frames: int, boxes: int) -> str:
    found = f"{frames} frames in {entry.folder} but {boxes} boxes in {entry.annotation}"
    return f"sequence {entry.name}: {found}"


def _mismatch(entry: Entry, names: list[str], boxes: int) -> str:
    """Say how frames and boxes differ in number, and which frames seem to be missing."""
    text = _counts(entry, len(names), boxes)
    numbers = [_frame_number(name) for name in names]
    gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
    if 0 < len(gaps) <= len(names):
        text += f"; frame number {gaps[0]} is missing"
        if len(gaps) > 1:
            text += f" (and {len(gaps) - 1} more)"
    return f"{text}; restore the missing files or leave the sequence out"


def load_sequences(
    root: str | Path,
    layout: str | None = None,
    names: Iterable[str] | None = None,
    broken: dict[str, str] | None = None,
) -> list[Sequence]:
    """Read the annotated sequences under `root`, in the order of the dataset.

    `layout` is a key of `rbsf.datasets.video.layouts.LAYOUTS` (None: the first that fits). With
    `names`, only those sequences are read. An index of a large dataset is kept in the folder
    `rbsf.datasets.video.index.default_cache` until the dataset changes. Raises ValueError
    (FileNotFoundError for a missing file) if `root` has no known layout, a name is missing, or a
    sequence's frames and boxes do not match. With `broken`, such a sequence is left out instead,
    and noted there as `{name: what is wrong}`.
    """
    root = Path(root)
    entries = _select(find_entries(root, layout), names, root)
    if len(entries) < MIN_INDEXED or os.path.isfile(entries[0].folder):
        return _read_entries(entries, broken)
    return _load_indexed(entries, root, broken)


def check_broken(reasons: list[str], skip: bool) -> None:
    """Raise ValueError that says what is wrong with broken sequences.

    With `skip`, warn of each instead.
    """
    if reasons and not skip:
        said = "; ".join(reasons[:5])
        if len(reasons) > 5:
            said += f"; and {len(reasons) - 5} more"
        advice = "mend them, or leave them out by --skip-broken"
        raise ValueError(f"broken sequences: {len(reasons)}: {said}; {advice}")
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
    entries: list[Entry], root: Path, broken: dict[str, str] | None
) -> list[Sequence]:
    """Read entries from their index; if it is missing or outdated, read them and make one."""
    sources = [(repr(entry), _sources(entry)) for entry in entries]
    key = state_digest([(FORMAT, []), *sources])
    text = f"{root.resolve()} {[entry.name for entry in entries]}"
    path = default_cache() / f"sequences-{hashlib.sha256(encode(text)).hexdigest()[:16]}.npz"
    records = load_index(path, key)
    if records is not None:
        return list(map(_from_record, records, entries))
    sequences = _read_entries(tqdm(entries, desc=f"listing {root}", unit="sequence"), broken)
    if len(sequences) == len(entries):  # otherwise the broken ones must be read again next time
        save_index(path, key, list(map(_to_record, sequences)))
    return sequences


def _sources(entry: Entry) -> list[Path]:
    """The files and folders that an entry is read from, whether they are there or not."""
    labels = [entry.annotation.with_name(name) for name in LABELS]
    return [entry.folder, entry.annotation, *labels]


def _to_record(sequence: Sequence) -> Record:
    return Record([Path(frame).name for frame in sequence.frames], sequence.boxes)


def _from_record(record: Record, entry: Entry) -> Sequence:
    frames = tuple(os.path.join(entry.folder, file) for file in record.files)
    return Sequence(entry.name, frames, record.boxes, entry.one_based)


def _select(entries: list[Entry], names: Iterable[str] | None, root: Path) -> list[Entry]:
    if names is None:
        return entries
    known = {otb_name(entry.name): entry for entry in entries}
    wanted = [otb_name(name) for name in names]
    has = f"it has {len(entries)}: {', '.join(list(known)[:5])} ..."
    if not wanted:
        raise ValueError(f"dataset {root} was asked for an empty list of sequences; {has}")
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(f"dataset {root} has no sequence {missing[0]!r}; {has}")
    return [known[name] for name in wanted]
