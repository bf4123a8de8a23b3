"""Finds places in the user's code, such as `net.py:12`, for messages."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from types import CodeType

import torch
from torch import nn

# Files that are not the user's: those of PyTorch and of this package.
OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


def calling_place(until: CodeType) -> str:
    """The innermost running line of the user's code; empty if there is none.

    The search ends at the function whose code is `until`.
    """
    frame = inspect.currentframe()
    while frame and frame.f_code is not until:
        if _is_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def failing_place(error: BaseException) -> str:
    """The innermost line of the user's code that raised `error`; empty if there is none."""
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(entry.filename):
            return f"{entry.filename}:{entry.lineno}"
    return ""


def defining_place(module: nn.Module) -> str:
    """The line where a module's class begins; empty for PyTorch's own or if it has no source."""
    kind = type(module)
    try:
        file = inspect.getsourcefile(kind) or "<"
        return f"{file}:{inspect.getsourcelines(kind)[1]}" if _is_users(file) else ""
    except (OSError, TypeError):  # a class typed into a console has no file
        return ""


def _is_users(file: str) -> bool:
    return not file.startswith(OTHERS)
