"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | Callable[[Path], None]) -> None:
    """Write `content` under a temporary name in the same folder, then rename it to `path`.

    `content` is bytes, or a function that writes the file at the path it is given. On failure, as
    on a full disk, what stood at `path` stays and the temporary file goes. Raises OSError, which
    names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with suppress(OSError):  # it is gone after the rename, or was never made
            temporary.unlink()


def _flush(path: Path) -> None:
    """Bring a file onto the disk; renamed before that, it could be empty after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    if said := getattr(error, "strerror", None):
        return said
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
