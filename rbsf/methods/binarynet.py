"""Convolution of BinaryNet (Courbariaux et al., 2016, arXiv:1602.02830)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rbsf.binarize import clip_sign, stochastic_sign
from rbsf.layers import BinaryConv2d, flag_option


class BinaryNetConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W))` without a scale (Eq. 1).

    Both signs have the straight-through gradient of Eq. 4, `d sign / dx = 1[|x| <= 1]`: the
    derivative of the hard tanh (Eq. 5). W stays in [-1, 1] (Algorithm 1).

    With `stochastic` the activations are drawn at random in training (Eq. 2, 3), as in some of the
    paper's experiments. Weights, and activations at run time, are deterministic.
    """

    sign = staticmethod(clip_sign)

    def __init__(self, *args: Any, stochastic: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stochastic = flag_option("stochastic", stochastic)

    def activate(self, x: Tensor) -> Tensor:
        """The binary input of the convolution; see `BinaryConv2d.activate`."""
        if self.stochastic and self.training:
            return self.pad(stochastic_sign(x))
        return super().activate(x)

    def kernel(self) -> Tensor:
        """`sign(W)`, `[O, I/g, k, k]`."""
        return clip_sign(self.weight)

    def scale(self) -> Tensor:
        """1 for every output channel, `[O]`."""
        return self.weight.new_ones(self.out_channels)

    @torch.no_grad()
    def constrain(self) -> None:
        """Clip W to [-1, 1]; a weight outside gets no gradient and could never return."""
        self.weight.clamp_(-1, 1)
