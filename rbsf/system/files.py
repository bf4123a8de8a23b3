"""Writes files that are either complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from rbsf.system.text import encode

TEMPORARY = re.compile(r"\..+\.(\d+)\.part(\.[^.]*)?")  # a hidden file named after its process
STATE_SEED = b"rbsf-index-2"  # crop stores and benchmark results hold digests that begin with it
STREAMS = [("/", "dev", name) for name in ("stdout", "stderr", "fd")]


def write_atomically(path: str | Path, content: bytes | Callable[[Path], None]) -> None:
    """Write `content` under a temporary name in the same folder, then rename it to `path`.

    `content` is bytes, or a function that writes the file at the path it is given. On failure, such
    as a full disk, an old file at `path` is kept and the temporary file is removed. If `path` is a
    link, the file that it leads to is replaced. Bytes go straight into a pipe or a device, such as
    /dev/stdout. Raises OSError that names `path`.
    """
    path = Path(path)
    if is_stream(path):
        _write_stream(path, content)
        return
    if path.is_symlink():
        path = path.resolve()
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
        with suppress(OSError):  # the file was renamed or never created
            temporary.unlink()


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe or a device, which no file may replace.

    /dev/stdout counts even if it leads to a file, into which a shell writes too.
    """
    return path.parts[:3] in STREAMS or path.is_fifo() or path.is_char_device()


def _write_stream(path: Path, content: bytes | Callable[[Path], None]) -> None:
    if callable(content):
        raise OSError(f"cannot write {path}: it is no file; give a file name")
    try:
        with path.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        raise OSError(f"cannot write {path}: {_reason(error)}") from error


def _flush(path: Path) -> None:
    """Write a file to the disk; without this, it could be empty if power fails after the rename."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: BaseException) -> str:
    """The message of an error in one line; the system's own message if the system caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if said := getattr(cause, "strerror", None):
            return said
        cause = cause.__context__
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def remove_left_over(folder: str | Path) -> None:
    """Remove temporary files that `write_atomically` left in `folder` in ended processes.

    Only a process that holds the lock of `folder` may call this, before it writes there.
    """
    for path in Path(folder).glob(".*.part*"):
        match = TEMPORARY.fullmatch(path.name)
        if match and not _runs_elsewhere(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _runs_elsewhere(process: int) -> bool:
    """Whether another process has this number; False if the system does not say."""
    if process == os.getpid() or sys.platform == "win32":  # Windows does not remove open files
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # the process of another user
        return True
    return True


def state_digest(descriptions: Iterable[tuple[str, Iterable[Path]]]) -> str:
    """Digest of descriptions, and of the state of the files and folders they were read from.

    The state is size and time, so no file is read. A folder's time changes when a file in it is
    added or removed.
    """
    digest = hashlib.sha256(STATE_SEED)
    for text, paths in descriptions:
        digest.update(encode(text))
        for path in paths:
            try:
                state = path.stat()
                digest.update(f"{state.st_mtime_ns} {state.st_size}".encode())
            except OSError:
                digest.update(b"missing")
    return digest.hexdigest()
