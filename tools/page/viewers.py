"""The viewers who are there, each with a folder that is removed when they leave."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbsf.tools.page.desk import Desk
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.work import Work


class Viewer:
    """One open page; `name` is a secret between it and the server."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.name = secrets.token_urlsafe(16)
        self.folder = folder / secrets.token_hex(8)
        self.work = Work()
        self.desk = Desk(settings, self.folder, self.work)
        self.served = False  # whether it is their turn
        self.sending = False  # whether an upload is under way


class Viewers:
    """All viewers, by name; their folders are in `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._there: dict[str, Viewer] = {}

    @contextmanager
    def enter(self) -> Iterator[Viewer]:
        """Context of a viewer's visit; nothing of theirs stays on the disk behind it."""
        viewer = Viewer(self._settings, self._folder)
        viewer.folder.mkdir(mode=0o700)
        self._there[viewer.name] = viewer
        try:
            yield viewer
        finally:
            viewer.work.leave()
            del self._there[viewer.name]
            viewer.desk.close()
            shutil.rmtree(viewer.folder, ignore_errors=True)

    def find(self, name: str) -> Viewer:
        """The viewer of that name; Refused where there is none, or it is not their turn."""
        viewer = self._there.get(name)
        if viewer is None:
            raise Refused("the server does not know this page any more; load it again", 404)
        if not viewer.served:
            raise Refused("it is not your turn yet; wait until the page says so", 409)
        return viewer
