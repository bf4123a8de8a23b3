"""RBConv, the rectified binary convolution (Liu et al., IJCAI 2019, sections 2.1 to 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.binarize import approx_sign
from rbsf.layers import BinaryConv2d, Term


class RBConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W) * C*)` (Eq. 5, 6); each layer learns one `C` `[1, I/g, k, k]`.

    The forward pass uses the scalar `C* = mean(C)`, which can be folded into the next batch-norm.
    The kernel loss uses the whole matrix.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.C = nn.Parameter(torch.empty(1, *self.weight.shape[1:]))
        self.set_weight(self.weight.detach())

    def set_weight(self, weight: Tensor) -> None:
        """Use `weight` as the latent filters, and start `C` at their mean magnitude."""
        super().set_weight(weight)
        self.C.data.copy_(weight.abs().mean())

    def kernel(self) -> Tensor:
        """`sign(W) * C*`, `[O, I/g, k, k]`."""
        return approx_sign(self.weight) * self.C.mean()

    def scale(self) -> Tensor:
        """`C*` for every output channel, `[O]`."""
        return self.C.mean().expand(self.out_channels)

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Use the signs as filters and the scale as a constant `C`."""
        (term,) = terms
        self.weight.data.copy_(term.signs)
        self.C.data.fill_(float(term.scale[0]))

    def regularizer(self) -> Tensor:
        """The kernel loss."""
        return self.kernel_loss()

    def kernel_loss(self) -> Tensor:
        """`1/2 * sum_i ||W_i - C sign(W_i)||^2`, a scalar (Eq. 3 without lambda1).

        The product with the matrix `C` is elementwise.
        """
        return (self.weight - self.C * approx_sign(self.weight)).square().sum() / 2
