"""Ends a long job on Ctrl-C or SIGTERM without losing its results."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Context manager: Ctrl-C and SIGTERM set `signum` instead of ending the program.

    A second signal of the same kind ends the program.
    """

    def __enter__(self) -> StopRequest:
        self.signum = 0
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, self._old[signal.Signals(signum)])
