"""The server's settings, and the error with which it refuses a request."""

from __future__ import annotations

from dataclasses import dataclass

from rbsf.tools.tracking.span import DEFAULT_FPS, Place

MEGABYTE = 1_000_000
LEAST_SIDE = 4  # smallest side of a drawn box, in pixels


class Refused(ValueError):
    """Something that a viewer asked for cannot be done; the message is a sentence for them.

    `status` is the code of the HTTP answer.
    """

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Settings:
    """Limits, and the threads of each viewer's networks."""

    users: int = 2  # viewers who may track at once
    threads: int | None = None  # None for all cores
    max_upload: int = 500  # megabytes
    max_length: Place = 9000  # longest video, in frames or seconds
    idle_seconds: float = 300.0  # idle time after which a viewer makes room for one who waits

    @property
    def most_bytes(self) -> int:
        """Most bytes of an upload, and of the frames that are kept for a viewer."""
        return self.max_upload * MEGABYTE

    def most_frames(self, fps: float | None) -> int:
        """Most frames of a video at a rate, by default DEFAULT_FPS."""
        if isinstance(self.max_length, int):
            return self.max_length
        return round(self.max_length * (fps or DEFAULT_FPS))

    @property
    def length_in_words(self) -> str:
        """The longest video, such as "9000 frames" or "60 seconds"."""
        unit = "frames" if isinstance(self.max_length, int) else "seconds"
        return f"{self.max_length:g} {unit}"
