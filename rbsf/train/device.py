"""Where networks run, and in which arithmetic."""

from __future__ import annotations

import torch
from torch import nn


def choose_device(name: str) -> torch.device:
    """PyTorch's device called `name`; for "auto" a GPU if there is one, else the CPU.

    Raises ValueError where the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # PyTorch raises one or the other
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} is not available here: {reason}; try cpu") from error
    return torch.device(name)


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, channels last."""
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """PyTorch's dtype called `precision`; for "auto" bfloat16 where it is fast, else float32.

    It is several times as fast on GPUs, and on CPUs with matrix tiles (AMX).
    """
    if precision != "auto":
        return getattr(torch, precision)
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if device.type == "cuda" or has_tiles():
        return torch.bfloat16
    return torch.float32
