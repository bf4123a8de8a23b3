"""Sign with sign(0) = +1, and the straight-through gradients that train through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ApproxSign(torch.autograd.Function):
    """Eq. 5 forwards, Eq. 8 backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)


class _ClipSign(torch.autograd.Function):
    """Sign forwards, the gradient of hardtanh backwards (BinaryNet, XNOR-Net)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


def _sign(x: Tensor) -> Tensor:
    # torch.sign gives 0 at 0, which is no bit value.
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def approx_sign(x: Tensor) -> Tensor:
    """Binarize to -1, +1 (Eq. 5) with the piecewise linear gradient of Eq. 8, as Bi-Real Net does.

    d sign / dx = 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0.  Any shape and float dtype; both are kept.
    """
    return _ApproxSign.apply(x)


def clip_sign(x: Tensor) -> Tensor:
    """Binarize to -1, +1 with d sign / dx = 1 on [-1, 1], else 0.  Any shape and float dtype; both are kept."""
    return _ClipSign.apply(x)
