"""Find the sequences of published tracking datasets: where their frames and boxes lie.

This module only looks at names; `rbsf.datasets.video.sequences` reads the files.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rbsf.datasets.video.frames import VIDEO_SUFFIXES
from rbsf.datasets.video.images import encodable, list_images, natural_key
from rbsf.system.text import listed, printable, read_text

SPLITS = ("train", "val", "test")
# First and last annotated frame of OTB's sequences whose folder holds more (OTB's web page).
OTB_SPANS = {
    "David": (300, 770),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Diving": (1, 215),
}
TWO_TARGETS = re.compile(r"(Human4|Jogging|Skating2)[-_.](\d)")  # in OTB
BOX = re.compile(rb"[\d.]+([,\s]+[\d.]+){3}\s")  # a line of an annotation
OTB_ANNOTATION = re.compile(r"groundtruth(_rect)?(\.\d)?\.txt")  # LaSOT's have no `_rect`


@dataclass(frozen=True)
class Entry:
    """Where one sequence lies, as found before any frame or box is read.

    `folder` has the frames, or is the video file that has them. `span`: numbers of the first and
    last frame that the annotation is for (None: all). `one_based`: the annotation counts pixels
    from 1. `first_only`: an annotation of the first frame alone is complete. `fault`: why the
    sequence cannot be read, if its name alone shows that.
    """

    name: str
    folder: Path
    annotation: Path
    span: tuple[int, int] | None = None
    one_based: bool = False
    first_only: bool = False
    fault: str = ""


def _in_natural_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(path.name))


def _folders(root: Path, annotation: str) -> list[Path]:
    """The folders with a file that matches `annotation`: `root` alone, or those in it."""
    if any(root.glob(annotation)):
        return [root]
    folders = _in_natural_order(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    return [folder for folder in folders if any(folder.glob(annotation))]


def find_got10k(root: Path) -> list[Entry]:
    """Find the sequences of a GOT-10k split, whose boxes are taken as 0-based.

    It has `list.txt`, and `NAME/00000001.jpg ...` with `NAME/groundtruth.txt`. Sequences named
    `GOT-10k_Test_...` may have the box of the first frame alone.
    """
    listing = root / "list.txt"
    if listing.is_file():
        folders = _listed_folders(listing)
    else:
        splits = [split for split in SPLITS if (root / split / "list.txt").is_file()]
        if len(splits) > 1:
            advice = f"choose one, for example {root / splits[0]}"
            raise ValueError(f"{root} holds the splits {', '.join(splits)}; {advice}")
        if splits:
            return find_got10k(root / splits[0])
        folders = [f for f in _folders(root, "groundtruth.txt") if not (f / "img").is_dir()]
    return [
        Entry(f.name, f, f / "groundtruth.txt", first_only=f.name.startswith("GOT-10k_Test_"))
        for f in folders
    ]


def _listed_folders(listing: Path) -> list[Path]:
    """The folders that a `list.txt` names. Raises ValueError if it names none."""
    lines = read_text(listing).splitlines()
    folders = [listing.parent / line.strip() for line in lines if line.strip()]
    if not folders:
        raise ValueError(f"{listing} is empty; it must name one sequence folder per line")
    return folders


def otb_name(name: str) -> str:
    """The got10k toolkit's name for a target of OTB; other names stay unchanged.

    `Jogging-1` and `Jogging_1` are `Jogging.1`. Human4's second target, the only one with boxes, is
    `Human4`.
    """
    found = TWO_TARGETS.fullmatch(name)
    name = f"{found[1]}.{found[2]}" if found else name
    return "Human4" if name == "Human4.2" else name


def find_otb(root: Path) -> list[Entry]:
    """Find the sequences of OTB and LaSOT, 1-based.

    They have `NAME/img/0001.jpg` and `NAME/groundtruth_rect.txt` (LaSOT: `groundtruth.txt`); if
    there are two targets, `NAME/groundtruth_rect.1.txt` and `.2.txt`.
    """
    entries = []
    for folder in _folders(root, "groundtruth*.txt"):
        if (folder / "img").is_dir():
            entries += [_otb_entry(folder, path) for path in _otb_annotations(folder)]
        elif any(folder.glob("groundtruth_rect*.txt")):
            warnings.warn(f"{folder}: left out, it has boxes but no folder img", stacklevel=2)
    return entries


def _otb_annotations(folder: Path) -> list[Path]:
    """The annotations of a folder: those that are named as published, else any `groundtruth*.txt`.

    Warns of others beside those, such as an older version.
    """
    found = sorted(path for path in folder.glob("groundtruth*.txt") if not _is_blank(path))
    taken = [path for path in found if OTB_ANNOTATION.fullmatch(path.name)] or found
    others = [path.name for path in found if path not in taken]
    if others:
        warnings.warn(
            f"{folder}: boxes are read from {taken[0].name}; left out: {', '.join(others)}",
            stacklevel=2,
        )
    return taken


def _is_blank(annotation: Path) -> bool:
    """Whether one of two targets has no boxes: OTB's file for Human4's first target is empty."""
    return "." in annotation.stem and not annotation.read_bytes().strip()


def _otb_entry(folder: Path, annotation: Path) -> Entry:
    target = "".join(re.findall(r"\.\d$", annotation.stem))  # such as ".1", or nothing
    span = OTB_SPANS.get(folder.name)
    return Entry(otb_name(folder.name + target), folder / "img", annotation, span, one_based=True)


def find_uav123(root: Path, version: str = "UAV123") -> list[Entry]:
    """Find the sequences of UAV123, 1-based.

    They have `anno/UAV123/NAME.txt` and `data_seq/UAV123/FOLDER/` (or `UAV123_10fps` in both).
    Without an `anno` folder, they are searched for in OTB's layout, in which tracking toolkits
    distribute them.
    """
    if not (root / "anno").is_dir():
        return find_otb(root)
    if version == "UAV123" and is_uav123_10fps(root):
        version = "UAV123_10fps"
    if version.endswith("fps"):
        frames, spans = root / "data_seq" / version, uav123_spans("UAV123")
        step = 3  # at 10 frames per second frames 1, 4, 7, ... are kept, and numbered anew
    else:
        frames, spans = root / "data_seq" / "UAV123", uav123_spans(version)
        step = 1
    entries = []
    for annotation in _in_natural_order((root / "anno" / version).glob("[!.]*.txt")):
        name = annotation.stem
        folder, first, last = spans.get(name, (name, 1, 10**9))
        span = ((first - 1) // step + 1, (last - 1) // step + 1)
        entries.append(Entry(name, frames / folder, annotation, span, one_based=True))
    return entries


def is_uav123_10fps(root: Path) -> bool:
    """Whether `root` holds UAV123 at 10 frames a second (a separate benchmark), but not at 30."""
    return (root / "anno" / "UAV123_10fps").is_dir() and not (root / "anno" / "UAV123").is_dir()


def uav123_spans(version: str) -> dict[str, tuple[str, int, int]]:
    """Folder, first and last frame of each sequence of "UAV123" or "UAV20L", by name.

    Several sequences are cut from one folder. The table is the got10k toolkit's. Raises ValueError
    if the toolkit is not installed.
    """
    toolkit = find_spec("got10k")
    if toolkit is None or not toolkit.submodule_search_locations:
        needed = "reading UAV123 needs the got10k package (frame ranges)"
        raise ValueError(f"{needed}; type: pip install got10k==0.1.3")
    table = Path(toolkit.submodule_search_locations[0]) / "datasets" / "uav123.json"
    metas = json.loads(read_text(table))[version]
    return {name: (m["folder_name"], m["start_frame"], m["end_frame"]) for name, m in metas.items()}


def find_uav20l(root: Path) -> list[Entry]:
    """Find the long sequences of UAV123, in `anno/UAV20L`.

    That folder usually lies beside `anno/UAV123`; then the layout "uav123" is found first.
    """
    return find_uav123(root, "UAV20L")


def find_videos(root: Path) -> list[Entry]:
    """Find videos with boxes beside them, 0-based: `NAME.mp4` and `NAME.txt`.

    `root` is a folder of such videos, or one of them.
    """
    files = [root] if root.is_file() else _in_natural_order(root.iterdir())
    return [Entry(file.stem, file, _boxes_beside(file)) for file in files if is_video(file)]


def _boxes_beside(video: Path) -> Path:
    """The annotation of a video: `.txt`, or `.TXT` where there is only that."""
    usual, upper = video.with_suffix(".txt"), video.with_suffix(".TXT")
    return upper if upper.is_file() and not usual.is_file() else usual


def is_video(file: Path) -> bool:
    """Whether the name is a video's. Names with a leading dot are unfinished, or macOS metadata."""
    return file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".")


class Layout(NamedTuple):
    """How sequences lie in a folder."""

    find: Callable[[Path], list[Entry]]  # the sequences in a folder; none if it has another layout
    wanted: str  # what `find` looks for, for messages


LAYOUTS = {
    "got10k": Layout(find_got10k, "list.txt (or NAME/groundtruth.txt) with NAME/00000001.jpg"),
    "otb": Layout(find_otb, "NAME/img/ with NAME/groundtruth_rect.txt"),
    "uav123": Layout(find_uav123, "anno/UAV123/NAME.txt with data_seq/UAV123/"),
    "uav20l": Layout(find_uav20l, "anno/UAV20L/NAME.txt with data_seq/UAV123/"),
    "videos": Layout(find_videos, "NAME.mp4 with NAME.txt"),
}


def find_entries(root: Path, layout: str | None = None) -> list[Entry]:
    """Find every sequence under `root` in a layout of `LAYOUTS` (None: the first that fits).

    Raises ValueError, saying what was searched for and what is there, and FileNotFoundError if
    `root` does not exist.
    """
    encodable(root)
    if not root.exists():
        raise FileNotFoundError(f"dataset {root} does not exist")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; choose from {', '.join(LAYOUTS)}")
    if root.is_file():
        layout = "videos"
    names = [layout] if layout else list(LAYOUTS)
    for name in names:
        entries = LAYOUTS[name].find(root)
        if entries:
            _warn_of_left_out(root, entries)
            entries = list(map(_with_printable_name, entries))
            return _one_of_each_name(entries)
    raise ValueError(_nothing_found(root, names))


def holds_sequences(root: Path) -> bool:
    """Whether the folder `root` has the annotation of a sequence, in any layout."""
    entries = (entry for layout in LAYOUTS.values() for entry in layout.find(root))
    return any(entry.annotation.is_file() for entry in entries)


def _with_printable_name(entry: Entry) -> Entry:
    """Return the entry, with a fault if its name is not UTF-8, which no report could hold."""
    name = printable(entry.name)
    if name == entry.name:
        return entry
    return replace(entry, name=name, fault="its name is not valid UTF-8; rename it")


def _one_of_each_name(entries: list[Entry]) -> list[Entry]:
    """Return the entries; of different ones with one name, only the first, with a fault."""
    groups: dict[str, list[Entry]] = {}
    for entry in dict.fromkeys(entries):
        groups.setdefault(otb_name(entry.name), []).append(entry)
    return [_without_twins(*group) for group in groups.values()]


def _without_twins(entry: Entry, *twins: Entry) -> Entry:
    if not twins:
        return entry
    same_folder = all(twin.folder == entry.folder for twin in twins)
    places = [one.annotation if same_folder else one.folder for one in (entry, *twins)]
    fault = f"{' and '.join(map(str, places))} are all named so; keep or rename all but one"
    return replace(entry, fault=fault)


def _warn_of_left_out(root: Path, entries: list[Entry]) -> None:
    """Warn of files and folders in `root` that look like sequences but are not in `entries`.

    There is no warning if a `list.txt` names the sequences.
    """
    if not root.is_dir() or (root / "list.txt").is_file():
        return
    used = {path for entry in entries for path in (entry.folder, entry.folder.parent)}
    used |= {entry.annotation for entry in entries}
    warn_of_data(root, [path for path in root.iterdir() if path not in used], "sequences")


def warn_of_data(root: Path, others: Iterable[Path], taken: str) -> None:
    """Warn of those `others` in `root` that hold frames or boxes, since they are left out.

    `taken`: a word for what is read from `root`.
    """
    names = sorted(path.name for path in others if _holds_frames(path))
    if names:
        warnings.warn(
            f"{root}: {len(names)} beside its {taken} left out, which may be meant as data:"
            f" {listed(names)}",
            stacklevel=2,
        )


def _holds_frames(path: Path) -> bool:
    """Whether a path is a folder with images or sequences, a video, or a file with boxes."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        places = [folder for folder in (path, path / "img") if folder.is_dir()]
        return any(map(list_images, places)) or any(path.glob("*/groundtruth*.txt"))
    return is_video(path) or _begins_with_a_box(_boxes_beside(path))


def _begins_with_a_box(annotation: Path) -> bool:
    if not annotation.is_file():
        return False
    with annotation.open("rb") as file:
        return BOX.match(file.read(200)) is not None


def _nothing_found(root: Path, layouts: list[str]) -> str:
    if root.is_file():
        suffixes = ", ".join(VIDEO_SUFFIXES)
        return f"{root} is not a video; give a folder of sequences, or a {suffixes} file"
    inside = list(root.iterdir())
    folders = sorted(path.name for path in inside if path.is_dir())
    found = f"{len(folders)} folders"
    if folders:
        found += f" ({', '.join(folders[:3])} ...)"
    found += f" and {len(inside) - len(folders)} files"
    wanted = "; or ".join(LAYOUTS[layout].wanted for layout in layouts)
    return f"no sequences in {root}: looked for {wanted}; found {found}"
