"""What a sequence in a crop store was cut from.

This shows whether the sequence has changed since, and whether it is a validation sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rbsf.system.files import state_digest
from rbsf.system.text import printable


class Origin(NamedTuple):
    """What a sequence was cut from. Stores made by early versions do not record it.

    `state`: digest of the chosen frames and boxes, and of the sizes and times of their files.
    `place`: path of the first frame's file, or of the video file, with links resolved. `boxes`:
    digest of the boxes of all frames, whatever the sequence's place.
    """

    state: str
    place: str
    boxes: str

    def is_of(self, other: Origin) -> bool:
        """Whether a sequence of the same name is the same one (it has the same place) or a copy."""
        return self.place == other.place or self.boxes == other.boxes


def origin_of(
    files: tuple[str, ...],
    boxes: np.ndarray,
    chosen: np.ndarray | None = None,
    chosen_files: Iterable[str] = (),
) -> Origin:
    """Origin of a sequence of these files and boxes, `[N, 4]`.

    `chosen` `[K]` are the numbers of the frames that are cut out of it, and `chosen_files` their
    files. Without them the state is empty. The files' bytes are not read, since training data may
    have a million files.
    """
    state = ""
    if chosen is not None:
        text = f"{chosen.tolist()} {_digest(boxes[chosen])}"
        distinct = [Path(file) for file in dict.fromkeys(chosen_files)]
        state = state_digest([(text, distinct)])
    return Origin(state, printable(str(Path(files[0]).resolve())), _digest(boxes))


def _digest(boxes: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(boxes).tobytes()).hexdigest()
