"""Ends a long job on Ctrl-C, SIGTERM or a closed terminal without losing its results."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal came within `StopRequest.at_once`."""


class StopRequest:
    """Context manager: Ctrl-C, SIGTERM and SIGHUP set `signum` instead of ending the program.

    A second signal of the same kind ends the program. A closed terminal sends SIGHUP; under nohup
    it stays ignored.
    """

    def __enter__(self) -> StopRequest:
        self.signum, self._breaks = 0, False
        self._old = {signum: signal.signal(signum, self._note) for signum in _signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, self._old[signal.Signals(signum)])
        if self._breaks:
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal ends the work by `Interrupted`, which is not raised further.

        For work of which nothing would be lost.
        """
        self._breaks = True
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._breaks = False


def _signals() -> list[signal.Signals]:
    """The signals that ask a program to end."""
    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup and signal.getsignal(hangup) != signal.SIG_IGN:
        signals.append(hangup)
    return signals
