"""Packs files into an archive of parts of limited size, STEM-1-of-3.part, and unpacks them."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from rbsf.system.files import write_atomically

MEBIBYTE = 1 << 20


def write_parts(
    files: Mapping[str, Path], folder: Path, stem: str, most_bytes: int, level: int = 3
) -> list[Path]:
    """Write an archive of `files`, given by their names in the archive, as parts into `folder`.

    Each part has at most `most_bytes`; earlier parts are replaced. `level` is the compression
    level, 0 to 9. Returns the paths of the parts. Raises OSError if `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=level) as tar:
            for name, path in files.items():
                tar.add(path, name, recursive=False)
        count = -(-archive.tell() // most_bytes)  # rounded up
        archive.seek(0)
        parts = [folder / _part_name(stem, number, count) for number in range(1, count + 1)]
        for part in parts:
            write_atomically(part, archive.read(most_bytes))
    for old in set(folder.glob(f"{stem}-*.part")) - set(parts):
        old.unlink()
    return parts


def _part_name(stem: str, number: int, count: int) -> str:
    return f"{stem}-{number}-of-{count}.part"


def find_parts(folder: Path, stem: str) -> list[Path]:
    """The parts of an archive in `folder`, in order; an empty list if there are none.

    Raises FileNotFoundError that names the missing parts if some are missing.
    """
    form = re.compile(re.escape(stem) + r"-(\d+)-of-(\d+)\.part")
    found: dict[int, Path] = {}
    counts: dict[int, int] = {}
    for path in folder.glob("*.part"):
        if match := form.fullmatch(path.name):
            number = int(match[1])
            found[number], counts[number] = path, int(match[2])
    count = max(counts.values(), default=0)
    numbers = range(1, count + 1)
    missing = [_part_name(stem, number, count) for number in numbers if number not in found]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return [found[number] for number in numbers]


def read_parts(folder: Path, stem: str, target: Path) -> bool:
    """Unpack the archive with parts in `folder` into `target`; returns False if there is none.

    Raises FileNotFoundError if a part is missing, ValueError if the archive is damaged.
    """
    parts = find_parts(folder, stem)
    if not parts:
        return False
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target) as archive:
        _join(parts, archive)
        try:
            _read_through(archive)
            archive.seek(0)
            with tarfile.open(fileobj=archive, mode="r:gz") as tar:
                tar.extractall(target, filter="data")
        except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{folder}: the archive is damaged ({error}); copy its parts again"
            ) from None
    return True


def _join(parts: Iterable[Path], archive: IO[bytes]) -> None:
    for path in parts:
        with path.open("rb") as part:
            shutil.copyfileobj(part, archive)


def _read_through(archive: IO[bytes]) -> None:
    """Read the whole archive to check the checksum at its end; a wrong one raises an error."""
    archive.seek(0)
    with gzip.open(archive) as content:
        while content.read(MEBIBYTE):
            pass
