"""Locks that keep two processes from writing the same file or folder.

They are locks of the operating system, so they end when their holder ends.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
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
    """Another process holds a lock; the message names the process."""


@contextmanager
def locked(thing: str | Path, wait: bool = False) -> Iterator[None]:
    """Context manager that holds the lock of a file or folder; only one process can hold it.

    If another process holds the lock, raises InUse; with `wait`, prints a message and waits. Raises
    OSError if `thing` cannot be created. If locking is impossible, as on some network folders, or
    no lock file can be written, a warning says so and work continues.
    """
    path = lock_file(Path(thing))
    descriptor = _acquire(path, thing, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            _release(descriptor, path)


@contextmanager
def locked_name(wanted: Path, count_up: bool, part_of: Callable[[Path], Path]) -> Iterator[Path]:
    """Context manager that locks the name of a file to be written.

    With `count_up` it takes a name that no file has: `wanted`, else NAME_2, NAME_3 and so on. The
    file `part_of(name)`, which a killed run may have left, must not be there either. Without
    `count_up`, raises InUse if another process is writing `wanted`. If that is a link, the file
    that it leads to is locked. Raises OSError if nothing can be written there.
    """
    if wanted.is_symlink():
        wanted = wanted.resolve()
    if not count_up:
        with locked(wanted):
            yield wanted
        return
    for number in count(1):
        path = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}_{number}")
        if path.exists() or part_of(path).exists():
            continue
        with ExitStack() as held:
            try:
                held.enter_context(locked(path))
            except InUse:
                continue
            if path.exists():  # another process wrote it before this one got the lock
                continue
            yield path
            return


def lock_file(thing: Path) -> Path:
    """The hidden lock file of a file or folder, next to it."""
    whole = thing.resolve()
    return whole.with_name(f".{whole.name}.lock")


def _acquire(path: Path, thing: str | Path, wait: bool) -> int | None:
    """An open, locked file; None if locking is impossible."""
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
    """The opened lock file; None if it cannot be written in the folder."""
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
    if sys.platform != "win32":  # Windows removes no open file; an unlocked file does no harm
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file; raises OSError if another process holds the lock."""
    if sys.platform == "win32":
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text, which others read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the open file still exists; the previous holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    command = " ".join(sys.argv)[:200] or "python"
    process = f"process {os.getpid()} on {socket.gethostname()}"
    text = f"{process} since {time.strftime('%H:%M')} ({command})"
    with suppress(OSError):  # a full disk does not matter: the lock itself needs no space
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode("utf-8", "replace"))


def _read_holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, 1000).decode("utf-8", "replace").strip()
    return text or "another process"
