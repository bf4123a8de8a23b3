"""Chooses the device that networks run on, and the precision."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch
from torch import nn

from rbsf.system.text import one_line


def choose_device(name: str) -> torch.device:
    """PyTorch's device called `name`; for "auto" a GPU if there is one, else the CPU.

    Raises ValueError if PyTorch does not know the device, or if it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError:  # its message lists 19 kinds of devices
        raise ValueError(f"device {name!r} is not known; give auto, cpu or cuda") from None
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # PyTorch raises one or the other
        reason = one_line(error, 300)
        raise ValueError(f"device {name!r} is not available here: {reason}; try cpu") from error
    return torch.device(name)


# glibc malloc options: how much free memory to keep; the size from which blocks are mapped.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT = (1 << 31) - 1  # bytes


def keep_memory() -> None:
    """Let this process keep the memory of one step for the next, if its C library is glibc.

    The system clears memory that is returned and requested again, which takes 8% of a step's time.
    """
    with suppress(OSError, AttributeError):  # another C library: nothing to do
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(M_MMAP_THRESHOLD, MOST_KEPT):
            mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, in channels-last memory."""
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def name_of(dtype: torch.dtype) -> str:
    """PyTorch's name of a dtype, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """PyTorch's dtype called `precision`; for "auto" bfloat16 if that is fast, else float32.

    bfloat16 is several times as fast on GPUs, and on CPUs with matrix tiles (AMX).
    """
    if precision != "auto":
        return getattr(torch, precision)
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if device.type == "cuda" or has_tiles():
        return torch.bfloat16
    return torch.float32
