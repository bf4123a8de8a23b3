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
        parts = _part_paths(folder, stem, count)
        for part in parts:
            write_atomically(part, archive.read(most_bytes))
    for old in set(folder.glob(f"{stem}-*.part")) - set(parts):
        old.unlink()
    return parts


def _part_paths(folder: Path, stem: str, count: int) -> list[Path]:
    return [folder / f"{stem}-{number}-of-{count}.part" for number in range(1, count + 1)]


def find_parts(folder: Path, stem: str) -> list[Path]:
    """The parts of an archive in `folder`, in order; an empty list if there are none.

    Raises FileNotFoundError that names the missing parts if some are missing, and ValueError for
    parts of two sets.
    """
    form = re.compile(re.escape(stem) + r"-\d+-of-(\d+)\.part")
    matches = [form.fullmatch(path.name) for path in folder.glob("*.part")]
    found = {int(match[1]): match[0] for match in matches if match}  # a part of each set
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds parts of two sets, such as {' and '.join(found.values())};"
            " keep one set"
        )
    parts = _part_paths(folder, stem, max(found, default=0))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return parts


def read_parts(folder: Path, stem: str, target: Path) -> bool:
    """Unpack the archive with parts in `folder` into `target`; returns False if there is none.

    Raises FileNotFoundError if a part is missing, and ValueError if the archive is damaged or there
    are parts of two.
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
                f"{folder / stem}-*.part: the archive is damaged ({error}); copy its parts again"
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
