"""SiamFC's AlexNet: the float teacher, and the frame of RB-SF and XNOR-SF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rbsf.models import build

UNIT = 32  # hidden channels come in multiples of it
# out channels, kernel, stride, groups, pooled after?   (SiamFC, table 1)
LAYERS = (
    (96, 11, 2, 1, True),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (384, 3, 1, 2, False),
    (256, 3, 1, 2, False),
)


class ConvBlock(nn.Module):
    """Convolution, batch-norm, then ReLU and 3x3 max-pooling where asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        groups: int,
        *,
        norm: bool,
        relu: bool,
        pool: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.pool = nn.MaxPool2d(3, 2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, H', W']."""
        return self.relu(
            self.pool(self.norm(self.conv(x)))
        )  # the same as pooling last, on a quarter of the values


def check_width(width: float) -> None:
    """ValueError for what is no width of an `AlexNet`."""
    if not (isinstance(width, (int, float)) and 0 < width <= 4):
        raise ValueError(
            f"width is {width!r}; give a factor of the hidden channels, above 0 and at most 4"
        )


class AlexNet(nn.Module):
    """Fully convolutional AlexNet without padding, stride 8: RGB [N, 3, S, S] in 0..255 to [N, 256,
    S', S'].

    S = 127 gives S' = 6, S = 255 gives 22.  As SiamFC's: ReLU after all layers but the last, which
    has no batch-norm.  `for_binary` gives the frame of a 1-bit network: no ReLU, since the sign of
    a rectified map is constant, and a batch-norm after the last convolution too, to give its sums a
    scale.  `width` multiplies the channels of all layers but the last, rounded to multiples of 32.
    ValueError for one that is not in (0, 4].
    """

    def __init__(self, for_binary: bool = False, width: float = 1.0) -> None:
        super().__init__()
        check_width(width)
        self.layers = nn.Sequential()
        inputs = 3
        for number, (outputs, kernel, stride, groups, pool) in enumerate(LAYERS):
            last = number == len(LAYERS) - 1
            outputs = outputs if last else max(UNIT, UNIT * round(outputs * width / UNIT))
            block = ConvBlock(
                inputs,
                outputs,
                kernel,
                stride,
                groups,
                norm=for_binary or not last,
                relu=not (for_binary or last),
                pool=pool,
            )
            self.layers.append(block)
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)


def slimmed(net: nn.Module, width: float) -> nn.Module:
    """The real SiamFC of that `width` with the weights of a part of the channels of `net`, a wider
    one.

    Of each half of a layer's channels the first are taken, so that each of two groups reads what it
    did.  ValueError where `net` is narrower.
    """
    slim, wide = build("siamfc", width=width), net.state_dict()
    for key, own in slim.state_dict().items():
        value, module = wide[key], slim.get_submodule(key.rpartition(".")[0])
        if own.ndim:  # all but counters
            value = _first(value, 0, own.shape[0], 2)
        if isinstance(module, nn.Conv2d) and own.ndim > 1 and module.in_channels > 3:
            value = _first(value, 1, own.shape[1], 2 // module.groups)
        own.copy_(value)
    return slim


def _first(value: Tensor, dim: int, size: int, parts: int) -> Tensor:
    """Of each of `parts` equal parts of `value` along `dim` the first, `size` in all."""
    if size > value.shape[dim]:
        raise ValueError(
            f"{value.shape[dim]} channels cannot start {size}; give a teacher as wide as the student"
        )
    index = (
        torch.arange(value.shape[dim], device=value.device)
        .view(parts, -1)[:, : size // parts]
        .flatten()
    )
    return value.index_select(dim, index)
