"""What a worklist's folder sends home: one archive of results, logs and weights, in parts of a limited size.

Results come first, then float weights, then checkpoints of trainings that are not done, the smallest first.  What does
not fit is left out and named.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO

from rbsf.files import write_atomically

MEBIBYTE = 1 << 20
PART_BYTES = 15 * MEBIBYTE
ALL_BYTES = 56 * MEBIBYTE
NAME = re.compile(r"home-(\d+)-of-(\d+)\.part")
CHECKPOINT, RESULT = "checkpoint.pt", "result.json"
LEFT_OUT = {".png", ".zip", ".part"}  # pictures are drawn anew from the logs


def pack_home(folder: Path, home: Path) -> tuple[list[Path], list[Path]]:
    """Write the archive of `folder` into `home`, in place of an earlier one; its parts, and the files left out.

    OSError where it cannot be written.
    """
    chosen, left = choose_files(folder, home)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=home) as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=3) as tar:
            for path in chosen:
                tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
        size = archive.tell()
        archive.seek(0)
        count = -(-size // PART_BYTES)
        parts = [home / f"home-{number}-of-{count}.part" for number in range(1, count + 1)]
        for part in parts:
            write_atomically(part, archive.read(PART_BYTES))
    for old in set(home.glob("home-*.part")) - set(parts):
        old.unlink()
    return parts, left


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
    """Put the archive in `home` back into `folder`; False where there is none.

    FileNotFoundError names a part that is missing, ValueError what is damaged.
    """
    found = {int(match[1]): path for path in home.glob("home-*.part") if (match := NAME.match(path.name))}
    if not found:
        return False
    count = max(int(NAME.match(path.name)[2]) for path in found.values())  # type: ignore[index]
    if missing := [f"home-{number}-of-{count}.part" for number in range(1, count + 1) if number not in found]:
        raise FileNotFoundError(f"{home} lacks {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as archive:
        for number in range(1, count + 1):
            with open(found[number], "rb") as part:
                shutil.copyfileobj(part, archive)
        try:
            _read_through(archive)
            archive.seek(0)
            with tarfile.open(fileobj=archive, mode="r:gz") as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{home}: the archive is damaged ({error}); copy its parts again") from None
    return True


def _read_through(archive: IO[bytes]) -> None:
    """Raise an error where the archive's checksum, which stands at its end, is not that of its content."""
    archive.seek(0)
    with gzip.open(archive) as content:
        while content.read(MEBIBYTE):
            pass


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
