"""ABC-Net's convolution (Lin, Zhao and Pan, NIPS 2017, section 3): a sum of 1-bit convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.binarize import hard_sign, straight_through
from rbsf.layers import BinaryConv2d, Term, make_terms, whole_option

RIDGE = 1e-9  # added to the diagonal of the least squares, so that equal bases get equal scales


class ABCConv2d(BinaryConv2d):
    """`sum_n beta_n sum_m alpha_m Conv(H_vn(F_in), B_m)`.

    The options are `weight_bases` (M) and `activation_bases` (N). After training the layer has M
    kernels and M N terms.

    Weights (section 3.1): `B_m = sign(W - mean(W) + u_m std(W))` with
    `u_m = -1 + (m - 1) 2 / (M - 1)`, or 0 if M is 1. The scales alpha minimise
    `||W - sum_m alpha_m B_m||^2`. All of these are computed for each filter separately; the paper
    describes this and a variant for the whole layer. The gradient passes straight through the sign
    and treats alpha as constant: `dc/dW = sum_m alpha_m dc/dB_m`.

    Activations (section 3.2): `h_v(x) = clip(x + v, 0, 1)`, and `H_v` is +1 where `h_v >= 0.5`,
    else -1. Its gradient with respect to x and v is 1 where `0 <= x + v <= 1`, else 0. Shifts v and
    scales beta are learned, both `[N]`. At the start the thresholds divide [-1, 1] evenly, and beta
    is 1 / N.
    """

    one_term = False

    def __init__(
        self, *args: Any, weight_bases: int = 3, activation_bases: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_bases = whole_option("weight_bases", weight_bases)
        count = whole_option("activation_bases", activation_bases)
        thresholds = (2 * torch.arange(count) + 1) / count - 1
        self.shift = nn.Parameter(0.5 - thresholds)
        self.beta = nn.Parameter(torch.full((count,), 1 / count))

    def bases(self) -> tuple[Tensor, Tensor]:
        """B `[M, O, I/g, k, k]` and alpha `[M, O]`, without gradient."""
        weight = self.weight.detach()
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        std = weight.std((1, 2, 3), correction=0, keepdim=True)
        spread = self._spread()[:, None, None, None, None]
        bases = hard_sign(centred + spread * std)
        return bases, _least_squares(bases.flatten(2), weight.flatten(1))

    def _spread(self) -> Tensor:
        """The factors u `[M]` of the bases."""
        if self.weight_bases == 1:
            return self.weight.new_zeros(1)
        weight = self.weight
        return torch.linspace(-1, 1, self.weight_bases, dtype=weight.dtype, device=weight.device)

    def kernel(self) -> Tensor:
        """`sum_m alpha_m B_m`, `[O, I/g, k, k]`."""
        bases, alpha = self.bases()
        value = (alpha[:, :, None, None, None] * bases).sum(0)  # no einsum: autocast would round it
        return straight_through(value, alpha.sum(0)[:, None, None, None] * self.weight)

    def activate(self, x: Tensor) -> Tensor:
        """`sum_n beta_n H_vn(x)`, padded.

        Convolution is linear, so one convolution of this real input replaces N binary ones.
        """
        shift, beta = self.shift.to(x.dtype), self.beta.to(x.dtype)
        maps = [self.pad(_shifted_sign(x, v)) * b for v, b in zip(shift, beta, strict=True)]
        return torch.stack(maps).sum(0)

    def terms(self) -> list[Term]:
        """M N terms: number `n M + m` has kernel B_m, scale `beta_n alpha_m`, shift `v_n - 0.5`."""
        if self.fixed_signs is not None:
            return super().terms()
        bases, alpha = self.bases()
        scales = self.beta.detach()[:, None, None] * alpha  # [N, M, O]
        shifts = (self.shift.detach() - 0.5)[:, None, None]  # [N, 1, 1]
        shifts = shifts.expand(-1, self.weight_bases, self.in_channels)  # [N, M, I]
        return make_terms(list(bases), scales.flatten(0, 1), shifts.flatten(0, 1))

    def set_terms(self, terms: Sequence[Term]) -> None:
        """Keep the terms, since W cannot be computed from them."""
        self.fix_terms(terms)


def _shifted_sign(x: Tensor, shift: Tensor) -> Tensor:
    """`H_v(x)` with `shift` v."""
    return straight_through(hard_sign(x + (shift - 0.5)), (x + shift).clamp(0, 1))


def _least_squares(bases: Tensor, weight: Tensor) -> Tensor:
    """alpha `[M, O]` that minimises `||weight_o - sum_m alpha_mo bases_mo||^2` for each filter o.

    `bases` is `[M, O, n]` and `weight` `[O, n]`. The sums are float64: in float32 equal bases would
    cause noise.
    """
    columns = bases.transpose(0, 1).double()  # [O, M, n]
    identity = torch.eye(len(bases), dtype=columns.dtype, device=columns.device)
    gram = columns @ columns.mT + RIDGE * identity  # [O, M, M]
    moments = columns @ weight.double()[:, :, None]  # [O, M, 1]
    solution, _ = torch.linalg.solve_ex(gram, moments)
    return solution[..., 0].T.to(weight.dtype)
