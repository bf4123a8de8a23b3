"""Locks, so that two processes do not write one thing.

They are the operating system's, which end with their holder.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
POLL_SECONDS = 0.5


class InUse(ValueError):
    """Another process holds a lock; the message says which."""


@contextmanager
def locked(thing: str | Path, wait: bool = False) -> Iterator[None]:
    """Context that one process at a time is in, for a file or folder.

    Where another process holds the lock, raises InUse; with `wait`, says so and waits. Raises
    OSError where `thing` cannot be made. Where the file system has no locks, as on some network
    folders, or takes no lock file, a warning says so and the work goes on.
    """
    path = lock_file(Path(thing))
    descriptor = _acquire(path, thing, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            _release(descriptor, path)


@contextmanager
def locked_name(wanted: Path, count_up: bool) -> Iterator[Path]:
    """Context that holds the lock of the name of a file that is to be written.

    With `count_up` it is one that no file has: `wanted`, else NAME_2, NAME_3 and so on. Raises
    InUse where another process writes `wanted` and the name does not count up, and OSError where
    nothing can be written there.
    """
    if not count_up:
        with locked(wanted):
            yield wanted
        return
    for number in count(1):
        path = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}_{number}")
        if path.exists():
            continue
        with ExitStack() as held:
            try:
                held.enter_context(locked(path))
            except InUse:
                continue
            if path.exists():  # another process wrote it before the lock was ours
                continue
            yield path
            return


def lock_file(thing: Path) -> Path:
    """The hidden file that stands for the lock of a file or folder: beside it."""
    whole = thing.resolve()
    return whole.with_name(f".{whole.name}.lock")


def _acquire(path: Path, thing: str | Path, wait: bool) -> int | None:
    """An open file, locked; None where there can be no lock."""
    told = False
    while True:
        descriptor = _open(path, thing)
        if descriptor is None:
            return None
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in NO_LOCKS:
                os.close(descriptor)
                _warn(path, thing)
                return None
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if not wait:
                advice = "wait for its end, or choose another"
                raise InUse(f"{thing} is in use by {holder}; {advice}") from None
            if not told:
                print(f"{thing} is in use by {holder}; waiting for it", flush=True)
            told = True
            time.sleep(POLL_SECONDS)
            continue
        if _is_still(descriptor, path):
            _write_holder(descriptor)
            return descriptor
        os.close(descriptor)


def _open(path: Path, thing: str | Path) -> int | None:
    """The lock file, open; None where the folder takes none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if not Path(thing).exists():
            raise OSError(f"cannot write {thing}: {error.strerror}") from None
    _warn(path, thing)
    return None


def _warn(path: Path, thing: str | Path) -> None:
    warnings.warn(
        f"{path.parent} takes no locks: see to it that no other process writes {thing}",
        stacklevel=5,
    )


def _release(descriptor: int, path: Path) -> None:
    if sys.platform != "win32":  # Windows removes no open file; one without a holder does no harm
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file; OSError where another process has."""
    if sys.platform == "win32":
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text, which others read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the file was not removed, by the holder before, since it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    command = " ".join(sys.argv)[:200] or "python"
    process = f"process {os.getpid()} on {socket.gethostname()}"
    text = f"{process} since {time.strftime('%H:%M')} ({command})"
    with suppress(OSError):  # a full disk: the lock itself needs no room
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode("utf-8", "replace"))


def _read_holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, 1000).decode("utf-8", "replace").strip()
    return text or "another process"
