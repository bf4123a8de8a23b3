"""A video that a viewer has sent: check it, and open it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.sources import Frames
from rbsf.tools.page.footage import EndOfVideo, VideoFootage
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.spool import Spool
from rbsf.tools.page.work import Work

HEAD = 1024  # first bytes of a file, which show whether it is a text or a picture
TEXT = re.compile(rb"[\t\n\r -~]{20}")  # no video begins like this, but file lists for FFmpeg do
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class SentVideo:
    """A file on the server, and the viewer's name for it."""

    path: Path
    name: str

    def open(self, settings: Settings, spool: Spool, work: Work) -> VideoFootage:
        """Open its frames. Raises Refused if it is not a video or too long, and Cancelled."""
        self._check_head()
        try:
            frames = open_frames(self.path)
            self._check_length(frames, settings)
            footage = VideoFootage(frames, settings.most_frames(frames.fps), spool, work)
            footage.image(1, work)
        except EndOfVideo:
            raise Refused(
                f"the file {self.name} holds fewer than two frames; choose a video"
            ) from None
        except Refused:
            raise
        except ValueError as error:
            raise Refused(self._in_words(error)) from None
        footage.name, footage.file = self.name, self.path
        return footage

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _check_head(self) -> None:
        """Refuse texts and pictures, whatever their name; FFmpeg opens files that a text lists."""
        with self.path.open("rb") as file:
            head = file.read(HEAD)
        advice = "whatever its name says; choose a video"
        if head.startswith(PICTURES):
            raise Refused(f"the file {self.name} is a picture, {advice}")
        if b"\0" not in head or TEXT.match(head):
            raise Refused(f"the file {self.name} is a text, {advice}")

    def _check_length(self, frames: Frames, settings: Settings) -> None:
        """Refuse a video that is too long according to its header."""
        if frames.count and frames.count > settings.most_frames(frames.fps):
            raise Refused(
                f"the video {self.name} has {frames.count} frames, and this page takes"
                f" {settings.length_in_words}; cut it, or start the server with a larger"
                " --max-length"
            )

    def _in_words(self, error: ValueError) -> str:
        """The text of an error, with the viewer's name for the file in place of the server's."""
        text = str(error).replace(str(self.path), self.name)
        return text.replace(self.path.name, self.name)
