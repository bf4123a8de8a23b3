"""How published tracking datasets are laid out in folders: where each sequence's frames and boxes
lie.

Nothing but names is read here; `rbsf.datasets.video.sequences` reads what is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rbsf.datasets.video.frames import VIDEO_SUFFIXES, natural_key

SPLITS = ("train", "val", "test")
# Frames that OTB's annotations are for, where the folder holds more (OTB web page).
OTB_SPANS = {
    "David": (300, 770),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Diving": (1, 215),
}


@dataclass(frozen=True)
class Entry:
    """Where one sequence lies: what a layout finds before any frame or box is read."""

    name: str
    folder: Path  # of the frames; a video file where they lie in one
    annotation: Path
    span: tuple[int, int] | None = (
        None  # first and last frame number that the annotation is for; None: all
    )
    one_based: bool = False
    first_only: bool = False  # an annotation of the first frame alone is whole


def _folders(root: Path, annotation: str) -> list[Path]:
    """`root` itself where it is one sequence, else its folders, that hold a file matching
    `annotation`.
    """
    if any(root.glob(annotation)):
        return [root]
    folders = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name))
    return [f for f in folders if any(f.glob(annotation))]


def find_got10k(root: Path) -> list[Entry]:
    """GOT-10k split: `list.txt` and `NAME/00000001.jpg ...` with `NAME/groundtruth.txt`;
    0-based as read.
    """
    listing = root / "list.txt"
    splits = [s for s in SPLITS if (root / s / "list.txt").is_file()]
    if not listing.is_file() and splits:
        if len(splits) > 1:
            raise ValueError(
                f"{root} holds the splits {', '.join(splits)}; choose one, for example {root / splits[0]}"
            )
        return find_got10k(root / splits[0])
    if listing.is_file():
        folders = [
            root / line.strip()
            for line in listing.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
        _check_listed(listing, folders)
    else:
        folders = [f for f in _folders(root, "groundtruth.txt") if not (f / "img").is_dir()]
    return [Entry(f.name, f, f / "groundtruth.txt", first_only=True) for f in folders]


def _check_listed(listing: Path, folders: list[Path]) -> None:
    if not folders:
        raise ValueError(f"{listing} is empty; it must name one sequence folder per line")
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ValueError(
            f"{listing} names {len(folders)} sequences but {len(missing)} of their folders are missing, such as "
            f"{missing[0]}; restore them or take them off the list"
        )


def otb_name(name: str) -> str:
    """Name of a target as the got10k toolkit has it: `Jogging-1` and `Jogging.1` are
    `Jogging.1`; Human4's second target, the only one with boxes, is `Human4`.
    """
    name = re.sub(r"-(\d)$", r".\1", name)
    return "Human4" if name == "Human4.2" else name


def find_otb(root: Path) -> list[Entry]:
    """OTB: `NAME/img/0001.jpg` and `NAME/groundtruth_rect.txt` (`.1.txt`, `.2.txt`: two
    targets); 1-based.
    """
    entries = []
    for folder in _folders(root, "groundtruth*.txt"):
        if not (folder / "img").is_dir():
            continue
        for annotation in sorted(folder.glob("groundtruth*.txt")):
            if not annotation.read_text().strip() and "." in annotation.stem:
                continue  # OTB ships Human4/groundtruth_rect.1.txt empty: only its second target counts
            target = "".join(re.findall(r"\.\d$", annotation.stem))
            span = OTB_SPANS.get(folder.name)
            name = otb_name(folder.name + target)
            entries.append(Entry(name, folder / "img", annotation, span, one_based=True))
    return entries


def find_uav123(root: Path, version: str = "UAV123") -> list[Entry]:
    """UAV123: `anno/UAV123/NAME.txt` and `data_seq/UAV123/FOLDER/` (or both `UAV123_10fps`);
    1-based.

    Where there is no `anno` folder: as OTB, the form in which tracking toolkits hand it on.
    """
    if not (root / "anno").is_dir():
        return find_otb(root)
    if version == "UAV123" and is_uav123_10fps(root):
        version = "UAV123_10fps"
    frames = root / "data_seq" / (version if version.endswith("fps") else "UAV123")
    spans = uav123_spans("UAV123" if version.endswith("fps") else version)
    step = (
        3 if version.endswith("fps") else 1
    )  # 10 fps keeps frames 1, 4, 7, ... and numbers them anew
    entries = []
    for annotation in sorted(
        (root / "anno" / version).glob("*.txt"), key=lambda f: natural_key(f.name)
    ):
        name = annotation.stem
        folder, first, last = spans.get(name, (name, 1, 10**9))
        span = ((first - 1) // step + 1, (last - 1) // step + 1)
        entries.append(Entry(name, frames / folder, annotation, span, one_based=True))
    return entries


def is_uav123_10fps(root: Path) -> bool:
    """Whether `root` holds UAV123 at 10 frames per second, a benchmark of its own, and not at 30."""
    return (root / "anno" / "UAV123_10fps").is_dir() and not (root / "anno" / "UAV123").is_dir()


def uav123_spans(version: str) -> dict[str, tuple[str, int, int]]:
    """Folder, first and last frame of each sequence of "UAV123" or "UAV20L": several are cut from
    one folder.

    The table is the got10k toolkit's; ValueError where the toolkit is not installed.
    """
    toolkit = find_spec("got10k")
    if toolkit is None or not toolkit.submodule_search_locations:
        raise ValueError(
            "reading UAV123 needs the got10k package (frame ranges); type: pip install got10k==0.1.3"
        )
    table = Path(toolkit.submodule_search_locations[0]) / "datasets" / "uav123.json"
    metas = json.loads(table.read_text())[version]
    return {name: (m["folder_name"], m["start_frame"], m["end_frame"]) for name, m in metas.items()}


def find_uav20l(root: Path) -> list[Entry]:
    """The long sequences of UAV123: `anno/UAV20L`, mostly beside `anno/UAV123`, which then
    comes first.
    """
    return find_uav123(root, "UAV20L")


def find_videos(root: Path) -> list[Entry]:
    """Videos with boxes beside them, `NAME.mp4` and `NAME.txt`, in a folder or one alone;
    0-based.
    """
    files = [root] if root.is_file() else sorted(root.iterdir(), key=lambda f: natural_key(f.name))
    # A name that begins with a dot is a killed program's half-written video, or macOS's notes on
    # one.
    videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES and not f.name.startswith(".")]
    return [Entry(f.stem, f, f.with_suffix(".txt")) for f in videos]


LAYOUTS: dict[str, Callable[[Path], list[Entry]]] = {
    "got10k": find_got10k,
    "otb": find_otb,
    "uav123": find_uav123,
    "uav20l": find_uav20l,
    "videos": find_videos,
}


def find_entries(root: Path, layout: str | None = None) -> list[Entry]:
    """Entries of every sequence under `root`; raises ValueError that says what was looked for and
    what is there.
    """
    if not root.exists():
        raise FileNotFoundError(f"dataset {root} does not exist")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; choose from {', '.join(LAYOUTS)}")
    if root.is_file():
        layout = "videos"
    for name in [layout] if layout else list(LAYOUTS):
        if entries := LAYOUTS[name](root):
            return entries
    raise ValueError(_nothing_found(root, layout))


WANTED = {
    "got10k": "list.txt (or NAME/groundtruth.txt) with NAME/00000001.jpg",
    "otb": "NAME/img/ with NAME/groundtruth_rect.txt",
    "uav123": "anno/UAV123/NAME.txt with data_seq/UAV123/",
    "uav20l": "anno/UAV20L/NAME.txt with data_seq/UAV123/",
    "videos": "NAME.mp4 with NAME.txt",
}


def _nothing_found(root: Path, layout: str | None) -> str:
    if root.is_file():
        return f"{root} is not a video; give a folder of sequences, or a {', '.join(VIDEO_SUFFIXES)} file"
    inside = list(root.iterdir())
    folders = sorted(f.name for f in inside if f.is_dir())
    wanted = "; or ".join(WANTED[name] for name in ([layout] if layout else WANTED))
    found = f"{len(folders)} folders" + (f" ({', '.join(folders[:3])} ...)" if folders else "")
    return f"no sequences in {root}: looked for {wanted}; found {found} and {len(inside) - len(folders)} files"
