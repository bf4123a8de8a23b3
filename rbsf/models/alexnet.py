"""SiamFC's AlexNet: the float teacher, and the frame of RB-SF and XNOR-SF."""

from __future__ import annotations

from torch import Tensor, nn

# out channels, kernel, stride, groups, pooled after?   (SiamFC, table 1)
LAYERS = (
    (96, 11, 2, 1, True),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (384, 3, 1, 2, False),
    (256, 3, 1, 2, False),
)


class ConvBlock(nn.Module):
    """Convolution, batch-norm, then ReLU and 3x3 max-pooling where asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        groups: int,
        *,
        norm: bool,
        relu: bool,
        pool: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.pool = nn.MaxPool2d(3, 2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, H', W']."""
        return self.pool(self.relu(self.norm(self.conv(x))))


class AlexNet(nn.Module):
    """Fully convolutional AlexNet without padding, stride 8: RGB [N, 3, S, S] in 0..255 to [N, 256, S', S'].

    S = 127 gives S' = 6, S = 255 gives 22.  As SiamFC's: ReLU after all layers but the last, which has no
    batch-norm.  `for_binary` gives the frame of a 1-bit network: no ReLU, since the sign of a rectified map is
    constant, and a batch-norm after the last convolution too, to give its sums a scale.
    """

    def __init__(self, for_binary: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        inputs = 3
        for number, (outputs, kernel, stride, groups, pool) in enumerate(LAYERS):
            last = number == len(LAYERS) - 1
            block = ConvBlock(
                inputs,
                outputs,
                kernel,
                stride,
                groups,
                norm=for_binary or not last,
                relu=not (for_binary or last),
                pool=pool,
            )
            self.layers.append(block)
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)
