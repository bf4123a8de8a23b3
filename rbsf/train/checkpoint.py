"""Checkpoints of a training run: versioned, never half-written, safe to load from any source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rbsf.system.files import write_atomically
from rbsf.torch_file import read_torch

VERSION = 1
PARTS = {"epoch": int, "index": int, "order": dict, "training": dict, "random": Tensor}


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state`: tensors, numbers, strings, and lists and dicts of them.

    Raises OSError if it cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # its errors name the cause; torch's do not
            torch.save({"version": VERSION, **state}, file)

    write_atomically(path, write)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises FileNotFoundError, or ValueError if the file is damaged or not a checkpoint of ours.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = read_torch(path, "checkpoint of this program", "copy it again, or train anew")
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{path}: not a checkpoint of version {VERSION} of this program")
    return state


def check_parts(state: dict[str, Any], path: str | Path) -> None:
    """Raise ValueError if a part of the checkpoint `state` is missing or of a wrong type."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if wrong or min(state["epoch"], state["index"]) < 0:
        what = ", ".join(map(repr, wrong)) or "a position below 0"
        raise ValueError(f"{path}: does not fit this network and configuration ({what})")
