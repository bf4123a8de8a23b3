"""The parts of binary convolution layers that all methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbsf.binarize import Frame, approx_sign, hard_sign
from rbsf.sign_convolution import convolve_signs, has_kernels

MAX_COUNT = 64  # most bases or projections of a layer; a file with more is damaged


@dataclass(frozen=True)
class Term:
    """One 1-bit convolution of a layer: `scale * conv(sign(x + shift), signs)`.

    `signs` `[O, I/g, k, k]` holds -1 and +1; `scale` is `[O]` and `shift` is `[I]`. Terms with the
    same signs share one tensor.
    """

    signs: Tensor
    scale: Tensor
    shift: Tensor


class BinaryConv2d(nn.Conv2d):
    """Convolution of sign(input) with a binary kernel.

    A method is a subclass that defines how the kernel is scaled. The keyword-only arguments of its
    constructor are the method's options.

    The input is `[N, I, H, W]` of any float dtype, the output `[N, O, H', W']`. `weight`
    `[O, I/g, k, k]` holds the latent real filters W; after training only the `terms` are needed.
    `border` is the value of padding: -1, +1 or 0. With a border of 0 a packed network takes twice
    the time, because 0 is a third value beside -1 and +1.

    With `input_norm` a batch-norm stands in front of the sign and sets the threshold of each input
    channel. A network with ReLU in front of its convolutions needs it, since the sign of a
    rectified map is +1 everywhere.

    With `input_scale` the output is multiplied by `input_map` (XNOR-Net's K). A `bias` `[O]` that
    `from_conv` copies is real and added last.
    """

    input_scale: bool = False
    one_term: bool = True  # whether training convolves signs with filters of only +s and -s
    border: float = -1.0
    fixed_signs: Tensor | None
    fixed_scale: Tensor
    fixed_shift: Tensor
    sign: Callable[[Tensor, Frame | None], Tensor] = staticmethod(approx_sign)

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
        for name in ("fixed_signs", "fixed_scale", "fixed_shift"):
            self.register_buffer(name, None, persistent=False)

    @classmethod
    def option_names(cls) -> list[str]:
        """Names of the method's own options, beyond those that all binary convolutions take."""
        parameters = signature(cls).parameters.values()
        return [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, input_norm: bool = False, options: dict[str, Any] | None = None
    ) -> BinaryConv2d:
        """A layer of this method with the geometry, weights, bias, device and mode of `conv`.

        Raises ValueError for a padding that binary convolutions do not have, and for `options` that
        the method does not have.
        """
        options = options or {}
        if reason := why_unfit(conv):
            raise ValueError(reason)
        if unknown := options.keys() - cls.option_names():
            names = ", ".join(map(str, unknown))
            known = ", ".join(cls.option_names()) or "none"
            raise ValueError(f"unknown method option {names}; {cls.__name__} has {known}")
        channels = (conv.in_channels, conv.out_channels)
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        layer = cls(*channels, *geometry, conv.groups, input_norm, **options)  # type: ignore[arg-type]
        layer.to(conv.weight)
        layer.set_weight(conv.weight.detach())
        if conv.bias is not None:
            layer.bias = nn.Parameter(conv.bias.detach().clone())
        return layer.train(conv.training)

    def set_weight(self, weight: Tensor) -> None:
        """Use `weight` `[O, I/g, k, k]` as the latent filters.

        Values that a method derives from the filters are reset.
        """
        self.weight.data.copy_(weight)
        self.fixed_signs = None

    def kernel(self) -> Tensor:
        """The scaled binary kernel of the forward pass, `[O, I/g, k, k]`."""
        raise NotImplementedError

    def signs(self) -> Tensor:
        """The binary kernel of -1 and +1, `[O, I/g, k, k]`, without gradient.

        Only methods with one term have it.
        """
        return hard_sign(self.weight.detach())

    def scale(self) -> Tensor:
        """The real factor of each output channel, `[O]`: `kernel() == signs() * scale()`.

        Only methods with one term have it.
        """
        raise NotImplementedError

    def terms(self) -> list[Term]:
        """The 1-bit convolutions that are left after training, without gradient.

        In eval mode the output is the sum of `scale * conv(sign(norm(x) + shift), signs)` over the
        terms. With `input_scale` that sum is multiplied by `input_map`; then a bias is added.
        """
        if self.fixed_signs is None:
            no_shift = self.weight.new_zeros(self.in_channels)
            return [Term(self.signs(), self.scale().detach(), no_shift)]
        kernels = self.fixed_signs.split(self.out_channels)
        return make_terms(kernels, self.fixed_scale, self.fixed_shift)

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Become the inference layer of `terms`, given in the method's own number and order."""
        (term,) = terms
        self.set_weight(term.signs * term.scale[:, None, None, None])

    def fix_terms(self, terms: Sequence[Term]) -> None:
        """Store `terms` as they are; for a method whose filters cannot be computed from its terms.

        The layer does not learn until `set_weight` is called.
        """
        # Channels-last memory needs 4 dimensions: [M * O, I/g, k, k].
        kernels = torch.cat(distinct_signs(terms))
        self.fixed_signs = kernels.to(self.weight)
        self.fixed_scale = torch.stack([term.scale for term in terms]).to(self.weight)
        self.fixed_shift = torch.stack([term.shift for term in terms]).to(self.weight)

    def constrain(self) -> None:
        """Restrict the parameters after an optimizer step; does nothing in most methods."""

    def regularizer(self) -> Tensor | None:
        """A scalar that the method adds to the loss, or None."""
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
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)[:, None, None]
        return out

    def activate(self, x: Tensor) -> Tensor:
        """The binary input of the convolution, padded.

        From `[N, I, H, W]` to `[N, I, H + 2 p, W + 2 p]` for a padding of p.
        """
        return self.sign(x, self.frame())

    def frame(self) -> Frame | None:
        """The layer's padding; None if it has none."""
        rows, columns = (int(p) for p in self.padding)
        return Frame(rows, columns, self.border) if rows or columns else None

    def pad(self, signs: Tensor) -> Tensor:
        """Add the layer's padding around `signs` `[N, I, H, W]`."""
        frame = self.frame()
        if not frame:
            return signs
        return F.pad(signs, (frame.columns,) * 2 + (frame.rows,) * 2, value=self.border)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve the padded `x` with `kernel` `[O, I/g, k, k]`, cast to the dtype of `x`."""
        kernel = kernel.to(x.dtype)
        if self._learns_bits() and has_kernels(x, kernel):
            return convolve_signs(x, kernel, int(self.stride[0]))
        return F.conv2d(x, kernel, None, self.stride, 0, self.dilation, self.groups)

    def _learns_bits(self) -> bool:
        """Whether this is a training step in which `convolve` gets signs and a binary kernel.

        Evaluation uses `F.conv2d`, since other programs must reproduce its exact numbers.
        """
        learns = self.training and torch.is_grad_enabled() and self.fixed_signs is None
        plain = self.dilation == (1, 1) and self.groups == 1 and self.stride[0] == self.stride[1]
        rounded = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        return learns and plain and self.one_term and self.border != 0 and not rounded

    def sum_terms(self, x: Tensor) -> Tensor:
        """The sum of all `terms` for the normalised input `x`."""
        return torch.stack([self._convolve_term(x, term) for term in self.terms()]).sum(0)

    def _convolve_term(self, x: Tensor, term: Term) -> Tensor:
        shift = term.shift[:, None, None].to(x.dtype)
        signs = self.pad(hard_sign(x + shift))
        return self.convolve(signs, term.signs * term.scale[:, None, None, None])

    def input_map(self, x: Tensor) -> Tensor:
        """XNOR-Net's K: the mean magnitude of `x` over channels and window, `[N, 1, H', W']`.

        The window has the kernel's size and equal weights; padding is 0.
        """
        mean = x.abs().mean(1, keepdim=True)  # [N, 1, H, W]
        height, width = self.kernel_size
        window = mean.new_full((1, 1, height, width), 1 / (height * width))
        return F.conv2d(mean, window, None, self.stride, self.padding, self.dilation)


def make_terms(
    kernels: Sequence[Tensor], scales: Iterable[Tensor], shifts: Iterable[Tensor]
) -> list[Term]:
    """Terms with one scale and one shift each; term t uses kernel `t % M` of the M `kernels`."""
    pairs = zip(scales, shifts, strict=True)
    return [
        Term(kernels[number % len(kernels)], scale, shift)
        for number, (scale, shift) in enumerate(pairs)
    ]


def distinct_signs(terms: Sequence[Term]) -> list[Tensor]:
    """The M different kernels of `terms`; term t has kernel `t % M`."""
    return list({id(term.signs): term.signs for term in terms}.values())


def whole_option(name: str, value: Any) -> int:
    """Check the `value` of method option `name`, a number of bases or projections, and return it.

    Raises ValueError if it is not a whole number from 1 to `MAX_COUNT`.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= MAX_COUNT:
        wanted = f"a whole number from 1 to {MAX_COUNT}"
        raise ValueError(f"method option {name} is {value!r}; it must be {wanted}")
    return value


def flag_option(name: str, value: Any) -> bool:
    """Check that the `value` of method option `name` is true or false, and return it.

    Raises ValueError if it is anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"method option {name} is {value!r}; it must be true or false")
    return value


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d]:
    """Binary convolutions of `model` by name, in order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryConv2d)}


def why_unfit(conv: nn.Conv2d) -> str:
    """The reason why `conv` cannot become binary; empty if it can.

    Binary convolutions pad with a constant, by a given number of pixels.
    """
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r} has no binary form"
    if isinstance(conv.padding, str):
        return f"padding {conv.padding!r} is not in pixels"
    return ""
