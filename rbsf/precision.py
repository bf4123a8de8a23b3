"""Floating-point types of results."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """`x` as float32 if it has 16 bits, else unchanged."""
    return x.float() if x.dtype in HALVES else x
