"""A classifier made of RB-SF 2's blocks, for small images."""

from __future__ import annotations

from torch import Tensor, nn

from rbsf.models.rbsf2 import FLOAT, MOST_BLOCKS
from rbsf.models.rbsf2 import stages as block_stages
from rbsf.models.resnet import parse_stages
from rbsf.models.whole import Round, Slope


class BlockNet(nn.Module):
    """Classifier of normalised RGB images `[N, 3, H, W]`, float, to logits `[N, classes]`.

    A real 3 x 3 convolution is followed by `depth` blocks in each stage, see
    `rbsf.models.rbsf2.Block`. `stages` are their channels; all stages except the first halve the
    map. Behind the first convolution all maps are whole numbers of steps, so the packed network
    needs no float numbers between its first and its last layer. `method` is one of `rbsf.methods`
    with one scale a filter, or FLOAT for the float twin.

    Raises ValueError for `stages`, `depth` and a `method` that do not fit.
    """

    def __init__(
        self,
        stages: str = "64-128-256",
        depth: int = 4,
        classes: int = 1000,
        method: str = FLOAT,
    ) -> None:
        super().__init__()
        widths = parse_stages(stages, stages.count("-") + 1 if isinstance(stages, str) else 1)
        if not isinstance(depth, int) or not 1 <= depth * len(widths) <= MOST_BLOCKS:
            limits = f"give 1 or more, and {MOST_BLOCKS} blocks at most"
            raise ValueError(f"depth is {depth!r}; {limits}")
        inputs = widths[0]
        conv = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(inputs), Slope(inputs), Round())
        self.blocks, last = block_stages(inputs, widths, [depth] * len(widths), method)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = self.blocks(self.stem(x))
        return self.classifier(self.pool(maps).flatten(1))
