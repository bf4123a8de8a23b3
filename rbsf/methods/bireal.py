"""Convolution of Bi-Real Net (Liu et al., ECCV 2018, section 3).

The shortcut around each convolution belongs to the network.
"""

from __future__ import annotations

from torch import Tensor

from rbsf.binarize import clip_sign
from rbsf.layers import BinaryConv2d


class BiRealConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W) * s)` with `s_i = mean |W_i|` for each filter.

    Activations have the piecewise linear gradient of `approx_sign`, the paper's first new training
    method. Weights have the magnitude-aware gradient, the second one:
    `dW_bar / dW ~ s * 1[|W| <= 1]` for `W_bar = ||W||_1 / n * sign(W)`, with the scale as a
    constant.

    The paper drops the scale after training, since the batch-norm that follows absorbs it. Here the
    scale is kept and folded into the same batch-norm.
    """

    def kernel(self) -> Tensor:
        """`sign(W) * s`, `[O, I/g, k, k]`."""
        return clip_sign(self.weight) * self.scale()[:, None, None, None]

    def scale(self) -> Tensor:
        """`s`, `[O]`, without gradient."""
        return self.weight.detach().abs().mean((1, 2, 3))
