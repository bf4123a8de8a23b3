"""Find and read the files of published data sets, and check that they are as published."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKS = ("auto", "strict", "off")
CROP_SHARE = 224 / 256  # side of the evaluation crop / short side of the image, as for ImageNet
LARGEST = 1 << 30  # the most bytes that are read; the largest published file has 184 million


def find_folder(root: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Path:
    """Find the first of the `folders` of `root` that holds a file of one of these names.

    Raises FileNotFoundError if none does.
    """
    for folder in folders:
        if any((root / folder / name).is_file() for name in names):
            return root / folder
    places = ", ".join(str(root / folder) for folder in folders)
    raise FileNotFoundError(f"no {' or '.join(names)} in {places}; unpack the data set there")


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises FileNotFoundError if there is none, and ValueError for more than `LARGEST` bytes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the data set again")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path}: {size} bytes are more than any file of its kind has")
    return path.read_bytes()


def verify(path: Path, content: bytes, published: tuple[int, str] | None, check: str) -> None:
    """Compare a file's content with its published size (bytes) and md5.

    `check` is one of `CHECKS`. "auto": a file of the published size must have the published md5.
    Other sizes are repacked copies, which their reader checks. "strict": it must be the published
    file. "off": every file is accepted. `published` is None if no checksum is known; then only
    "strict" refuses the file. Raises ValueError, naming `path`, for a file that is refused.
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
