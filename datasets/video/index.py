"""What is known of a large dataset's sequences, kept between runs in one `.npz` file (plain
arrays, no pickle).

GOT-10k has 1.4 million frames: listing them and reading 9,335 annotations at every start would take
minutes.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rbsf.system.files import write_atomically

FORMAT = "rbsf-index-1"


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence: `files` are names of frames in `folder`; `boxes` (N, 4) float64, NaN
    where absent.
    """

    name: str
    folder: str
    files: list[str]
    boxes: np.ndarray


def default_cache() -> Path:
    """Folder of cached indexes: `RBSF_CACHE`, else `rbsf` in the user's cache folder."""
    if "RBSF_CACHE" in os.environ:
        return Path(os.environ["RBSF_CACHE"])
    home = (
        os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    )
    return Path(home) / "rbsf"


def fingerprint(descriptions: Iterable[tuple[str, list[Path]]]) -> str:
    """Digest of each sequence's description and of the state of the files and folders it was read
    from.

    A folder's time changes when a frame is added or removed, so that none has to be listed.
    """
    digest = hashlib.sha256(FORMAT.encode())
    for text, paths in descriptions:
        digest.update(text.encode())
        for path in paths:
            try:
                state = path.stat()
                digest.update(f"{state.st_mtime_ns} {state.st_size}".encode())
            except OSError:
                digest.update(b"missing")
    return digest.hexdigest()


def save_index(path: Path, key: str, records: list[Record]) -> None:
    """Store records under `key`; where that cannot be written a warning is all, for it only saves
    time.
    """
    arrays = {
        "key": np.array(key),
        "names": np.array([r.name for r in records]),
        "folders": np.array([r.folder for r in records]),
        "counts": np.array([len(r.files) for r in records]),
        "files": np.array([os.fsencode(f) for r in records for f in r.files]),
        "boxes": np.concatenate([r.boxes for r in records]),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"index not kept, the next start will be as slow: {error}", stacklevel=2)


def load_index(path: Path, key: str) -> list[Record] | None:
    """Records stored under `key`; None where there are none, they are of another state, or the
    file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = {
                name: stored[name] for name in ("names", "folders", "counts", "files", "boxes")
            }
    except Exception:  # a parser of damaged files raises anything; the index is made anew
        return None
    ends = np.cumsum(arrays["counts"])
    files = [os.fsdecode(f) for f in arrays["files"].tolist()]
    return [
        Record(str(name), str(folder), files[end - count : end], arrays["boxes"][end - count : end])
        for name, folder, count, end in zip(
            arrays["names"], arrays["folders"], arrays["counts"], ends, strict=True
        )
    ]
