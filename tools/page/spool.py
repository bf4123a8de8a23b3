"""Pictures that are kept on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path


class Spool:
    """Pictures by number, in a file of at most `most_bytes` that is removed with the process."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it
        self._most_bytes, self._size = most_bytes, 0
        self._places: dict[int, tuple[int, int]] = {}  # offset and length

    def put(self, number: int, data: bytes) -> bool:
        """Store a picture. Returns whether there was room for it."""
        if self._size + len(data) > self._most_bytes:
            return False
        self._file.seek(self._size)
        self._file.write(data)
        self._places[number] = self._size, len(data)
        self._size += len(data)
        return True

    def get(self, number: int) -> bytes | None:
        """The picture of that number; None if it is not stored."""
        if number not in self._places:
            return None
        offset, length = self._places[number]
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
