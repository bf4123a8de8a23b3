"""ResNet for ImageNet with Bi-Real Net's shortcuts: one around every convolution (Liu et al., ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

Stages = Sequence[tuple[int, int]]  # (channels, 3x3 convolutions) of each stage; all but the first halve the map

RESNET18: Stages = ((64, 4), (128, 4), (256, 4), (512, 4))


class ResidualConv(nn.Module):
    """3x3 convolution and batch-norm with a shortcut around both, then ReLU where asked for.

    The shortcut is the identity, or, where the shape changes, the mean of 2 x 2 pixels, a 1x1 convolution and a
    batch-norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.extend(
                (
                    nn.AvgPool2d(stride, stride, ceil_mode=True),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            )
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, ceil(H / stride), ceil(W / stride)]."""
        return self.relu(self.norm(self.conv(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """Classifier of float RGB images [N, 3, H, W] to [N, classes], not normalised; 224 x 224 on ImageNet.

    `stages` are made of `ResidualConv`. `for_binary` gives the frame of a 1-bit network: no ReLU, since the sign of
    a rectified map is constant. `rbsf.layers.binarize` then makes the 3x3 convolutions binary, and leaves the first
    one, the 1x1 shortcuts and the classifier real; `input_norm=False`, since every map has been normalised.
    """

    def __init__(self, stages: Stages = RESNET18, classes: int = 1000, for_binary: bool = False) -> None:
        super().__init__()
        inputs = stages[0][0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, inputs, 7, 2, 3, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Identity() if for_binary else nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.Sequential()
        for number, (outputs, convs) in enumerate(stages):
            stage = nn.Sequential()
            for position in range(convs):
                stride = 2 if number and position == 0 else 1
                stage.append(ResidualConv(inputs, outputs, stride, relu=not for_binary))
                inputs = outputs
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))
