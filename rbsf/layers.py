"""Binary convolution layers: what all methods share, and `binarize`, which puts them into any network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from rbsf.binarize import approx_sign
from rbsf.methods import get_method


class BinaryConv2d(nn.Conv2d):
    """Convolution of sign(input) with a binary kernel; a method subclasses it and says how the kernel is scaled.

    Input [N, I, H, W] of any float dtype; output [N, O, H', W'].  `weight` [O, I/g, k, k] holds the latent real
    filters W; only their signs and the scale survive training.  Zero padding would bring in a third value, so
    padded borders are -1, as in packed runtimes.

    With `input_norm` a batch-norm stands before the sign: it places the threshold of each input channel, which a
    network with ReLU in front of its convolutions needs (the sign of a rectified map is +1 everywhere).
    """

    sign: Callable[[Tensor], Tensor] = staticmethod(approx_sign)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        input_norm: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
        if isinstance(self.padding, str):
            raise ValueError(f"binary convolutions need padding in pixels, not {self.padding!r}")
        self.norm = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, input_norm: bool = False) -> BinaryConv2d:
        """A layer of this method with the geometry, weights, device and mode of `conv`; its bias is dropped.

        A batch-norm is expected to follow, which makes a bias redundant.  ValueError for a padding that binary
        convolutions do not have.
        """
        if reason := _unfit(conv):
            raise ValueError(reason)
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            input_norm,
        ).to(conv.weight)
        layer.set_weight(conv.weight.detach())
        return layer.train(conv.training)

    def set_weight(self, weight: Tensor) -> None:
        """Take `weight` [O, I/g, k, k] as the latent filters, and start what the method derives from them."""
        self.weight.data.copy_(weight)

    def kernel(self) -> Tensor:
        """The scaled binary kernel of the forward pass, [O, I/g, k, k]."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """The real factor of each output channel, [O]: ``kernel() == sign(weight) * scale()``."""
        raise NotImplementedError

    def set_packed(self, signs: Tensor, scale: Tensor) -> None:
        """Become the inference layer with the given `signs` (-1, +1; shape of `weight`) and `scale` [O]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class for shapes."""
        x = self.sign(self.norm(x))
        if any(self.padding):
            (rows, columns) = (int(p) for p in self.padding)
            x = F.pad(x, (columns, columns, rows, rows), value=-1.0)
        return F.conv2d(x, self.kernel().to(x.dtype), None, self.stride, 0, self.dilation, self.groups)


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d]:
    """Binary convolutions of `model` by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BinaryConv2d)}


@dataclass(frozen=True)
class Change:
    """What `binarize` did with one convolution: `kept` is the reason it stayed real, empty where it was changed.

    `bias_dropped`: it had a bias, which it lost; only a batch-norm that follows makes up for that.
    """

    name: str
    weights: int
    kept: str = ""
    bias_dropped: bool = False

    def __str__(self) -> str:
        note = " (bias dropped: a batch-norm must follow)" if self.bias_dropped else ""
        return f"{self.name}: {self.weights:,} weights, " + (f"real ({self.kept})" if self.kept else f"1 bit{note}")


def binarize(
    model: nn.Module,
    method: str = "rbcn",
    *,
    skip_first: bool = True,
    skip_1x1: bool = True,
    skip: Iterable[str] = (),
    input_norm: bool = True,
) -> list[Change]:
    """Turn the convolutions of any `model` into binary ones of `method`, in place, and say what was done.

    What stays real: the first convolution, 1x1 convolutions, those named in `skip`, and everything that is no
    Conv2d.  Weights are kept as latent filters.  `input_norm`: see `BinaryConv2d`; switch it off for a network
    that already normalises the input of its convolutions and has no ReLU there.
    Raises ValueError for an unknown method, a name in `skip` that is no convolution, a padding that binary
    convolutions do not have, or nothing left to change; `model` is then as it was.
    """
    layer = get_method(method)
    convs = {name: m for name, m in model.named_modules() if type(m) is nn.Conv2d}
    skip = set(skip)
    if unknown := skip - convs.keys():
        raise ValueError(f"no convolution named {', '.join(sorted(unknown))}; there are {', '.join(convs) or 'none'}")
    changes = []
    for position, (name, conv) in enumerate(convs.items()):
        kept = _reason_to_keep(conv, skip_first and position == 0, skip_1x1, name in skip)
        changes.append(Change(name, conv.weight.numel(), kept, not kept and conv.bias is not None))
        if not kept and (reason := _unfit(conv)):
            raise ValueError(f"convolution {name}: {reason}; name it in skip or change its padding")
    if all(change.kept for change in changes):
        raise ValueError(f"nothing to binarize: {len(convs)} convolutions, all kept real by the rules")
    for change in changes:
        if not change.kept:
            model.set_submodule(change.name, layer.from_conv(convs[change.name], input_norm))
    return changes


def _unfit(conv: nn.Conv2d) -> str:
    """Why `conv` cannot become binary, empty where it can: padded borders are -1, as many pixels as are given."""
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r} has no binary form"
    if isinstance(conv.padding, str):
        return f"padding {conv.padding!r} is not in pixels"
    return ""


def _reason_to_keep(conv: nn.Conv2d, first: bool, skip_1x1: bool, named: bool) -> str:
    if first:
        return "first convolution"
    if named:
        return "named in skip"
    if skip_1x1 and conv.kernel_size == (1, 1):
        return "1x1"
    return ""
