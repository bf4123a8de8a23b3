"""Files of published data sets: where they are, what they hold, whether they are as published."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKS = ("auto", "strict", "off")
LARGEST = 1 << 30  # bytes of a file that is read whole; the largest published one has 184 million


def find_folder(root: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Path:
    """Find the first of the `folders` of `root` that holds a file of one of these names.

    Raises FileNotFoundError where none does.
    """
    for folder in folders:
        if any((root / folder / name).is_file() for name in names):
            return root / folder
    places = ", ".join(str(root / folder) for folder in folders)
    raise FileNotFoundError(f"no {' or '.join(names)} in {places}; unpack the data set there")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises FileNotFoundError where there is none, and ValueError for more than `LARGEST` bytes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the data set again")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path}: {size} bytes are more than any file of its kind has")
    return path.read_bytes()


def verify(path: Path, content: bytes, published: tuple[int, str] | None, check: str) -> None:
    """Compare a file's content with its published size (bytes) and md5.

    `check` is one of `CHECKS`. "auto": content of the published size must have the published md5,
    for damage keeps the size; content of another size is a repacked copy, which its reader judges.
    "strict": it must be the published file. "off": anything goes. `published` is None where no
    checksum is known; then only "strict" refuses. Raises ValueError, naming `path`, for content
    that is refused.
    """
    judged_by_reader = published is None or len(content) != published[0]
    if check == "off" or (check == "auto" and judged_by_reader):
        return
    if published is None:
        raise ValueError(f"{path}: no checksum of it was published; read it with --check auto")
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if (len(content), md5) != published:
        found = f"{len(content)} bytes with md5 {md5}"
        wanted = f"published: {published[0]} with {published[1]}"
        raise ValueError(
            f"{path}: not the published file, or damaged ({found}, {wanted}); "
            "fetch it again, or give --check off"
        )
