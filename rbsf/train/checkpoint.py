"""Checkpoints of a training run: safe to load from a stranger, versioned, never half-written."""

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
    """Write `state` (tensors, numbers, strings, and lists and dicts of them).  OSError where it
    cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # whose errors say why, which torch's own do not
            torch.save({"version": VERSION, **state}, file)

    write_atomically(path, write)


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


def check_parts(state: dict[str, Any], path: str | Path) -> None:
    """Raise ValueError where the checkpoint `state` of a training lacks a part, or has another."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if wrong or min(state["epoch"], state["index"]) < 0:
        what = ", ".join(map(repr, wrong)) or "a position below 0"
        raise ValueError(f"{path}: not of this network and configuration ({what})")
