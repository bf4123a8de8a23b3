"""A network for MNIST, similar in size to LeNet-5."""

from __future__ import annotations

from torch import Tensor, nn

from rbsf.models.alexnet import ConvBlock


class LeNet(nn.Module):
    """Classifier of normalised grey images `[N, 1, 28, 28]`, float, to logits `[N, classes]`.

    It has three convolutions of 5x5, 5x5 and 3x3 without padding, each with a batch-norm, the first
    two with 3x3 max-pooling: 28 -> 24 -> 11 -> 7 -> 3 -> 1 pixels. A linear classifier follows.

    `for_binary` makes the base of a 1-bit network: no ReLU, since the sign of a rectified map is
    constant. `rbsf.conversion.binarize` then makes the last two convolutions binary. They need a
    batch-norm in front of their signs, since maps are pooled in between.
    """

    def __init__(self, classes: int = 10, for_binary: bool = False) -> None:
        super().__init__()
        relu = not for_binary
        self.layers = nn.Sequential(
            ConvBlock(1, 32, 5, 1, 1, norm=True, relu=relu, pool=True),
            ConvBlock(32, 64, 5, 1, 1, norm=True, relu=relu, pool=True),
            ConvBlock(64, 128, 3, 1, 1, norm=True, relu=relu, pool=False),
        )
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.layers(x).flatten(1))
