"""A line in which the first ones are served, and the others are told their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

MOST_WAITING = 100


class Turns:
    """Serves `users` at once, in the order in which they come."""

    def __init__(self, users: int) -> None:
        self._users = users
        self._line: list[asyncio.Event] = []  # of each one there; it is set when the line moves

    @property
    def someone_waits(self) -> bool:
        """Whether there are more than are served."""
        return len(self._line) > self._users

    @property
    def is_full(self) -> bool:
        """Whether nobody else may join."""
        return len(self._line) >= self._users + MOST_WAITING

    @asynccontextmanager
    async def turn(self, tell: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Context of one's turn, which is waited for; `tell` is called with each new place, from 1.

        Who leaves makes room, whether they were served or waited.
        """
        moved = asyncio.Event()
        self._line.append(moved)
        try:
            while (place := self._line.index(moved) - self._users + 1) > 0:
                moved.clear()
                await tell(place)
                await moved.wait()
            yield
        finally:
            self._line.remove(moved)
            for other in self._line:
                other.set()
