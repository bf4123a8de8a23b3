"""SiamFC's AlexNet: the float teacher, and the base network of RB-SF and XNOR-SF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rbsf.models import build

UNIT = 32  # numbers of hidden channels are multiples of this
LAYERS = (  # output channels, kernel, stride, groups, pooled after? (table 1 of SiamFC)
    (96, 11, 2, 1, True),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (384, 3, 1, 2, False),
    (256, 3, 1, 2, False),
)


class ConvBlock(nn.Module):
    """Convolution without padding; then batch-norm, 3x3 max-pooling and ReLU, all optional."""

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
        """`[N, I, H, W]` to `[N, O, H', W']`."""
        pooled = self.pool(self.norm(self.conv(x)))
        return self.relu(pooled)  # same as before pooling, but on a quarter of the values


def check_width(width: float) -> None:
    """Raise ValueError if `width` is not a valid width of an `AlexNet`."""
    if not (isinstance(width, (int, float)) and 0 < width <= 4):
        raise ValueError(
            f"width is {width!r}; give a factor of the hidden channels, above 0 and at most 4"
        )


class AlexNet(nn.Module):
    """SiamFC's AlexNet: RGB `[N, 3, S, S]`, float from 0 to 255, to features `[N, 256, S', S']`.

    It is fully convolutional, without padding, with stride 8: S = 127 gives S' = 6, S = 255 gives
    22. A batch-norm and a ReLU follow each layer except the last.

    `for_binary` makes the base of a 1-bit network. It has no ReLU, since the sign of a rectified
    map is constant. It also has a batch-norm after the last convolution, to give its sums a scale.

    `width` multiplies the channels of all layers except the last; the results are rounded to
    multiples of 32. Raises ValueError for a width that is not in (0, 4].
    """

    def __init__(self, for_binary: bool = False, width: float = 1.0) -> None:
        super().__init__()
        check_width(width)
        self.layers = nn.Sequential()
        inputs = 3
        for number, (full_outputs, kernel, stride, groups, pool) in enumerate(LAYERS):
            last = number == len(LAYERS) - 1
            outputs = full_outputs if last else _scaled(full_outputs, width)
            norm = for_binary or not last
            relu = not (for_binary or last)
            block = ConvBlock(
                inputs, outputs, kernel, stride, groups, norm=norm, relu=relu, pool=pool
            )
            self.layers.append(block)
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)


def _scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of UNIT, at least UNIT."""
    return max(UNIT, UNIT * round(channels * width / UNIT))


def slimmed(net: nn.Module, width: float) -> nn.Module:
    """The real SiamFC of that `width`, with the weights of some channels of the wider `net`.

    It takes the first channels of each half of a layer, so that each of two groups reads the same
    channels as before. Raises ValueError if `net` is narrower.
    """
    slim = build("siamfc", width=width)
    wide = net.state_dict()
    for key, own in slim.state_dict().items():
        value = wide[key]
        if own.ndim > 0:  # not a counter
            value = _first(value, 0, own.shape[0], 2)
        module = slim.get_submodule(key.rpartition(".")[0])
        if isinstance(module, nn.Conv2d) and own.ndim > 1 and module.in_channels > 3:
            value = _first(value, 1, own.shape[1], 2 // module.groups)
        own.copy_(value)
    return slim


def _first(value: Tensor, dim: int, size: int, parts: int) -> Tensor:
    """The first entries of each of `parts` equal parts of `value` along `dim`, `size` in total.

    Raises ValueError if `value` has fewer.
    """
    whole = value.shape[dim]
    if size > whole:
        advice = "give a teacher as wide as the student"
        raise ValueError(f"{whole} channels cannot start {size}; {advice}")
    places = torch.arange(whole, device=value.device).view(parts, -1)  # [parts, whole / parts]
    kept = places[:, : size // parts]
    return value.index_select(dim, kept.flatten())
