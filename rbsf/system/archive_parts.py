"""Files in an archive that is cut into parts of a limited size, STEM-1-of-3.part, and back."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from rbsf.system.files import write_atomically

MEBIBYTE = 1 << 20


def write_parts(
    files: Mapping[str, Path], folder: Path, stem: str, most_bytes: int, level: int = 3
) -> list[Path]:
    """Write an archive of `files`, by their names in it, as parts into `folder`, in place of
    earlier ones; their paths.

    `level`: of the compression, 0 to 9.  OSError where `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=level) as tar:
            for name, path in files.items():
                tar.add(path, name, recursive=False)
        count = -(-archive.tell() // most_bytes)
        archive.seek(0)
        parts = [folder / f"{stem}-{number}-of-{count}.part" for number in range(1, count + 1)]
        for part in parts:
            write_atomically(part, archive.read(most_bytes))
    for old in set(folder.glob(f"{stem}-*.part")) - set(parts):
        old.unlink()
    return parts


def find_parts(folder: Path, stem: str) -> list[Path]:
    """The parts of an archive in `folder`, in order; none where there are none.

    FileNotFoundError names those that are missing among others.
    """
    form = re.compile(re.escape(stem) + r"-(\d+)-of-(\d+)\.part")
    matches = {path: form.fullmatch(path.name) for path in folder.glob("*.part")}
    found = {int(match[1]): (path, int(match[2])) for path, match in matches.items() if match}
    count = max((parts for _, parts in found.values()), default=0)
    if missing := [
        f"{stem}-{number}-of-{count}.part" for number in range(1, count + 1) if number not in found
    ]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return [found[number][0] for number in range(1, count + 1)]


def read_parts(folder: Path, stem: str, target: Path) -> bool:
    """Put the archive in `folder` back into `target`; False where there is none.

    FileNotFoundError names a part that is missing, ValueError what is damaged.
    """
    parts = find_parts(folder, stem)
    if not parts:
        return False
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target) as archive:
        for path in parts:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, archive)
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


def _read_through(archive: IO[bytes]) -> None:
    """Raise an error where the archive's checksum, which stands at its end, is not that of its
    content.
    """
    archive.seek(0)
    with gzip.open(archive) as content:
        while content.read(MEBIBYTE):
            pass
