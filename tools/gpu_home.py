"""What a worklist's folder sends home: one archive of results, logs and weights, in parts of a
limited size.

Results come first, then float weights, then checkpoints of trainings that are not done, the
smallest first.  What does not fit is left out and named.
"""

from __future__ import annotations

from pathlib import Path

from rbsf.system.archive_parts import MEBIBYTE, read_parts, write_parts
from rbsf.train.worklist import CHECKPOINT

PART_BYTES = 15 * MEBIBYTE
ALL_BYTES = 56 * MEBIBYTE
STEM = "home"  # of the parts' names
RESULT = "result.json"
LEFT_OUT = {".png", ".zip", ".part"}  # pictures are drawn anew from the logs


def pack_home(folder: Path, home: Path) -> tuple[list[Path], list[Path]]:
    """Write the archive of `folder` into `home`, in place of an earlier one; its parts, and the
    files left out.

    OSError where it cannot be written.
    """
    chosen, left = choose_files(folder, home)
    files = {path.relative_to(folder).as_posix(): path for path in chosen}
    return write_parts(files, home, STEM, PART_BYTES), left


def choose_files(folder: Path, home: Path) -> tuple[list[Path], list[Path]]:
    """The files that come home, in the order of their worth, and those for which there is no room."""
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
    """Put the archive in `home` back into `folder`; False where there is none.  Errors as
    `read_parts` has them.
    """
    return read_parts(home, STEM, folder)


def _files(folder: Path, home: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in LEFT_OUT
        and not {home, folder / "data"} & set(path.parents)
        and path.parent.name != "tensorboard"  # the same numbers as log.csv
        and not (path.name == CHECKPOINT and (path.parent / RESULT).is_file())
    ]


def _worth(path: Path) -> tuple[int, int]:
    """Smaller for what is worth more: results, then weights, then checkpoints; then by size."""
    kinds = {".pt": 2, ".safetensors": 1}
    return kinds.get(path.suffix, 0), path.stat().st_size
