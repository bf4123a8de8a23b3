"""Files that are either whole or not there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.(\d+)\.part(\.[^.]*)?")  # hidden, with the number of its process


def write_atomically(path: str | Path, content: bytes | Callable[[Path], None]) -> None:
    """Write `content` under a temporary name in the same folder, then rename it to `path`.

    `content` is bytes, or a function that writes the file at the path it is given. On failure, as
    on a full disk, what stood at `path` stays and the temporary file goes. Raises OSError, which
    names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
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


def _reason(error: BaseException) -> str:
    """What an error says, in one line; where the system has caused it, what that said."""
    cause: BaseException | None = error
    while cause is not None:
        if said := getattr(cause, "strerror", None):
            return said
        cause = cause.__context__
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def remove_left_over(folder: str | Path) -> None:
    """Remove the temporary files of `write_atomically` in `folder` whose processes have ended.

    To be called by a process that holds the lock of `folder`, before it writes there.
    """
    for path in Path(folder).glob(".*.part*"):
        match = TEMPORARY.fullmatch(path.name)
        if match and not _runs_elsewhere(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _runs_elsewhere(process: int) -> bool:
    """Whether another process has this number; False where the system does not tell."""
    if (
        process == os.getpid() or sys.platform == "win32"
    ):  # where an open file is not removed anyway
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
