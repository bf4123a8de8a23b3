"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) in the RBCN paper's sizes."""

from __future__ import annotations

from rbsf.models.resnet import ResNet, parse_stages


def wide_resnet(depth: int, stages: str, classes: int, shortcut: str, for_binary: bool) -> ResNet:
    """WRN with `depth` = 6 n + 4 layers for 32 x 32 images.

    `stages` are the channels of the stem and of three stages. `depth` counts the stem, the 2 n 3x3
    convolutions of each stage, and one 1x1 shortcut per stage; it does not count the classifier.
    The first stage has no such shortcut if it is as wide as the stem. As in the paper's other
    networks, batch-norms follow their convolutions.
    """
    stem, *widths = parse_stages(stages, 4)
    convs = (depth - 4) // 3
    wide_stages = [(width, convs) for width in widths]
    return ResNet(wide_stages, classes, "cifar", shortcut, stem, for_binary)


def wrn22(
    stages: str = "64-64-128-256",
    classes: int = 100,
    shortcut: str = "conv",
    for_binary: bool = False,
) -> ResNet:
    """WRN-22: six 3x3 convolutions per stage; see `wide_resnet`."""
    return wide_resnet(22, stages, classes, shortcut, for_binary)


def wrn40(
    stages: str = "64-64-128-256",
    classes: int = 100,
    shortcut: str = "conv",
    for_binary: bool = False,
) -> ResNet:
    """WRN-40: twelve 3x3 convolutions per stage; see `wide_resnet`."""
    return wide_resnet(40, stages, classes, shortcut, for_binary)
