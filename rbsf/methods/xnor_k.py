"""XNOR-Net convolution with its input scale K (Rastegari et al., ECCV 2016, section 3.2)."""

from __future__ import annotations

from rbsf.methods.xnor import XNORConv2d


class XNORKConv2d(XNORConv2d):
    """``(sign(F_in) * sign(W)) K alpha`` (Eq. 11): XNOR-Net's convolution times the map ``K = A *
    k``.

    ``A`` is the mean over the channels of ``|F_in|``, all of them even with groups, and `k` a
    window of the kernel's size with equal weights of sum 1; `BinaryConv2d.input_map` makes it.  Its
    gradient reaches the input as well.
    """

    input_scale = True
