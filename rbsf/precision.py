"""Which floating-point types results are kept in."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def widen(x: Tensor) -> Tensor:
    """`x` in float32 where it has 16 bits, else as it is."""
    return x.float() if x.dtype in HALVES else x
