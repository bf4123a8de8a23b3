"""What a sequence in a crop store was cut from: has that changed since, and is it one to validate
on?
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rbsf.datasets.video.index import fingerprint


class Origin(NamedTuple):
    """What a sequence was cut from; a store made by an early version does not know."""

    state: str  # digest of the frames and boxes chosen, and of the sizes and times of their files
    place: str  # path of the first frame's file, of a video's its own, links followed
    boxes: str  # digest of the boxes of all frames, the same wherever the sequence lies

    def is_of(self, other: Origin) -> bool:
        """Whether a sequence of the same name is the same one: it lies there, or is a copy."""
        return self.place == other.place or self.boxes == other.boxes


def origin_of(
    files: tuple[str, ...],
    boxes: np.ndarray,
    chosen: np.ndarray | None = None,
    chosen_files: Iterable[str] = (),
) -> Origin:
    """Origin of a sequence of these files and boxes (N, 4), of which the frames `chosen` (K,) are
    cut out.

    Without these the state says nothing. The files' bytes are not read: a training has a million of
    them.
    """
    state = ""
    if chosen is not None:
        text = f"{chosen.tolist()} {_digest(boxes[chosen])}"
        state = fingerprint([(text, [Path(file) for file in dict.fromkeys(chosen_files)])])
    return Origin(state, str(Path(files[0]).resolve()), _digest(boxes))


def _digest(boxes: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(boxes).tobytes()).hexdigest()
