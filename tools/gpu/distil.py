"""Carry RB-SF 2's training pairs and teacher, in parts, to another machine with a GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rbsf.system.archive_parts import read_parts, write_parts

STEM = "rbsf2"  # beginning of the parts' names
FOLDER = Path("data", "rbsf2")  # below the worklist's folder
PAIRS, TEACHER = "pairs.db", ("backbone.safetensors", "head.safetensors")


def pack(pairs: Path, teacher: str, folder: Path, most_bytes: int) -> list[Path]:
    """Write a crop store and a teacher, "BACKBONE,HEAD", as parts into `folder`.

    Returns their paths. The teacher's graphs are stored so that ONNX is not needed to read them.
    Raises FileNotFoundError if a file is missing, and ValueError if one is not a store or a graph.
    """
    from rbsf.datasets.pairs.crop_store import CropStore
    from rbsf.tracker.onnx_pair import split_pair
    from rbsf.tracker.teachers.graph import write_graph
    from rbsf.tracker.teachers.pair import read_pair

    files = split_pair(teacher)
    CropStore(pairs)  # raises an error if this is not a store
    pair = read_pair(*files)
    content = {PAIRS: pairs}
    with tempfile.TemporaryDirectory() as name:
        for graph, file in zip((pair.backbone, pair.head), TEACHER, strict=True):
            content[file] = Path(name, file)
            write_graph(graph, content[file])
        # Level 0 compresses nothing: crops are compressed already.
        return write_parts(content, folder, STEM, most_bytes, level=0)


def unpack(parts: Path, run: Path) -> bool:
    """Put the parts in the folder `parts` together below `run`, unless that is done.

    Returns False if there are no parts. Raises FileNotFoundError if some are missing, and
    ValueError if one is damaged.
    """
    target = run / FOLDER
    if all((target / name).is_file() for name in (PAIRS, *TEACHER)):
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        if not read_parts(parts, STEM, Path(name)):
            return False
        target.mkdir(exist_ok=True)
        for file in (*TEACHER, PAIRS):
            Path(name, file).replace(target / file)
    return True


def make_up(run: Path) -> None:
    """Make pairs from synthetic videos and a teacher with random weights, for a rehearsal."""
    from rbsf.datasets.pairs.prepare import prepare
    from rbsf.datasets.synthetic.videos import write_got10k
    from rbsf.tracker.teachers.made_up import write_made_up

    target = run / FOLDER
    if (target / PAIRS).is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        write_got10k(Path(name, "videos", "train"), count=3, seed=5, frames=6, size=(160, 120))
        write_made_up(*(target / file for file in TEACHER))
        prepare([Path(name, "videos", "train")], target / PAIRS, progress=False)
