"""Layers whose values are whole numbers of steps.

A network of them gives the same numbers to the bit in PyTorch and when packed. The values of maps
are multiples of STEP. What rounds passes the gradient on as if it did not (straight-through).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.binarize import straight_through

STEP = 1 / 32  # of the values of maps
LIMIT = 1023  # steps that a layer may add to a map; sums of 32 such layers fit 16 bits
SCALE_BITS = 7  # of the mantissa of a scale
LAST_BIT = (
    2.0**-13
)  # least value of a scale's last bit; 24 bits then hold biases and slopes exactly
LARGEST_BIAS = 32.0
SLOPE_STEPS = 16  # of a slope of 1
WEIGHT_LIMIT = 63  # steps of a stem's weight; the sum of two products with pixels fits 16 bits
TINY = 1e-12  # stands for 0 where a logarithm is taken


class _WholeConv(torch.autograd.Function):
    """A convolution without padding whose gradients are computed in a given dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, stride: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x.to(dtype), kernel.to(dtype))
        ctx.stride = stride
        return F.conv2d(x, kernel, None, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, kernel = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        x_grad, kernel_grad, _ = torch.ops.aten.convolution_backward(
            grad.to(x.dtype), x, kernel, None, ctx.stride, (0, 0), (1, 1), False, (0, 0), 1, wanted
        )
        return _cast(x_grad, grad.dtype), _cast(kernel_grad, grad.dtype), None, None


def _cast(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if grad is None else grad.to(dtype)


def conv_of_signs(
    x: Tensor, kernel: Tensor, stride: tuple[int, ...], gradients: torch.dtype
) -> Tensor:
    """`F.conv2d` of signs `[N, I, H, W]` with signs `[O, I, k, k]`, which gives whole sums.

    Gradients are computed in the dtype `gradients`.
    """
    return _WholeConv.apply(x, kernel, stride, gradients)


def _whole(x: Tensor, unit: Tensor | float) -> Tensor:
    """The multiples of `unit` nearest to `x`, with the gradient of `x`."""
    return straight_through(torch.round(x / unit) * unit, x)


class Round(nn.Module):
    """Rounds to multiples of STEP and bounds them to `limit` steps; the shape stays.

    Halves are rounded to the even multiple.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        bounded = x.clamp(-self.limit * STEP, self.limit * STEP)
        return _whole(bounded, STEP)

    def extra_repr(self) -> str:
        """The limit."""
        return f"limit={self.limit}"


class Shift(nn.Module):
    """A number added to each channel of `[N, C, H, W]`: the threshold of the sign that follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.bias[:, None, None]


class Slope(nn.Module):
    """PReLU with slopes `[C]` that are multiples of 1/16 from -1 to 1."""

    def __init__(self, channels: int, start: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), start))

    def slopes(self) -> Tensor:
        """The rounded slopes, `[C]`."""
        bounded = self.weight.clamp(-1, 1)
        return straight_through(torch.round(bounded * SLOPE_STEPS) / SLOPE_STEPS, bounded)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        return F.prelu(x, self.slopes())


class WholeNorm(nn.BatchNorm2d):
    """Batch-norm of whole sums `[N, C, H, W]` as `scale * x + bias`.

    Each product and sum is exact in float32: a channel's scale has `bits` bits, and its bias is a
    multiple of the scale's last bit. The exponent of that bit is -13 or more.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, bits: int = SCALE_BITS) -> None:
        super().__init__(channels)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        scale, bias = self.scale_and_bias(*self._statistics(x))
        scale, bias = scale.to(x.dtype), bias.to(x.dtype)
        return x * scale[:, None, None] + bias[:, None, None]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Scale and bias `[C]` in eval mode."""
        return self.scale_and_bias(self.running_mean, self.running_var)

    def scale_and_bias(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded scale and bias `[C]` for these statistics.

        They are float64, so that they are the same in every precision.
        """
        gain = self.weight.double() / torch.sqrt(variance.double() + self.eps)
        exponent = torch.floor(torch.log2(gain.detach().abs().clamp(min=TINY)))
        last_bit = torch.exp2(exponent - (self.bits - 1)).clamp(min=LAST_BIT)
        bias = (self.bias.double() - mean.double() * gain).clamp(-LARGEST_BIAS, LARGEST_BIAS)
        return _whole(gain, last_bit), _whole(bias, last_bit)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, `[C]`.

        In training they are the batch's and update the running ones; else they are the running
        ones.
        """
        if not self.training:
            return self.running_mean, self.running_var
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        with torch.no_grad():
            share = self._share_of_mean() if self.momentum is None else self.momentum
            count = x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / (count - 1)), share)
        return mean, variance

    def _share_of_mean(self) -> float:
        """The share of this batch in the mean over all batches so far."""
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked)


class WholeConv(nn.Conv2d):
    """A convolution without padding, whose weights are whole multiples of a power of two.

    Each filter has its own power of two, and weights up to `largest` times it. The bias is a
    multiple of that power times `grid`, the unit of the input.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        largest: int = 127,
        grid: float = STEP,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.largest, self.grid = largest, grid

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weight `[O, I, k, k]` and bias `[O]`."""
        assert self.bias is not None  # for the type checker
        step = self.step()
        return _whole(self.weight, step[:, None, None, None]), _whole(self.bias, step * self.grid)

    def step(self) -> Tensor:
        """The power of two `[O]` of each filter."""
        largest = self.weight.detach().abs().amax((1, 2, 3)).clamp(min=TINY)
        return torch.exp2(torch.ceil(torch.log2(largest / self.largest)))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to `[N, O, H', W']`; exact in float32 for multiples of `grid`."""
        weight, bias = self.rounded()
        return F.conv2d(x, weight, None, self.stride) + bias[:, None, None]


class Stem(WholeConv):
    """The first convolution, of pixels 0 to 255, `[N, 3, S, S]`."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(3, channels, kernel, stride, largest=WEIGHT_LIMIT, grid=1.0)
        with torch.no_grad():
            nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
            self.weight /= 64  # about the deviation of pixels
