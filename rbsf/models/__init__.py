"""Networks by name, all from one builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MODELS = {"siamfc": "", "xnor": "xnor", "rbsf": "rbcn"}  # name -> binarization method ("" = real)


def build(name: str) -> nn.Module:
    """Build SiamFC's backbone: `siamfc` real, `rbsf` with RBConv, `xnor` with XNOR-Net convolutions.

    `conv1` and all batch-norms stay real.  ValueError with the known names for any other.
    """
    from rbsf.layers import binarize
    from rbsf.models.alexnet import AlexNet

    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    method = MODELS[name]
    net = AlexNet(for_binary=bool(method))
    if method:
        binarize(net, method)
    return net
