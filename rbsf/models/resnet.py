"""Residual networks: ResNet-18 in its ImageNet and CIFAR forms, and the base of the WRNs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

# Channels and number of 3x3 convolutions of each stage. All stages except the first halve the map.
Stages = Sequence[tuple[int, int]]

SHORTCUTS = {"conv": 1, "block": 2}  # number of 3x3 convolutions that a shortcut goes around
MAX_WIDTH = 4096  # most channels of a stage


class Residual(nn.Module):
    """3x3 convolutions, each with its batch-norm, and a shortcut around all of them.

    With one convolution this is the block of Bi-Real Net (Liu et al., ECCV 2018), with two it is
    that of ResNet. The shortcut is the identity. If the shape changes, it is the mean of 2 x 2
    pixels, a 1x1 convolution and a batch-norm. With `relu` a ReLU follows each convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, convs: int, relu: bool) -> None:
        super().__init__()
        widths = [inputs] + convs * [outputs]
        strides = [stride] + (convs - 1) * [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, step, 1, bias=False)
            for (before, after), step in zip(pairwise(widths), strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(convs))
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to `[N, O, ceil(H / stride), ceil(W / stride)]`."""
        shortcut = self.shortcut(x)
        last = len(self.convs) - 1
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if number == last:
                x = x + shortcut
            x = self.relu(x)
        return x


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The shortcut of `Residual`; empty if it is the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True)
    return nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Classifier of normalised RGB images `[N, 3, H, W]`, float, to logits `[N, classes]`.

    `stages` consist of `Residual` blocks. `shortcut` is "conv" (a shortcut around every
    convolution) or "block" (around every two). `stem` is "imagenet" (7x7, stride 2, 3x3
    max-pooling; for 224 x 224) or "cifar" (3x3, full size; for 32 x 32). Its width is `stem_width`,
    by default that of the first stage.

    `for_binary` makes the base of a 1-bit network: no ReLU, since the sign of a rectified map is
    constant. `rbsf.conversion.binarize` then makes the 3x3 convolutions of the stages binary. Their
    feature maps are compared with a teacher's after the batch-norms that follow them, see
    `rbsf.maps.measure_maps`.

    Raises ValueError for an unknown `stem` or `shortcut`.
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
        relu = not for_binary
        convs = SHORTCUTS[shortcut]
        inputs = stem_width or stages[0][0]
        self.stem = _stem(stem, inputs, relu)
        self.stages = nn.Sequential()
        for number, (outputs, depth) in enumerate(stages):
            stage = nn.Sequential()
            for position in range(0, depth, convs):
                halves = number > 0 and position == 0
                stage.append(Residual(inputs, outputs, 2 if halves else 1, convs, relu))
                inputs = outputs
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = self.stages(self.stem(x))
        return self.classifier(self.pool(maps).flatten(1))


def _stem(kind: str, width: int, relu: bool) -> nn.Sequential:
    """The first layers of a `ResNet`; see there."""
    norm = nn.BatchNorm2d(width)
    activation = nn.ReLU() if relu else nn.Identity()
    if kind == "cifar":
        return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), norm, activation)
    if kind == "imagenet":
        conv = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        return nn.Sequential(conv, norm, activation, nn.MaxPool2d(3, 2, 1))
    raise ValueError(f"stem is {kind!r}; known: cifar, imagenet")


def resnet18(
    stages: str = "64-128-256-512",
    classes: int = 1000,
    stem: str = "imagenet",
    shortcut: str = "conv",
    for_binary: bool = False,
) -> ResNet:
    """ResNet-18: four stages of four 3x3 convolutions, see `ResNet`.

    `stages` are their channels (the paper's kernel stage). The 18 layers are the first convolution,
    which is as wide as the first stage, the 16 convolutions of the stages, and the classifier; 1x1
    convolutions of shortcuts do not count. Raises ValueError if `stages` are not four numbers.
    """
    widths = parse_stages(stages, 4)
    deep_stages = [(width, 4) for width in widths]
    return ResNet(deep_stages, classes, stem, shortcut, for_binary=for_binary)


def parse_stages(stages: str, count: int) -> list[int]:
    """Parse `stages`, such as "32-32-64-128", into `count` numbers of channels.

    Raises ValueError for anything else.
    """
    words = stages.split("-") if isinstance(stages, str) else []
    fits = all(word.isdigit() and 0 < int(word) <= MAX_WIDTH for word in words)
    if len(words) != count or not fits:
        wanted = f"{count} numbers of channels, such as 64-64-128-256"
        raise ValueError(f"stages is {stages!r}; expected {wanted}")
    return [int(word) for word in words]
