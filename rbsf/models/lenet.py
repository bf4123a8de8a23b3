"""A network of LeNet-5's size for MNIST."""

from __future__ import annotations

from torch import Tensor, nn

from rbsf.models.alexnet import ConvBlock


class LeNet(nn.Module):
    """Classifier of normalised grey images [N, 1, 28, 28], float, to logits [N, classes].

    Convolutions of 5x5, 5x5 and 3x3 without padding, a batch-norm and 3x3 max-pooling (but for the
    last) after each, 28 -> 24 -> 11 -> 7 -> 3 -> 1 pixels, then a linear classifier.  `for_binary`
    gives the frame of a 1-bit network: no ReLU, since the sign of a rectified map is constant.
    `rbsf.conversion.binarize` then makes the last two convolutions binary, with a batch-norm before
    their signs, since maps are pooled in between.
    """

    def __init__(self, classes: int = 10, for_binary: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                ConvBlock(i, o, kernel, 1, 1, norm=True, relu=not for_binary, pool=pool)
                for i, o, kernel, pool in ((1, 32, 5, True), (32, 64, 5, True), (64, 128, 3, False))
            )
        )
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.layers(x).flatten(1))
