"""Layers with values that are whole numbers of steps.

A network of these layers computes exactly the same numbers in PyTorch and when packed. The values
of maps are multiples of STEP. Rounding passes gradients on unchanged (straight-through).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.binarize import straight_through
from rbsf.engine.node import LARGEST_PIXEL
from rbsf.engine.ops.conv_u8 import MAX_WEIGHT

STEP = 1 / 32  # unit of the values of maps
LIMIT = 1023  # most steps that a layer may add to a map; sums of 32 such layers fit 16 bits
SCALE_BITS = 7  # bits of a scale's mantissa
# Smallest value of a scale's last bit; with it, 24 bits hold biases and slopes exactly.
LAST_BIT = 2.0**-13
LARGEST_BIAS = 32.0
PRODUCT_BITS = 23  # bits of a sum times its scale; with a bias it fits the 24 bits of a float32
STEM_LAST_BIT = 2.0**-20
STEM_LARGEST_BIAS = 8.0
SLOPE_STEPS = 16  # number of steps in a slope of 1
BYTE = 127  # limit of the weights of 8-bit layers, and of their inputs in steps
TINY = 1e-12  # replaces 0 in logarithms


def _whole(x: Tensor, unit: Tensor | float) -> Tensor:
    """The multiples of `unit` nearest to `x`, with the gradient of `x`."""
    return straight_through(torch.round(x / unit) * unit, x)


class _RoundToSteps(torch.autograd.Function):
    """Rounds to steps and clips; the gradient is that of the clipping.

    One function replaces five, since training spends most of its time on such passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.largest = limit * STEP
        return torch.mul(x, 1 / STEP).round_().clamp_(-limit, limit).mul_(STEP)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, -ctx.largest, ctx.largest), None


class Round(nn.Module):
    """Rounds to multiples of STEP and clips to +-`limit` steps; the shape does not change.

    Halves are rounded to the even multiple.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _RoundToSteps.apply(x, self.limit)

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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def slopes(self) -> Tensor:
        """The rounded slopes, `[C]`."""
        bounded = self.weight.clamp(-1, 1)
        return straight_through(torch.round(bounded * SLOPE_STEPS) / SLOPE_STEPS, bounded)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        return F.prelu(x, self.slopes())


class _Moments(torch.autograd.Function):
    """Variance and mean `[C]` of the channels of `[N, C, H, W]`; many times faster than var_mean.

    Both can be differentiated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((0, 2, 3))
        centred = x - mean[:, None, None]
        ctx.save_for_backward(x, mean)
        return centred.mul_(centred).mean((0, 2, 3)), mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        of_variance, of_mean = (grad * (x.shape[1] / x.numel()) for grad in grads)
        slope = 2 * of_variance
        offset = of_mean - mean * slope
        return torch.addcmul(offset[:, None, None], x, slope[:, None, None])


class WholeNorm(nn.BatchNorm2d):
    """Batch-norm of whole sums `[N, C, H, W]` as `scale * x + bias`.

    Each product and sum is exact in float32: a channel's scale has `bits` bits, and its bias is a
    multiple of the scale's last bit. That bit is at least `last_bit`, and the magnitude of a bias
    is at most `largest_bias`.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        bits: int = SCALE_BITS,
        last_bit: float = LAST_BIT,
        largest_bias: float = LARGEST_BIAS,
    ) -> None:
        super().__init__(channels)
        self.bits, self.last_bit, self.largest_bias = bits, last_bit, largest_bias

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

        They are computed in float64, so that they are the same in every precision.
        """
        gain = self.weight.double() / torch.sqrt(variance.double() + self.eps)
        exponent = torch.floor(torch.log2(gain.detach().abs().clamp(min=TINY)))
        last_bit = torch.exp2(exponent - (self.bits - 1)).clamp(min=self.last_bit)
        bias = self.bias.double() - mean.double() * gain
        bounded = bias.clamp(-self.largest_bias, self.largest_bias)
        return _whole(gain, last_bit), _whole(bounded, last_bit)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, `[C]`.

        In training they come from the batch and update the running statistics; else they are the
        running statistics.
        """
        if not self.training:
            return self.running_mean, self.running_var
        variance, mean = _Moments.apply(x)
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
    """A convolution without padding; its weights are whole multiples of a power of two.

    Each filter has its own power of two, and weights of up to 127 times that. The bias is a
    multiple of that power times STEP, the unit of the input.
    """

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weight `[O, I, k, k]` and bias `[O]`."""
        assert self.bias is not None  # for the type checker
        step = self.step()
        return _whole(self.weight, step[:, None, None, None]), _whole(self.bias, step * STEP)

    def step(self) -> Tensor:
        """The power of two `[O]` of each filter."""
        return torch.exp2(torch.ceil(torch.log2(_largest(self.weight) / BYTE)))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to `[N, O, H', W']`; exact in float32 for multiples of STEP."""
        weight, bias = self.rounded()
        return F.conv2d(x, weight, None, self.stride) + bias[:, None, None]


class Stem(nn.Conv2d):
    """The first convolution: pixels 0 to 255, `[N, 3, S, S]`, to whole numbers.

    A filter's weights are whole numbers, the largest of them 63. Their unit does not matter, since
    the batch-norm that follows removes it.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(3, channels, kernel, stride, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weight `[O, 3, k, k]` and a bias of 0, `[O]`."""
        unit = _largest(self.weight) / MAX_WEIGHT
        return _whole(self.weight / unit[:, None, None, None], 1), torch.zeros_like(unit)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, S, S]` to `[N, O, S', S']`, exact in float32."""
        return F.conv2d(x, self.rounded()[0], None, self.stride)


def norm_of_stem(stem: Stem) -> WholeNorm:
    """The batch-norm of a stem's whole numbers; its scales get the bits that the numbers leave.

    Raises ValueError if no bits are left.
    """
    largest = MAX_WEIGHT * LARGEST_PIXEL * stem.weight[0].numel()
    bits = PRODUCT_BITS - math.ceil(math.log2(largest))
    if bits < 1:
        raise ValueError(f"stem is {stem.kernel_size[0]}; give 9 or less, whose sums are exact")
    return WholeNorm(stem.out_channels, bits, STEM_LAST_BIT, STEM_LARGEST_BIAS)


def _largest(weight: Tensor) -> Tensor:
    """The largest absolute weight of each filter `[O, I, k, k]`, `[O]`, without a gradient."""
    return weight.detach().abs().amax((1, 2, 3)).clamp(min=TINY)
