"""Work that a viewer waits for: they see its progress, and may cancel it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TELL_SECONDS = 0.2  # between two messages on progress


class Cancelled(Exception):
    """The viewer has cancelled, or has left."""


class Work:
    """The current work."""

    def __init__(self) -> None:
        self._tell: Callable[[str, int, int], object] = lambda *_: None
        self._cancelled = threading.Event()
        self._gone = threading.Event()  # the viewer has left
        self._told = 0.0

    def begin(self) -> None:
        """Forget that earlier work was cancelled."""
        self._cancelled.clear()
        self._told = time.monotonic()

    def cancel(self) -> None:
        """Let `check` raise in the current work."""
        self._cancelled.set()

    def leave(self) -> None:
        """Let `check` raise from now on."""
        self._gone.set()

    def check(self) -> None:
        """Raise Cancelled if the viewer has left or cancelled."""
        if self._gone.is_set() or self._cancelled.is_set():
            raise Cancelled

    def tell_by(self, tell: Callable[[str, int, int], object]) -> None:
        """Report progress by `tell(what, done, total)`, called from the working thread."""
        self._tell = tell

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress now and then. Raises the errors of `check`."""
        self.check()
        now = time.monotonic()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            self._tell(what, done, total)
