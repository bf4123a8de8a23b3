"""The present viewers, each with a folder that is removed when they leave, and their line."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from anyio import CancelScope

from rbsf.tools.page.desk import Desk
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.work import Work

MOST_WAITING = 100


class Viewer:
    """One open page; `name` is a secret between it and the server."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.name = secrets.token_urlsafe(16)
        self.folder = folder / secrets.token_hex(8)
        self.work = Work()
        self.desk = Desk(settings, self.folder, self.work)
        self.served = False  # whether it is their turn
        self.upload: CancelScope | None = None  # scope of the current upload

    def leave(self) -> None:
        """Cancel their work and their upload."""
        self.work.leave()
        if self.upload:
            self.upload.cancel()


class Viewers:
    """All viewers, by name; their folders are in `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._there: dict[str, Viewer] = {}

    @contextmanager
    def enter(self) -> Iterator[Viewer]:
        """Context of a viewer's visit; nothing of theirs stays on the disk afterwards."""
        viewer = Viewer(self._settings, self._folder)
        viewer.folder.mkdir(mode=0o700)
        self._there[viewer.name] = viewer
        try:
            yield viewer
        finally:
            viewer.leave()
            del self._there[viewer.name]
            viewer.desk.close()
            shutil.rmtree(viewer.folder, ignore_errors=True)

    def find(self, name: str) -> Viewer:
        """The viewer of that name. Raises Refused if there is none, or it is not their turn."""
        viewer = self._there.get(name)
        if viewer is None:
            raise Refused("the server does not know this page any more; load it again", 404)
        if not viewer.served:
            raise Refused("it is not your turn yet; wait until the page says so", 409)
        return viewer


class Turns:
    """A line in which the first `users` are served, and the others are told their place."""

    def __init__(self, users: int) -> None:
        self._users = users
        self._line: list[asyncio.Event] = []  # one for each viewer, set when the line moves

    @property
    def someone_waits(self) -> bool:
        """Whether more viewers are present than are served."""
        return len(self._line) > self._users

    @property
    def is_full(self) -> bool:
        """Whether nobody else may join."""
        return len(self._line) >= self._users + MOST_WAITING

    @asynccontextmanager
    async def turn(self, tell: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Context of a viewer's turn; before it, `tell` is called with each new place, from 1.

        A viewer who leaves makes room, whether they were served or waited.
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
