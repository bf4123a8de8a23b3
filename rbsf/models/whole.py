"""Layers whose values are whole numbers of steps, so that a network is the same to the bit in
PyTorch and when packed.

A map's values are multiples of STEP.  What rounds passes the gradient on as if it did not
(straight-through).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.binarize import straight_through

STEP = 1 / 32  # of the values of maps
LIMIT = 1023  # steps that what a layer adds to a map may have: sums of 32 such layers fit 16 bits
SCALE_BITS = 7  # of the mantissa of a scale
LAST_BIT = (
    2.0**-13
)  # the least that the last of these may be: with biases up to 32 and a slope 24 bits hold all
LARGEST_BIAS = 32.0
SLOPE_STEPS = 16  # of a slope of 1
WEIGHT_LIMIT = 63  # steps of a stem's weight: products with pixels that two and two fit 16 bits


class _WholeConv(torch.autograd.Function):
    """A convolution without padding whose gradients are computed in a dtype of their own."""

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
        inputs, weights, _ = torch.ops.aten.convolution_backward(
            grad.to(x.dtype), x, kernel, None, ctx.stride, (0, 0), (1, 1), False, (0, 0), 1, wanted
        )
        return (
            *(None if part is None else part.to(grad.dtype) for part in (inputs, weights)),
            None,
            None,
        )


def conv_of_signs(
    x: Tensor, kernel: Tensor, stride: tuple[int, ...], gradients: torch.dtype
) -> Tensor:
    """`F.conv2d` of signs [N, I, H, W] with signs [O, I, k, k], whole sums; gradients are computed
    in that dtype.
    """
    return _WholeConv.apply(x, kernel, stride, gradients)


class Round(nn.Module):
    """Multiples of STEP, at most LIMIT of them, half ones to the even one; the same shape."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        bounded = x.clamp(-self.limit * STEP, self.limit * STEP)
        return straight_through(torch.round(bounded / STEP) * STEP, bounded)

    def extra_repr(self) -> str:
        """The limit."""
        return f"limit={self.limit}"


class Shift(nn.Module):
    """A number added to each channel of [N, C, H, W], in front of a sign: its threshold."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.bias[:, None, None]


class Slope(nn.Module):
    """PReLU whose slopes [C] are multiples of 1/16 from -1 to 1."""

    def __init__(self, channels: int, start: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), start))

    def slopes(self) -> Tensor:
        """The rounded slopes, [C]."""
        bounded = self.weight.clamp(-1, 1)
        return straight_through(torch.round(bounded * SLOPE_STEPS) / SLOPE_STEPS, bounded)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return F.prelu(x, self.slopes())


class WholeNorm(nn.BatchNorm2d):
    """Batch-norm of whole sums [N, C, H, W] as ``scale * x + bias``, each product and sum exact in
    float32.

    A channel's scale has `bits`; its bias is a multiple of the scale's last bit, which has any
    exponent from -13 up.
    """

    def __init__(self, channels: int, bits: int = SCALE_BITS) -> None:
        super().__init__(channels)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        scale, bias = (part.to(x.dtype) for part in self.scale_and_bias(*self._statistics(x)))
        return x * scale[:, None, None] + bias[:, None, None]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Scale and bias [C] in eval mode."""
        assert self.running_mean is not None  # it has statistics; this is for the type checker
        assert self.running_var is not None
        return self.scale_and_bias(self.running_mean, self.running_var)

    def scale_and_bias(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded scale and bias [C] for these statistics: in float64, so that they are the same in
        every precision.
        """
        gain = self.weight.double() / torch.sqrt(variance.double() + self.eps)
        bit = torch.exp2(
            torch.floor(torch.log2(gain.detach().abs().clamp(min=1e-12))) - (self.bits - 1)
        )
        bit = bit.clamp(min=LAST_BIT)
        scale = straight_through(torch.round(gain / bit) * bit, gain)
        bias = (self.bias.double() - mean.double() * gain).clamp(-LARGEST_BIAS, LARGEST_BIAS)
        return scale, straight_through(torch.round(bias / bit) * bit, bias)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel: the batch's in training, which go into the running
        ones, else these.
        """
        assert self.running_mean is not None  # as above
        assert self.running_var is not None
        if not self.training:
            return self.running_mean, self.running_var
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        with torch.no_grad():
            share = self.momentum if self.momentum is not None else self._share_of_mean()
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(
                variance * (x.numel() / x.shape[1] / (x.numel() / x.shape[1] - 1)), share
            )
        return mean, variance

    def _share_of_mean(self) -> float:
        """Of this batch in the mean over all batches so far."""
        assert self.num_batches_tracked is not None  # as above
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked)


class WholeConv(nn.Conv2d):
    """A convolution whose weights are whole multiples, up to `largest`, of a power of two for each
    filter.

    So is its bias, of that power times `grid`, the unit of its input.
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
        """Weight [O, I, k, k] and bias [O]."""
        assert self.bias is not None  # it has one; this is for the type checker
        step = self.step()
        return _whole(self.weight, step[:, None, None, None]), _whole(self.bias, step * self.grid)

    def step(self) -> Tensor:
        """The power of two [O] that weights are multiples of."""
        largest = self.weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-12)
        return torch.exp2(torch.ceil(torch.log2(largest / self.largest)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, H', W'], no padding; of whole numbers of `grid` exact in float32."""
        weight, bias = self.rounded()
        return F.conv2d(x, weight, None, self.stride) + bias[:, None, None]


def _whole(x: Tensor, unit: Tensor) -> Tensor:
    """Whole multiples of `unit` near `x`."""
    return straight_through(torch.round(x / unit) * unit, x)


class Stem(WholeConv):
    """The first convolution, of pixels 0 to 255, [N, 3, S, S]."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(3, channels, kernel, stride, largest=WEIGHT_LIMIT, grid=1.0)
        with torch.no_grad():
            nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
            self.weight /= 64  # pixels deviate by about so much
