"""Files of published data sets: where they are, their bytes, whether they are the ones that were
published.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKS = ("auto", "strict", "off")
LARGEST = 1 << 30  # bytes of a file that is read whole; the largest published one has 184 million


def find_folder(root: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Path:
    """The first of ROOT's `folders` that holds a file of one of these names; FileNotFoundError
    where none does.
    """
    for folder in folders:
        if any((root / folder / name).is_file() for name in names):
            return root / folder
    places = ", ".join(str(root / folder) for folder in folders)
    raise FileNotFoundError(f"no {' or '.join(names)} in {places}; unpack the data set there")


def read_bytes(path: Path) -> bytes:
    """A whole file. FileNotFoundError without one, ValueError for one of more than LARGEST bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the data set again")
    if path.stat().st_size > LARGEST:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes are more than any file of its kind has"
        )
    return path.read_bytes()


def verify(path: Path, content: bytes, published: tuple[int, str] | None, check: str) -> None:
    """Compare content with the published size (bytes) and md5. ValueError, naming `path`, where
    it is refused.

    `auto`: content of the published size must have the published md5, for damage keeps the size
    and repacking does not; of another size it is a repacked copy, which its reader judges by what
    is in it. `strict`: it must be the published file. `off`: anything goes. `published` None:
    no checksum is known, so only `strict` has a say.
    """
    if check == "off" or (check == "auto" and (published is None or len(content) != published[0])):
        return
    if published is None:
        raise ValueError(f"{path}: no checksum of it was published; read it with --check auto")
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if (len(content), found) != published:
        what = (
            f"{len(content)} bytes with md5 {found}, published: {published[0]} with {published[1]}"
        )
        raise ValueError(
            f"{path}: not the published file, or damaged ({what}); fetch it again, or give --check off"
        )
