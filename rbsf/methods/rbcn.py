"""RBConv, the rectified binary convolution (Liu et al., IJCAI 2019, sections 2.1 to 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.binarize import approx_sign
from rbsf.layers import BinaryConv2d, Term, flag_option


class RBConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W) * C*)` (Eq. 5, 6); each layer learns one `C` `[1, I/g, k, k]`.

    The forward pass uses the scalar `C* = mean(C)`, which can be folded into the next batch-norm.
    The kernel loss uses the whole matrix.

    The options are other readings of the paper. With `per_filter` each filter has a matrix and a
    scale of its own, and `C` is `[O, I/g, k, k]`. With `matrix` training multiplies the signs by
    the matrix, and evaluation by its mean. With `mean_loss` the kernel loss is a mean over the
    layer's weights in place of a sum.
    """

    def __init__(
        self,
        *args: Any,
        per_filter: bool = False,
        matrix: bool = False,
        mean_loss: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options = {"per_filter": per_filter, "matrix": matrix, "mean_loss": mean_loss}
        for name, value in options.items():
            flag_option(name, value)
        self.matrix, self.mean_loss = matrix, mean_loss
        matrices = self.out_channels if per_filter else 1
        self.C = nn.Parameter(torch.empty(matrices, *self.weight.shape[1:]))
        self.set_weight(self.weight.detach())

    def set_weight(self, weight: Tensor) -> None:
        """Use `weight` as the latent filters, and start `C` at their mean magnitude."""
        super().set_weight(weight)
        self.C.data.copy_(self._mean(weight.abs()))

    def kernel(self) -> Tensor:
        """`sign(W) * C*`, `[O, I/g, k, k]`; in training `sign(W) * C` with the option `matrix`."""
        scale = self.C if self._learns_matrix() else self._mean(self.C)
        return approx_sign(self.weight) * scale

    def scale(self) -> Tensor:
        """`C*` for every output channel, `[O]`."""
        return self._mean(self.C).flatten().expand(self.out_channels)

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Use the signs as filters and the scale as a constant `C`."""
        (term,) = terms
        self.weight.data.copy_(term.signs)
        scales = term.scale[: len(self.C)]
        self.C.data.copy_(scales[:, None, None, None].expand_as(self.C))

    def regularizer(self) -> Tensor:
        """The kernel loss."""
        return self.kernel_loss()

    def kernel_loss(self) -> Tensor:
        """`1/2 * sum_i ||W_i - C sign(W_i)||^2`, a scalar (Eq. 3 without lambda1).

        The product with the matrix `C` is elementwise.
        """
        squares = (self.weight - self.C * approx_sign(self.weight)).square()
        return (squares.mean() if self.mean_loss else squares.sum()) / 2

    def _mean(self, values: Tensor) -> Tensor:
        """The means of `values` `[n, I/g, k, k]` over what one matrix is for: `[n, 1, 1, 1]`.

        A matrix is for one filter or, without `per_filter`, for all: then the result is a scalar.
        """
        return values.mean((1, 2, 3), keepdim=True) if len(self.C) > 1 else values.mean()

    def _learns_matrix(self) -> bool:
        return self.matrix and self.training

    def _learns_bits(self) -> bool:
        """See `BinaryConv2d`; a kernel of the values of a matrix is not binary."""
        return not self._learns_matrix() and super()._learns_bits()
