"""RB-SF 2: a backbone and a head designed for 1-bit layers.

The part before the first sign is small, and a shortcut goes around each binary layer (Bi-Real Net).
Thresholds and slopes are learned for each channel (ReActNet); padding is +1 (QuickNet). All maps
are whole numbers of steps, see `rbsf.models.whole`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.binarize import straight_through
from rbsf.layers import BinaryConv2d
from rbsf.methods import get_method
from rbsf.models.whole import (
    BYTE,
    LIMIT,
    Round,
    Shift,
    Slope,
    Stem,
    WholeConv,
    WholeNorm,
    norm_of_stem,
)
from rbsf.sign_convolution import convolve_signs

HALF_SIDE = 32  # pixels from the middle of a square target to its sides, in crops of 127 and 255
FLOAT = "float"  # the method of the float twin: the same network without signs
MOST_BLOCKS = 32  # most blocks in a row
TEACHER_FEATURES = 96  # of NanoTrack v3
KERNEL = 3  # width and height of the windows of a block
TEMPLATE_CELLS = 64  # cells of a template's features, 8 x 8
SIDES = slice(1, 5)  # the head's maps with the distances to the target's sides


def check_method(method: str) -> None:
    """Raise ValueError for a method that is unknown or that `Sums` cannot use."""
    layer = get_method(method)
    several_terms = layer.scale is BinaryConv2d.scale
    if several_terms or layer.input_scale:
        fault = f"method {method!r} has more than one scale a filter"
        raise ValueError(f"{fault}, which rbsf2 leaves to its batch-norms; choose another")


class Sums(nn.Module):
    """A binary convolution's sums of +1 and -1.

    They do not include its scale, since the batch-norm that follows would remove it. `gradients` is
    the dtype in which gradients of these sums are computed; None means that of the maps.
    """

    gradients: torch.dtype | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, method: str) -> None:
        super().__init__()
        check_method(method)
        layer = get_method(method)
        self.conv: BinaryConv2d = layer(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.conv.norm = Shift(inputs)
        self.conv.border = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to whole numbers `[N, O, H', W']`."""
        conv = self.conv
        signs = conv.activate(conv.norm(x))
        return convolve_signs(signs, self._kernel(), conv.stride[0], self.gradients)

    def _kernel(self) -> Tensor:
        """The kernel of -1 and +1, `[O, I, k, k]`, with the gradient of the unscaled one."""
        conv = self.conv
        if conv.fixed_signs is not None:
            return conv.fixed_signs
        unscaled = conv.kernel() / conv.scale().detach()[:, None, None, None]
        return straight_through(conv.signs(), unscaled)


def lower_gradients(net: nn.Module, dtype: torch.dtype) -> None:
    """Compute the gradients of all binary sums of `net` in `dtype`; the sums stay exact."""
    for module in net.modules():
        if isinstance(module, Sums):
            module.gradients = dtype


class RealSums(nn.Module):
    """The float twin of `Sums`: a real convolution, padded with 0.

    Its tensors have the same names as those of `Sums`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv: Any = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.conv.norm = Shift(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to `[N, O, H', W']`."""
        return self.conv(self.conv.norm(x))


class Mix(nn.Sequential):
    """A batch-norm and an 8-bit 1x1 convolution, `[N, I, H, W]` to `[N, O, H, W]`.

    `limit` bounds its results, in steps. If O is at least I, output channel `o` starts as input
    channel `o % I`.
    """

    def __init__(self, inputs: int, outputs: int, limit: int) -> None:
        conv = WholeConv(inputs, outputs, 1)
        if outputs >= inputs:
            with torch.no_grad():
                same = torch.arange(outputs) % inputs
                conv.weight.copy_(torch.eye(inputs)[same, :, None, None])
                conv.bias.zero_()  # type: ignore[union-attr]
        super().__init__(WholeNorm(inputs), Round(BYTE), conv, Round(limit))


class Block(nn.Module):
    """`shortcut(x) + round(slope(norm(sums(sign(x + shift)))))`.

    With stride 2 the shortcut takes the mean of 2 x 2 pixels. If the number of channels changes, it
    mixes them, see `Mix`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, method: str) -> None:
        super().__init__()
        self.stride = stride
        self.sums: nn.Module
        if method == FLOAT:
            self.sums = RealSums(inputs, outputs, KERNEL, stride)
        else:
            self.sums = Sums(inputs, outputs, KERNEL, stride, method)
        self.norm, self.slope, self.round = WholeNorm(outputs), Slope(outputs), Round()
        self.halved = Round(16 * LIMIT)  # with 16 more blocks after it, sums still fit 16 bits
        self.mix = None if inputs == outputs else Mix(inputs, outputs, LIMIT)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, I, H, W]` to `[N, O, H', W']`."""
        shortcut = x
        if self.stride == 2:
            shortcut = self.halved(F.avg_pool2d(x, 2, 2, ceil_mode=True))
        if self.mix is not None:
            shortcut = self.mix(shortcut)
        return shortcut + self.round(self.slope(self.norm(self.sums(x))))


def stages(
    inputs: int, channels: Sequence[int], depths: Sequence[int], method: str
) -> tuple[nn.Sequential, int]:
    """Stages of blocks, and the channels of the last map; all but the first stage halve the map."""
    blocks = nn.Sequential()
    for stage, (outputs, depth) in enumerate(zip(channels, depths, strict=True)):
        for position in range(depth):
            halves = stage > 0 and position == 0
            blocks.append(Block(inputs, outputs, 2 if halves else 1, method))
            inputs = outputs
    return blocks, inputs


class Backbone(nn.Module):
    """Pixels `[N, 3, S, S]`, 0 to 255, to 8-bit features `[N, C, S', S']` at stride 16.

    S = 127 gives S' = 8, S = 255 gives 16. `channels` and `depths` describe the stages at strides
    4, 8 and 16; `stem` is the kernel size of the first convolution; C is `features`.
    """

    def __init__(
        self, channels: Sequence[int], depths: Sequence[int], stem: int, features: int, method: str
    ) -> None:
        super().__init__()
        first = channels[0]
        conv = Stem(first, stem, 4)
        self.stem = nn.Sequential(conv, norm_of_stem(conv), Slope(first), Round())
        self.blocks, last = stages(first, channels, depths, method)
        self.neck = Mix(last, features, BYTE)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.neck(self.blocks(self.stem(x)))


class Correlation(nn.Module):
    """Pixel-wise correlation, as in Alpha-Refine.

    Each cell of a template is a filter over search features. `fixed` is a template `[1, C, h, w]`
    that is used if none is given; a packed network stores it with its weights.
    """

    fixed: Tensor | None

    def __init__(self, fixed: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, search: Tensor, template: Tensor | None = None) -> Tensor:
        """Features `[N, C, H, W]` and template `[N, C, h, w]` to products `[N, h * w, H, W]`."""
        n, _, height, width = search.shape
        template = self.fixed if template is None else template
        assert template is not None  # for the type checker
        filters = template.flatten(2).transpose(1, 2)  # [N, cells, C]
        return (filters @ search.flatten(2)).view(n, -1, height, width)


class Head(nn.Module):
    """Class and box for every position of a search region, given the template's features.

    Binary blocks read the search features together with their correlation with the template.

    With `presence` there is a sixth map: at each position the logit that the target is anywhere in
    the region. It is trained after everything else. The class map cannot replace it, since that
    picks the position nearest to the target even if there is no target.
    """

    def __init__(
        self, features: int, cells: int, depth: int, method: str, presence: bool = False
    ) -> None:
        super().__init__()
        width = features + cells
        self.correlation = Correlation()
        # Products of bytes leave room for one bit of scale.
        self.answer = nn.Sequential(WholeNorm(cells, bits=1), Round())
        self.blocks = nn.Sequential(*(Block(width, width, 1, method) for _ in range(depth)))
        self.last = nn.Sequential(Round(BYTE), WholeConv(width, 5, 2))
        with torch.no_grad():  # Adam would need 2,000 steps to reach this value
            self.last[1].bias[SIDES] = math.log(HALF_SIDE)  # type: ignore[index, operator]
        self.presence = None
        if presence:
            self.presence = nn.Sequential(
                Block(width, width, 1, method), Round(BYTE), WholeConv(width, 1, 2)
            )

    def forward(self, search: Tensor, template: Tensor | None = None) -> Tensor:
        """Search features `[N, C, 16, 16]` and template `[N, C, 8, 8]` to maps `[N, M, 15, 15]`.

        M is 5, or 6 with presence. The first map holds class logits. The next four hold the logs of
        the distances from the position to the target's left, top, right and bottom sides, in pixels
        of the crop. The last holds the logits of presence.
        """
        answer = self.answer(self.correlation(search, template))
        x = self.blocks(torch.cat([search, answer], 1))
        maps = self.last(x)
        if self.presence is None:
            return maps
        return torch.cat([maps, self.presence(x)], 1)


def _check_depths(depths: Sequence[int], head_depth: int) -> None:
    """Raise ValueError if there are too many blocks for 16-bit sums; see `whole.LIMIT`."""
    if not all(depth >= 0 for depth in depths) or sum(depths) > MOST_BLOCKS:
        raise ValueError(f"depths are {str(depths)[:50]}; give {MOST_BLOCKS} blocks at most")
    if not 0 <= head_depth <= MOST_BLOCKS:
        raise ValueError(f"head_depth is {str(head_depth)[:50]}; give 0 to {MOST_BLOCKS}")


class Search(nn.Module):
    """RB-SF 2 for one template: search regions `[N, 3, 255, 255]` to `Head`'s maps, in eval mode.

    `exemplar` is the template's crop, `[1, 3, 127, 127]`.
    """

    def __init__(self, net: RBSF2, exemplar: Tensor) -> None:
        super().__init__()
        net = deepcopy(net).eval()
        self.backbone, self.head = net.backbone, net.head
        with torch.no_grad():
            self.head.correlation = Correlation(net.backbone(exemplar))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.backbone(x))


class RBSF2(nn.Module):
    """Backbone and head; see both.

    Options are those of the constructor. `method` is one of `rbsf.methods`, or FLOAT.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (0, 3, 3),
        stem: int = 4,
        features: int = 96,
        head_depth: int = 2,
        method: str = "bireal",
        presence: bool = False,
    ) -> None:
        super().__init__()
        _check_depths(depths, head_depth)
        self.backbone = Backbone(channels, depths, stem, features, method)
        self.head = Head(features, TEMPLATE_CELLS, head_depth, method, presence)
        # Used only in training: it makes features comparable with a teacher's.
        self.adapter = nn.Conv2d(features, TEACHER_FEATURES, 1)

    def forward(self, exemplar: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Crops `[N, 3, 127, 127]` and `[N, 3, 255, 255]`, RGB 0 to 255, to class and box.

        Returns class logits `[N, 15, 15]` and logs of sides `[N, 4, 15, 15]`; see `Head`.
        """
        return self.answer(self.backbone(exemplar), self.backbone(search))

    def answer(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from the features of both crops."""
        maps = self.head(search, template)
        return maps[:, 0], maps[:, SIDES]
