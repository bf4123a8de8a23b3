"""Live sources: the newest frame is taken, and those before it are dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import cv2
import numpy as np

Frames = Generator[np.ndarray, None, None]

START_SECONDS = 20.0  # longest wait for the first frame
SILENT_SECONDS = 10.0  # longest wait for a later frame, including attempts to reconnect
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0  # seconds between these attempts; each pause is doubled
END_SECONDS = 2.0  # longest wait for the reader thread to end
POLL_SECONDS = 0.1  # a wait is interrupted this often, so that Ctrl-C works on all systems


class SourceEnded(ValueError):
    """A live source gives no more frames; earlier ones have been yielded."""


@dataclass
class LiveCount:
    """Counts of the frames that arrived, and the age of the last one when it was taken."""

    taken: int = 0
    dropped: int = 0
    age: float = 0.0  # seconds


class NewestFrame:
    """The newest frames of a source, which a thread reads as fast as they come.

    `connect` opens the source and yields its frames, `[H, W, 3]` uint8 RGB. It is called again when
    they end or it raises an error. Iterating takes frames and yields each with its time of arrival,
    in seconds after the first one's. The first frame is kept until it is taken, so that a box that
    is known in advance belongs to it. Iteration ends when `should_stop` returns True; the next one
    opens the source anew. `count` is about the last iteration.

    Raises SourceEnded if no frame comes for too long, or if the source cannot be opened.
    """

    def __init__(self, name: str, connect: Callable[[], Frames]) -> None:
        self.name, self.connect, self.count = name, connect, LiveCount()
        self.should_stop: Callable[[], bool] = lambda: False

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        self.count = LiveCount()
        slot = _Slot(self.name, self.connect, self.count)
        # A daemon thread, because reading from a silent source does not end.
        reader = threading.Thread(target=slot.fill, name=f"reader of {self.name}", daemon=True)
        reader.start()
        begin: float | None = None
        try:
            while taken := slot.take(
                START_SECONDS if begin is None else SILENT_SECONDS, self.should_stop
            ):
                image, arrived = taken
                if begin is None:
                    begin = arrived
                self.count.taken += 1
                self.count.age = time.monotonic() - arrived
                yield image, arrived - begin
        finally:
            slot.close()
            # Python aborts if it exits while a thread is inside OpenCV.
            reader.join(END_SECONDS)

    def describe(self) -> str:
        """One line on the frames so far."""
        taken, dropped, age = self.count.taken, self.count.dropped, self.count.age
        return f"live: {taken} frames tracked, {dropped} dropped; the last was {age:.2f} s old"


class _Slot:
    """Room for one frame, between the thread that reads a source and the one that takes frames."""

    def __init__(self, name: str, connect: Callable[[], Frames], count: LiveCount) -> None:
        self.name, self.connect, self.count = name, connect, count
        self._changed = threading.Condition()
        self._frame: tuple[np.ndarray, float] | None = None  # with the time of its arrival
        self._closed = False
        self._reason = "no frame came"
        self._refused = ""  # why the source could not be opened, before any frame came

    def close(self) -> None:
        """Let the thread that reads end."""
        self._closed = True
        with self._changed:
            self._changed.notify_all()

    def take(
        self, patience: float, should_stop: Callable[[], bool]
    ) -> tuple[np.ndarray, float] | None:
        """Take the frame; None if `should_stop` returns True.

        Raises SourceEnded if no frame comes within `patience` seconds.
        """
        end = time.monotonic() + patience
        with self._changed:
            while self._frame is None:
                if should_stop():
                    return None
                if self._refused:
                    raise SourceEnded(self._refused)
                if time.monotonic() > end:
                    raise SourceEnded(self._complaint(patience))
                self._changed.wait(POLL_SECONDS)
            taken, self._frame = self._frame, None
            self._changed.notify_all()
        return taken

    def _complaint(self, patience: float) -> str:
        if not self.count.taken:
            return f"{self.name}: {self._reason} within {patience:.0f} s; is it sending?"
        arrived = self.count.taken + self.count.dropped
        return f"{self.name} broke off after {arrived} frames ({self._reason} for {patience:.0f} s)"

    def fill(self) -> None:
        """Put each new frame into the slot, and reconnect when frames end."""
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                with closing(self.connect()) as frames:
                    for image in frames:
                        pause = FIRST_PAUSE
                        if not self._put(image):
                            return
                self._reason = "no frame came"
            except (ValueError, OSError, cv2.error) as error:
                self._reason = f"no frame came: {error}"
                if not self.count.taken and self._frame is None:
                    self._refused = f"{self.name} {error}"
                    return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _put(self, image: np.ndarray) -> bool:
        """Fill the slot. Returns False if nobody takes frames any more."""
        with self._changed:
            while self._frame is not None and not self.count.taken and not self._closed:
                self._changed.wait(POLL_SECONDS)  # the first frame is not dropped
            if self._frame is not None:
                self.count.dropped += 1
            self._frame = (image, time.monotonic())
            self._changed.notify_all()
        return not self._closed
