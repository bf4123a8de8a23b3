"""What a benchmark runs: a tracker, and how it is told to worker processes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from rbsf.tracker.states import Result


class Tracker(Protocol):
    """What a benchmark runs: `rbsf.tracker.siamfc.SiamFC`, or a class with the same two methods."""

    def init(self, image: np.ndarray, box: np.ndarray) -> object:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of the first frame.

        `image`: `[H, W, 3]` uint8 RGB.
        """

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, `[H, W, 3]` uint8 RGB."""


@dataclass(frozen=True)
class TrackerSpec(ABC):
    """Which tracker to run, small enough to be sent to a worker process."""

    label: str  # in tables
    files: tuple[Path, ...] = ()  # weights, models or a user's code
    constants: str = ""  # what its constants are called; empty for its own

    @abstractmethod
    def load(self, threads: int) -> Tracker:
        """Load the tracker, to run with so many CPU threads.

        Raises ValueError or OSError for a file that cannot be used.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the name of its results begins with."""

    @property
    def decisive(self) -> str:
        """What its boxes depend on beside its files and OpenCV.

        Raises ValueError for a device that is missing.
        """
        return ""

    @property
    def arithmetic(self) -> str | None:
        """What one of our networks computes in: "packed", or PyTorch's precision."""
        return None

    def build(self, threads: int = 1) -> Tracker:
        """`load` the tracker, and let OpenCV have as many threads; errors are those of `load`."""
        cv2.setNumThreads(threads)
        return self.load(threads)

    def key(self) -> str:
        """Name of the results, which ends in a digest of all that the boxes depend on.

        These are the files, OpenCV's version, and what `decisive` says. Data that a user's code
        reads are left out. Errors are those of `decisive`.
        """
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        digest.update(cv2.__version__.encode())  # OpenCV also decodes and crops for our networks
        digest.update(self.decisive.encode())
        return f"{self.name}-{digest.hexdigest()[:8]}"

    def size(self) -> int | None:
        """Bytes of the weights or models; None for a tracker without."""
        return sum(file.stat().st_size for file in self.files) if self.files else None


class Kind(Protocol):
    """A subclass of `TrackerSpec` that says itself how it is written after --tracker."""

    @property
    def FORMS(self) -> tuple[str, ...]:
        """Ways to write it."""

    def read(self, what: str, label: str) -> TrackerSpec | None:
        """The tracker that `what` is written for; None if it is written for another kind.

        `label`: empty for a name of its own. Raises ValueError for a mistake in `what`, and
        FileNotFoundError for a missing file.
        """


def split_files(names: str) -> tuple[Path, ...]:
    """The files of a list with commas."""
    return tuple(Path(name) for name in names.split(",") if name)


def check_files(files: tuple[Path, ...], what: str) -> None:
    """Raise FileNotFoundError where a file of `--tracker what` is missing."""
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"--tracker {what!r}: no model file {file}")
