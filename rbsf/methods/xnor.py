"""XNOR-Net convolution (Rastegari et al., ECCV 2016)."""

from __future__ import annotations

from torch import Tensor

from rbsf.binarize import clip_sign
from rbsf.layers import BinaryConv2d


class XNORConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W) * alpha)` with `alpha_i = mean |W_i|` for each filter.

    W gets gradients through the sign and through alpha, as in the paper. The paper's input scale K
    is left out, as in most implementations, since the authors find that alpha matters more.
    `xnor_k` includes K.
    """

    sign = staticmethod(clip_sign)

    def kernel(self) -> Tensor:
        """`sign(W) * alpha`, `[O, I/g, k, k]`."""
        return clip_sign(self.weight) * self.scale()[:, None, None, None]

    def scale(self) -> Tensor:
        """`alpha`, `[O]`."""
        return self.weight.abs().mean((1, 2, 3))
