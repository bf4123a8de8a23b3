"""Sign functions with sign(0) = +1, and the straight-through gradients that train through them.

All functions take tensors of any shape and float dtype. The result has the same dtype, and the same
shape unless a `Frame` makes the map larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Pixels of value `border` around a map: `rows` above and below, `columns` on either side."""

    rows: int = 0
    columns: int = 0
    border: float = -1.0

    def around(self, x: Tensor) -> Tensor:
        """A new map with the frame around a space as large as `x` `[..., H, W]`, not yet filled."""
        height = x.shape[-2] + 2 * self.rows
        width = x.shape[-1] + 2 * self.columns
        shape = (*x.shape[:-2], height, width)
        memory = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        framed = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory)
        for edge in (
            framed[..., : self.rows, :],
            framed[..., height - self.rows :, :],
            framed[..., : self.columns],
            framed[..., width - self.columns :],
        ):
            edge.fill_(self.border)
        return framed

    def inside(self, framed: Tensor) -> Tensor:
        """The part of a framed map inside the frame, `[..., H, W]`."""
        height, width = framed.shape[-2:]
        return framed[..., self.rows : height - self.rows, self.columns : width - self.columns]


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def hard_sign(x: Tensor, frame: Frame | None = None) -> Tensor:
    """-1 where `x` is negative, else +1, without a gradient; `frame` is added around the result."""
    with torch.no_grad():
        framed = frame.around(x) if frame else torch.empty_like(x)
        signs = frame.inside(framed) if frame else framed
        torch.sign(x, out=signs).add_(0.5).sign_()  # torch.sign gives 0 at 0, not a valid bit
    return framed


class _Sign(torch.autograd.Function):
    """Sign in the forward pass, with `slope(x)` as its derivative in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor], frame: Frame | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope, ctx.frame = slope, frame
        return hard_sign(x, frame)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        inner = ctx.frame.inside(grad) if ctx.frame else grad
        return ctx.slope(x).mul_(inner), None, None


def _triangle(x: Tensor) -> Tensor:
    return x.abs().mul_(-2).add_(2).clamp_(min=0)


def _box(x: Tensor) -> Tensor:
    return (x.abs() <= 1).to(x.dtype)


def approx_sign(x: Tensor, frame: Frame | None = None) -> Tensor:
    """Binarize to -1 and +1 (Eq. 5) with the piecewise linear gradient of Eq. 8, as in Bi-Real Net.

    The derivative is 2 + 2x on [-1, 0), 2 - 2x on [0, 1), and 0 elsewhere. `frame` is added around
    the result.
    """
    return _Sign.apply(x, _triangle, frame)


def clip_sign(x: Tensor, frame: Frame | None = None) -> Tensor:
    """Binarize to -1 and +1 as BinaryNet and XNOR-Net do.

    The derivative is 1 on [-1, 1] and 0 elsewhere. `frame` is added around the result.
    """
    return _Sign.apply(x, _box, frame)


def stochastic_sign(x: Tensor) -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1 (BinaryNet, Eq. 2 and 3).

    The gradient is that of `clip_sign`.
    """
    threshold = 1 - 2 * torch.rand_like(x)  # uniform on (-1, 1]
    return straight_through(hard_sign(x - threshold), x.clamp(-1, 1))


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `x`. `x` must be finite and have the same shape."""
    return value.detach() + (x - x.detach())
