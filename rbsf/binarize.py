"""Sign functions with sign(0) = +1, and the straight-through gradients that train through them.

All take tensors of any shape and float dtype, and keep both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def hard_sign(x: Tensor) -> Tensor:
    """-1 where `x` is negative, else +1, without a gradient."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)  # torch.sign gives 0 at 0, which is no bit value


class _Sign(torch.autograd.Function):
    """Sign in the forward pass, with `slope(x)` as its derivative in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return ctx.slope(x).mul_(grad), None


def _triangle(x: Tensor) -> Tensor:
    return x.abs().mul_(-2).add_(2).clamp_(min=0)


def _box(x: Tensor) -> Tensor:
    return (x.abs() <= 1).to(x.dtype)


def approx_sign(x: Tensor) -> Tensor:
    """Binarize to -1 and +1 (Eq. 5) with the piecewise linear gradient of Eq. 8, as in Bi-Real Net.

    The derivative is 2 + 2x on [-1, 0), 2 - 2x on [0, 1), and 0 elsewhere.
    """
    return _Sign.apply(x, _triangle)


def clip_sign(x: Tensor) -> Tensor:
    """Binarize to -1 and +1 as BinaryNet and XNOR-Net do.

    The derivative is 1 on [-1, 1] and 0 elsewhere.
    """
    return _Sign.apply(x, _box)


def stochastic_sign(x: Tensor) -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1 (BinaryNet, Eq. 2 and 3).

    The gradient is that of `clip_sign`.
    """
    threshold = 1 - 2 * torch.rand_like(x)  # uniform on (-1, 1]
    return straight_through(hard_sign(x - threshold), x.clamp(-1, 1))


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `x`, which is finite and of the same shape."""
    return value.detach() + (x - x.detach())
