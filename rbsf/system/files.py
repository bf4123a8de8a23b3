"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | Callable[[Path], None]) -> None:
    """Write `content` (bytes, or a function that writes the file at the path it is given) under a
    temporary name in the same folder, then rename it to `path`.

    On failure, as on a full disk, what stood at `path` stays and the temporary file goes; OSError
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
        with temporary.open(
            "rb+"
        ) as file:  # on the disk before its name is, or a power cut leaves an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = (
            getattr(error, "strerror", None)
            or (str(error).splitlines() or [type(error).__name__])[0]
        )
        raise OSError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # it is gone after the rename, or was never made
            temporary.unlink()
