"""Binary convolution layers: what all methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbsf.binarize import approx_sign, hard_sign

MOST = 64  # of whatever a method has several: a file that asks for more is damaged


@dataclass(frozen=True)
class Term:
    """One 1-bit convolution of a layer: ``scale * conv(sign(x + shift), signs)``.

    `signs` [O, I/g, k, k] of -1 and +1, `scale` [O], `shift` [I].  Terms that share their signs
    share the tensor.
    """

    signs: Tensor
    scale: Tensor
    shift: Tensor


class BinaryConv2d(nn.Conv2d):
    """Convolution of sign(input) with a binary kernel; a method subclasses it and says how the
    kernel is scaled.

    Input [N, I, H, W] of any float dtype; output [N, O, H', W'].  `weight` [O, I/g, k, k] holds the
    latent real filters W; only their `terms` survive training.  Padded borders are `border`: -1 or
    +1, or 0, a third value, which takes a packed network twice the time.

    With `input_norm` a batch-norm stands before the sign: it places the threshold of each input
    channel, which a network with ReLU in front of its convolutions needs (the sign of a rectified
    map is +1 everywhere).

    Options of a method are the keyword-only arguments of its constructor.  With `input_scale` the
    output is multiplied by `input_map` (XNOR-Net's K).  A `bias` [O], which `from_conv` takes over,
    is real and added last.
    """

    input_scale: bool = False
    border: float = -1.0
    fixed_signs: Tensor | None
    fixed_scale: Tensor
    fixed_shift: Tensor
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
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False
        )
        if isinstance(self.padding, str):
            raise ValueError(f"binary convolutions need padding in pixels, not {self.padding!r}")
        self.norm: nn.Module = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()
        for name in ("signs", "scale", "shift"):
            self.register_buffer(f"fixed_{name}", None, persistent=False)

    @classmethod
    def option_names(cls) -> list[str]:
        """Names of the method's own options, beyond what all binary convolutions take."""
        return [
            p.name for p in signature(cls).parameters.values() if p.kind is Parameter.KEYWORD_ONLY
        ]

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, input_norm: bool = False, options: dict[str, Any] | None = None
    ) -> BinaryConv2d:
        """A layer of this method with the geometry, weights, bias, device and mode of `conv`.

        ValueError for a padding that binary convolutions do not have, and for `options` that the
        method does not.
        """
        if reason := why_unfit(conv):
            raise ValueError(reason)
        if unknown := (options or {}).keys() - cls.option_names():
            known = ", ".join(cls.option_names()) or "none"
            raise ValueError(
                f"unknown method option {', '.join(map(str, unknown))}; {cls.__name__} has {known}"
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            input_norm,
            **(options or {}),
        ).to(conv.weight)
        layer.set_weight(conv.weight.detach())
        if conv.bias is not None:
            layer.bias = nn.Parameter(conv.bias.detach().clone())
        return layer.train(conv.training)

    def set_weight(self, weight: Tensor) -> None:
        """Take `weight` [O, I/g, k, k] as the latent filters, and start what the method derives
        from them.
        """
        self.weight.data.copy_(weight)
        self.fixed_signs = None

    def kernel(self) -> Tensor:
        """The scaled binary kernel of the forward pass, [O, I/g, k, k]."""
        raise NotImplementedError

    def signs(self) -> Tensor:
        """The binary kernel, -1 and +1, [O, I/g, k, k], of a method with one term; without
        gradient.
        """
        return hard_sign(self.weight.detach())

    def scale(self) -> Tensor:
        """The real factor of each output channel, [O], of a method with one term: ``kernel() ==
        signs() * scale()``.
        """
        raise NotImplementedError

    def terms(self) -> list[Term]:
        """What survives training: in eval mode ``forward(x) == sum(scale * conv(sign(norm(x) +
        shift), signs))``.

        All without gradient.  Where `input_scale` is set, the sum is multiplied by `input_map`; a
        bias is added.
        """
        if self.fixed_signs is not None:
            signs = self.fixed_signs.split(self.out_channels)
            pairs = zip(self.fixed_scale, self.fixed_shift, strict=True)
            return [Term(signs[t % len(signs)], *pair) for t, pair in enumerate(pairs)]
        return [Term(self.signs(), self.scale().detach(), self.weight.new_zeros(self.in_channels))]

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Become the inference layer made of `terms`, as many as the method has, in its order."""
        (term,) = terms
        self.set_weight(term.signs * term.scale[:, None, None, None])

    def fix_terms(self, terms: Sequence[Term]) -> None:
        """Keep `terms` themselves, where they do not tell the latent filters; it learns no more
        until `set_weight`.
        """
        signs = distinct_signs(terms)
        self.fixed_signs = torch.cat(list(signs)).to(
            self.weight
        )  # of 4 dimensions, for channels-last memory
        self.fixed_scale = torch.stack([term.scale for term in terms]).to(self.weight)
        self.fixed_shift = torch.stack([term.shift for term in terms]).to(self.weight)

    def constrain(self) -> None:
        """What the method does to its parameters after every step of the optimizer; nothing for
        most.
        """

    def regularizer(self) -> Tensor | None:
        """A term of the loss that the method adds, a scalar, or None."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class for shapes."""
        x = self.norm(x)
        if self.fixed_signs is None:
            out = self.convolve(self.activate(x), self.kernel())
        else:
            out = self.sum_terms(x)
        if self.input_scale:
            out = out * self.input_map(x)
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]

    def activate(self, x: Tensor) -> Tensor:
        """The binary input of the convolution, padded: [N, I, H, W] to [N, I, H + 2 p, W + 2 p]."""
        return self.pad(self.sign(x))

    def pad(self, signs: Tensor) -> Tensor:
        """Surround `signs` [N, I, H, W] by the layer's padding."""
        (rows, columns) = (int(p) for p in self.padding)
        return (
            F.pad(signs, (columns, columns, rows, rows), value=self.border)
            if rows or columns
            else signs
        )

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve the padded `x` with `kernel` [O, I/g, k, k], cast to its dtype."""
        return F.conv2d(x, kernel.to(x.dtype), None, self.stride, 0, self.dilation, self.groups)

    def sum_terms(self, x: Tensor) -> Tensor:
        """The sum of all `terms` for the normalised input `x`."""
        return torch.stack([self._convolve_term(x, term) for term in self.terms()]).sum(0)

    def _convolve_term(self, x: Tensor, term: Term) -> Tensor:
        signs = self.pad(hard_sign(x + term.shift[:, None, None].to(x.dtype)))
        return self.convolve(signs, term.signs * term.scale[:, None, None, None])

    def input_map(self, x: Tensor) -> Tensor:
        """XNOR-Net's K: means over the channels and the window of the magnitude of `x`, [N, 1, H',
        W'].

        The window is the kernel's, of equal weights; borders are 0.
        """
        mean = x.abs().mean(1, keepdim=True)  # [N, 1, H, W]
        window = mean.new_full(
            (1, 1, *self.kernel_size), 1 / (self.kernel_size[0] * self.kernel_size[1])
        )
        return F.conv2d(mean, window, None, self.stride, self.padding, self.dilation)


def distinct_signs(terms: Sequence[Term]) -> list[Tensor]:
    """The M kernels of `terms`, of which term t has number ``t % M``."""
    return list({id(term.signs): term.signs for term in terms}.values())


def whole_option(name: str, value: Any) -> int:
    """`value`, which has to be a whole number of terms or kernels; ValueError naming the option
    otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(
            f"method option {name} is {value!r}; it must be a whole number from 1 to {MOST}"
        )
    return value


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d]:
    """Binary convolutions of `model` by name, in order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, BinaryConv2d)
    }


def why_unfit(conv: nn.Conv2d) -> str:
    """Why `conv` cannot become binary, empty where it can: padded borders are -1, as many pixels as
    are given.
    """
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r} has no binary form"
    if isinstance(conv.padding, str):
        return f"padding {conv.padding!r} is not in pixels"
    return ""
