"""XNOR-Net convolution with its input scale K (Rastegari et al., ECCV 2016, section 3.2)."""

from __future__ import annotations

from rbsf.methods.xnor import XNORConv2d


class XNORKConv2d(XNORConv2d):
    """`(sign(F_in) * sign(W)) K alpha` (Eq. 11): XNOR-Net's convolution times the map `K = A * k`.

    `A` is the mean of `|F_in|` over all channels, even if the layer has groups. `k` is a window of
    the kernel's size with equal weights that sum to 1. `BinaryConv2d.input_map` computes K. The
    input also gets the gradient of K.
    """

    input_scale = True
