"""Projection convolution of PCNN (Gu et al., AAAI 2019, arXiv:1811.12755).

Equation numbers refer to section 3.5 of the authors' book "Binary Neural Networks" (CRC Press,
2023), which repeats the paper. The authors' C are the latent filters (`weight` here), their W_j the
projection matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.binarize import hard_sign, straight_through
from rbsf.layers import BinaryConv2d, Term, whole_option


class ProjectionConv2d(BinaryConv2d):
    """Each latent filter C_h makes J binary filters, `C_hat_hj = a sign(W_j * C_h)` (Eq. 3.43).

    The product is elementwise. J is the option `projections`. The J filters of C_h make output
    channels `h J` to `h J + J - 1` (figure 3.12), so `weight` has O / J filters,
    `[O / J, I/g, k, k]`. `projection` `[J, 1, k, k]` is copied along the channels. The level `a` is
    the mean of |C| of the layer (Eq. 3.57) and counts as a constant. After training the layer is
    one 1-bit convolution of O filters with one scale; neither C nor W_j is kept.

    Discrete back-propagation (Eq. 3.55, and likewise for C):
    `d C_hat / d (W_j * C_h) = 1[-1 <= W_j * C_h <= 1]`. So C gets this gradient times W_j, summed
    over j, and W_j gets it times C, summed over filters and channels.

    There are two differences from the authors. First, they use the mean of W_j in the forward pass,
    which would give all j the same signs; here the matrix itself is used, which costs nothing after
    training. Second, W_1 starts as ones and the others as random signs, since equal matrices would
    learn the same.
    """

    delta: Tensor

    def __init__(self, *args: Any, projections: int = 1, eta: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        whole_option("projections", projections)
        if self.out_channels % projections:
            wanted = f"it must divide {self.out_channels} channels"
            raise ValueError(f"method option projections is {projections}; {wanted}")
        _check_eta(eta)
        self.projections, self.eta = projections, eta
        self.weight = nn.Parameter(self.weight.detach()[::projections].clone())
        signs = hard_sign(torch.randn(projections, 1, *self.kernel_size))
        signs[0] = 1
        self.projection = nn.Parameter(signs)
        delta = torch.zeros_like(_concatenate(self._product().detach()))
        self.register_buffer("delta", delta, persistent=False)

    def set_weight(self, weight: Tensor) -> None:
        """Use every J-th filter of `weight` `[O, I/g, k, k]`."""
        super().set_weight(weight[:: self.projections])

    def kernel(self) -> Tensor:
        """All `C_hat_hj`, `[O, I/g, k, k]`."""
        product = self._product()
        quantized = straight_through(hard_sign(product) * self._level(), product.clamp(-1, 1))
        if self.eta and quantized.requires_grad:
            quantized.register_hook(self._keep_delta)
        return _concatenate(quantized)

    def signs(self) -> Tensor:
        """`sign(W_j * C_h)`, `[O, I/g, k, k]`."""
        return _concatenate(hard_sign(self._product().detach()))

    def scale(self) -> Tensor:
        """The level `a` for every output channel, `[O]`, without gradient."""
        return self._level().expand(self.out_channels)

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Keep the signs of all O filters, since C and W_j cannot be computed from them."""
        self.fix_terms(terms)

    def regularizer(self) -> Tensor:
        """The projection loss `1/2 sum_hj ||C_hat_hj - W_j * (C_h + eta delta_hj)||^2`, a scalar.

        This is Eq. 3.42 without lambda. C_hat counts as a constant (Eq. 3.52, 3.56). delta is the
        previous gradient of C_hat, since the current one is not known yet. eta is the learning rate
        of C. By default it is 0, which leaves delta out, since delta is negligible beside C.
        Checkpoints do not hold delta, so with eta a resumed training makes its first step without
        it.
        """
        product = self._product()
        quantized = hard_sign(product.detach()) * self._level()
        if self.eta:
            delta = self.delta.unflatten(0, (-1, self.projections))  # [O / J, J, I/g, k, k]
            delta = delta.transpose(0, 1)  # [J, O / J, I/g, k, k]
            product = product + self.eta * self.projection[:, None] * delta
        return (quantized - product).square().sum() / 2

    def _level(self) -> Tensor:
        """The level `a`, a scalar without gradient."""
        return self.weight.detach().abs().mean()

    def _product(self) -> Tensor:
        """`W_j * C_h`, `[J, O / J, I/g, k, k]`."""
        return self.projection[:, None] * self.weight

    def _keep_delta(self, grad: Tensor) -> None:
        self.delta.copy_(_concatenate(grad))


def _check_eta(eta: Any) -> None:
    """Raise ValueError if `eta` is not a finite number, 0 or more."""
    is_number = isinstance(eta, int | float) and not isinstance(eta, bool)
    if not is_number or not 0 <= eta < math.inf:
        raise ValueError(f"method option eta is {eta!r}; it must be a number, 0 or more")


def _concatenate(kernels: Tensor) -> Tensor:
    """`[J, O / J, I/g, k, k]` to `[O, I/g, k, k]`, with the J kernels of a filter side by side."""
    return kernels.transpose(0, 1).flatten(0, 1)
