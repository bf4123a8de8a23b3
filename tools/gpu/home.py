"""The archive that a worklist's folder sends home: results, logs and weights, in small parts.

Results come first, then weights, then checkpoints of unfinished trainings; the smallest of each
kind come first. Files that do not fit are left out and named.
"""

from __future__ import annotations

from pathlib import Path

from rbsf.system.archive_parts import MEBIBYTE, read_parts, write_parts
from rbsf.train import CHECKPOINT

PART_BYTES = 15 * MEBIBYTE
ALL_BYTES = 56 * MEBIBYTE
STEM = "home"  # beginning of the parts' names
RESULT = "result.json"
DATA_FOLDERS = ("data", "parts", "raw")  # CIFAR-100, and in a rehearsal what it is made of
LEFT_OUT = {".png", ".part"}  # suffixes; pictures can be drawn again from the logs


def pack_home(folder: Path, home: Path) -> tuple[list[Path], list[Path]]:
    """Write the archive of `folder` into `home`, in place of an earlier one.

    Returns its parts, and the files left out. Raises OSError if it cannot be written.
    """
    chosen, left = choose_files(folder, home)
    files = {path.relative_to(folder).as_posix(): path for path in chosen}
    return write_parts(files, home, STEM, PART_BYTES), left


def choose_files(folder: Path, home: Path) -> tuple[list[Path], list[Path]]:
    """Choose the files to send home, the most valuable first; also return those without room."""
    chosen: list[Path] = []
    left: list[Path] = []
    size = 0
    for path in sorted(_files(folder, home), key=_worth):
        length = path.stat().st_size
        if size + length > ALL_BYTES:
            left.append(path)
        else:
            chosen.append(path)
            size += length
    return chosen, left


def unpack_home(home: Path, folder: Path) -> bool:
    """Put the archive in `home` back into `folder`; returns False if there is none.

    Raises the errors of `read_parts`.
    """
    return read_parts(home, STEM, folder)


def _files(folder: Path, home: Path) -> list[Path]:
    others = {home, *(folder / name for name in DATA_FOLDERS)}
    files = [path for path in folder.rglob("*") if path.is_file() and _is_of_use(path)]
    return [path for path in files if others.isdisjoint(path.parents)]


def _is_of_use(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix in LEFT_OUT:
        return False
    if path.parent.name == "tensorboard":  # it repeats the numbers of log.csv
        return False
    is_done = (path.parent / RESULT).is_file()
    return not (path.name == CHECKPOINT and is_done)


def _worth(path: Path) -> tuple[int, int]:
    """A key to sort files by: results, then weights, then checkpoints; of a kind, by size."""
    kinds = {".pt": 2, ".safetensors": 1}
    return kinds.get(path.suffix, 0), path.stat().st_size
