"""An index of a large dataset's sequences, kept between runs in one `.npz` file.

The file has plain arrays and no pickle. GOT-10k has 1.4 million frames: without an index, listing
them and reading 9,335 annotations would take minutes at every start.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from rbsf.system.files import write_atomically

FORMAT = "rbsf-index-2"
PARTS = ("counts", "files", "boxes")  # arrays in the file, beside the key


@dataclass(frozen=True, eq=False)
class Record:
    """What is read of one sequence.

    `files`: names of its frames in their folder. `boxes`: `[N, 4]` float64, NaN where the target is
    absent.
    """

    files: list[str]
    boxes: np.ndarray


def default_cache() -> Path:
    """Folder of cached indexes: `RBSF_CACHE`, else `rbsf` in the user's cache folder."""
    if "RBSF_CACHE" in os.environ:
        return Path(os.environ["RBSF_CACHE"])
    named = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME")
    return Path(named or _home() / ".cache") / "rbsf"


def _home() -> Path:
    """The user's home folder, or the folder of temporary files if there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir())


def save_index(path: Path, key: str, records: list[Record]) -> None:
    """Store records under `key`.

    Only warns if they cannot be written, because an index only saves time.
    """
    files = chain.from_iterable(record.files for record in records)
    arrays = {
        "key": np.array(key),
        "counts": np.array([len(record.files) for record in records]),
        "files": np.array(list(map(os.fsencode, files))),
        "boxes": np.concatenate([record.boxes for record in records]),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"index not kept, the next start will be as slow: {error}", stacklevel=2)


def load_index(path: Path, key: str) -> list[Record] | None:
    """Load the records that are stored under `key`.

    Returns None if there are none, if the dataset has changed, or if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            counts, encoded, boxes = (stored[part] for part in PARTS)
    except Exception:  # reading a damaged file may raise anything; the index is then made anew
        return None
    files = list(map(os.fsdecode, encoded.tolist()))
    records = []
    end = 0
    for count in counts.tolist():
        start, end = end, end + count
        records.append(Record(files[start:end], boxes[start:end]))
    return records
