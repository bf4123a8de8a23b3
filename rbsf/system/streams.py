"""Standard output and standard error, whose failures end no program."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

ONE_AT_A_TIME = Lock()  # standard error is that of the whole process


class _Unfailing:
    """A standard stream; text that it cannot write any more is dropped."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self.failure: OSError | None = None  # the first one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`; returns its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write to nowhere from now on, also what is still in the stream's memory."""
        self.failure = self.failure or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def mend_streams() -> None:
    """Keep the program alive if a stream is closed, full or broken, or cannot encode a text."""
    for number in range(3):
        _open_if_closed(number)
    sys.stdout = _mended(sys.stdout, 1)
    sys.stderr = _mended(sys.stderr, 2)


def failed_output() -> int:
    """The exit code that says whether output was lost: 0 or 1; a reader that ends loses none."""
    failures = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        failure = getattr(stream, "failure", None)
        if failure and not isinstance(failure, BrokenPipeError):
            failures.append(f"error: cannot write to {name}: {failure.strerror}")
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _open_if_closed(number: int) -> None:
    """Give the number of a closed stream to nowhere, so that no other file gets it."""
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _mended(stream: Any, number: int) -> Any:
    if stream is None:
        return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):  # mended already, or one of an embedder
        return stream
    stream.reconfigure(errors="backslashreplace")
    return _Unfailing(stream)


@contextmanager
def stderr_to(descriptor: int) -> Iterator[None]:
    """Let the whole process, libraries too, write standard error to a file in this context."""
    with ONE_AT_A_TIME:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(descriptor, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
