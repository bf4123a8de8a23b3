"""Checkpoints of a training run: safe to load from a stranger, versioned, never half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rbsf.system.files import write_atomically
from rbsf.torch_file import read_torch

VERSION = 1


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and lists and dicts of them).  OSError where it
    cannot be written.
    """
    write_atomically(path, lambda temporary: torch.save({"version": VERSION, **state}, temporary))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.  FileNotFoundError, or ValueError for a file that is damaged
    or not ours.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = read_torch(path, "checkpoint of this program", "copy it again, or train anew")
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{path}: not a checkpoint of version {VERSION} of this program")
    return state
