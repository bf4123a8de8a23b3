"""Where networks run, and in which arithmetic."""

from __future__ import annotations

import torch
from torch import nn


def choose_device(name: str) -> torch.device:
    """PyTorch's device called `name`, for "auto" a GPU if there is one; ValueError where it is not
    to be had.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # torch's two ways to say that a device is not there
        raise ValueError(
            f"device {name!r} is not available here: {str(error).splitlines()[0]}; try cpu"
        ) from error


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, channels last."""
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPUs and on CPUs with matrix tiles (AMX), where it is several times as
    fast.
    """
    if precision != "auto":
        return getattr(torch, precision)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device.type == "cuda" or tiles() else torch.float32
