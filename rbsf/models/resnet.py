"""Residual networks: ResNet-18 in its ImageNet and CIFAR forms, and the frame of the WRNs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

Stages = Sequence[
    tuple[int, int]
]  # (channels, 3x3 convolutions) of each stage; all but the first halve the map

SHORTCUTS = {"conv": 1, "block": 2}  # 3x3 convolutions that a shortcut goes around


class Residual(nn.Module):
    """3x3 convolutions, each with its batch-norm, and a shortcut around all of them; ReLU after
    each where asked for.

    With one convolution this is the block of Bi-Real Net (Liu et al., ECCV 2018), with two that of
    ResNet.  The shortcut is the identity, or, where the shape changes, the mean of 2 x 2 pixels, a
    1x1 convolution and a batch-norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, convs: int, relu: bool) -> None:
        super().__init__()
        widths = [inputs] + convs * [outputs]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride if n == 0 else 1, 1, bias=False)
            for n, (i, o) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(convs))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.extend(
                (
                    nn.AvgPool2d(stride, stride, ceil_mode=True) if stride != 1 else nn.Identity(),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            )
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, ceil(H / stride), ceil(W / stride)]."""
        shortcut = self.shortcut(x)
        last = len(self.convs) - 1
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = self.relu(x + shortcut if number == last else x)
        return x


class ResNet(nn.Module):
    """Classifier of normalised RGB images [N, 3, H, W], float, to logits [N, classes].

    `stages` are made of `Residual`, a shortcut around every convolution (`shortcut` "conv") or
    every two ("block"). `stem`: "imagenet" (7x7, stride 2, 3x3 max-pooling; 224 x 224) or "cifar"
    (3x3, full size; 32 x 32).  `for_binary` gives the frame of a 1-bit network: no ReLU, since the
    sign of a rectified map is constant. `rbsf.conversion.binarize` then makes the 3x3 convolutions
    of the stages binary.  The points at which feature maps are compared with a teacher's are the
    batch-norms after them (`rbsf.maps.measure_maps`).
    """

    def __init__(
        self,
        stages: Stages,
        classes: int = 1000,
        stem: str = "imagenet",
        shortcut: str = "conv",
        stem_width: int | None = None,
        for_binary: bool = False,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut is {shortcut!r}; known: {', '.join(SHORTCUTS)}")
        inputs = stem_width or stages[0][0]
        self.stem = _stem(stem, inputs, relu=not for_binary)
        self.stages = nn.Sequential()
        convs = SHORTCUTS[shortcut]
        for number, (outputs, depth) in enumerate(stages):
            stage = nn.Sequential()
            for position in range(0, depth, convs):
                stride = 2 if number and position == 0 else 1
                stage.append(Residual(inputs, outputs, stride, convs, relu=not for_binary))
                inputs = outputs
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))


def _stem(kind: str, width: int, relu: bool) -> nn.Sequential:
    activation = nn.ReLU() if relu else nn.Identity()
    if kind == "cifar":
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), activation
        )
    if kind == "imagenet":
        conv = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), activation, nn.MaxPool2d(3, 2, 1))
    raise ValueError(f"stem is {kind!r}; known: cifar, imagenet")


def resnet18(
    stages: str = "64-128-256-512",
    classes: int = 1000,
    stem: str = "imagenet",
    shortcut: str = "conv",
    for_binary: bool = False,
) -> ResNet:
    """ResNet-18: four stages of four 3x3 convolutions, `stages` their channels (the paper's kernel
    stage).

    18 layers: the first convolution, as wide as the first stage, the 16 of the stages, and the
    classifier; 1x1 convolutions of shortcuts are not counted.  ValueError for a list of another
    length.
    """
    widths = parse_stages(stages, 4)
    return ResNet([(width, 4) for width in widths], classes, stem, shortcut, for_binary=for_binary)


def parse_stages(stages: str, count: int) -> list[int]:
    """ "32-32-64-128" to its `count` channel numbers; ValueError for anything else."""
    words = stages.split("-") if isinstance(stages, str) else []
    if len(words) != count or not all(word.isdigit() and 0 < int(word) <= 4096 for word in words):
        raise ValueError(
            f"stages is {stages!r}; expected {count} numbers of channels, such as 64-64-128-256"
        )
    return [int(word) for word in words]
