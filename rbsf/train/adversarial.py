"""Discriminators and the adversarial losses (Eq. 2, 4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.maps import Maps
from rbsf.precision import widen

GRID = 8  # each map is pooled to GRID x GRID, so that crops of any size share a discriminator
WIDTHS = (GRID * GRID, 64, 32, 16, 1)  # widths before, between and after a discriminator's blocks
SLOPE = 0.2  # slope of a discriminator's LeakyReLUs
SQUARE, LOG = "square", "log"  # what the student minimises to deceive the discriminators


def pool(maps: Tensor) -> Tensor:
    """Maps `[N, C, H, W]` as discriminators take them.

    They are averaged to `[N, C, GRID, GRID]` if a side is longer than GRID, otherwise unchanged.
    """
    rows, columns = maps.shape[2:]
    if max(rows, columns) <= GRID:
        pooled = maps.view_as(maps)
    elif rows % GRID == columns % GRID == 0:
        pooled = F.avg_pool2d(maps, (rows // GRID, columns // GRID))
    else:
        pooled = spread(maps)
    if pooled.requires_grad and maps.is_contiguous(memory_format=torch.channels_last):
        pooled.register_hook(_channels_last)
    return pooled


def _channels_last(gradient: Tensor) -> Tensor:
    """The gradient in the maps' memory order; without it, earlier layers take 10 times as long.

    Discriminators read single maps, so their gradients come channel by channel.
    """
    return gradient.contiguous(memory_format=torch.channels_last)


def spread(maps: Tensor) -> Tensor:
    """Average maps `[N, C, H, W]` to `[N, C, GRID, GRID]`, as `F.adaptive_avg_pool2d` does.

    This is one matrix product. For most sizes it takes a half to a tenth of that function's time,
    forwards and backwards.
    """
    rows, columns = maps.shape[2:]
    # For maps in channels-last memory this makes no copy.
    pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # [N, H * W, C]
    cells = _averages(rows, columns, maps.dtype, maps.device) @ pixels  # [N, GRID * GRID, C]
    return cells.mT.unflatten(2, (GRID, GRID))  # [N, C, GRID, GRID]


@lru_cache(maxsize=64)
def _averages(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights `[GRID * GRID, rows * columns]` of each pixel in each cell's average.

    They are cached, since a GPU waits whenever they are copied to it.
    """
    return torch.kron(_windows(rows), _windows(columns)).to(device, dtype)


def _windows(size: int) -> Tensor:
    """Weights `[GRID, size]` of each pixel in each cell's average, along one side.

    Cell i averages the pixels from floor(i * size / GRID) to ceil((i + 1) * size / GRID).
    """
    cells, pixels = torch.arange(GRID)[:, None], torch.arange(size)
    first = cells * size // GRID
    stop = -(-(cells + 1) * size // GRID)  # rounded up
    inside = (pixels >= first) & (pixels < stop)
    return inside / inside.sum(1, keepdim=True)


class DiscriminatorStack(nn.Module):
    """A discriminator for each of `count` points.

    A discriminator tells maps R of the float network from maps T of the 1-bit one. It sees
    one map at a time, as Eq. 4 sums over maps, or all `channels` maps of an image. Pooled maps
    `[count, M, rows, columns]` or `[count, M, channels, rows, columns]` give logits `[count, M]`,
    positive for R. Single maps smaller than GRID x GRID give the same logits as their `spread`
    form.

    Four blocks of Linear and LeakyReLU reduce a map to one value. The sigmoid is part of the
    losses, which is more precise. All discriminators are evaluated at once: one by one they would
    be thousands of launches per step on a GPU.
    """

    def __init__(self, count: int, channels: int = 1) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        first, *others = WIDTHS
        for width, narrower in pairwise((channels * first, *others)):
            block = [nn.Linear(width, narrower) for _ in range(count)]
            self.weights.append(torch.stack([linear.weight.detach().T for linear in block]))
            self.biases.append(torch.stack([linear.bias.detach()[None] for linear in block]))

    def forward(self, pooled: Tensor) -> Tensor:
        """See the class."""
        x = pooled.flatten(2)  # [count, M, channels * rows * columns]
        first, *others = self.weights
        for weight, bias in zip((_shrink(first, pooled), *others), self.biases, strict=True):
            x = F.leaky_relu(torch.baddbmm(bias, x, weight), SLOPE, inplace=True)
        return x.squeeze(2)  # [count, M]


def _shrink(weight: Tensor, pooled: Tensor) -> Tensor:
    """Turn `weight` `[count, GRID * GRID, 64]` for spread maps into weights for unspread maps.

    A map of 4 x 4 pixels then needs a quarter of the products.
    """
    rows, columns = pooled.shape[-2:]
    if rows == columns == GRID:
        return weight
    return _averages(rows, columns, weight.dtype, weight.device).T @ weight


class Discriminators(nn.Module):
    """The discriminators of all points; `channels` has the number of channels of each point.

    Points with the same number of channels share a `DiscriminatorStack`. A discriminator sees a
    single map, or with `whole` all maps of an image.
    """

    def __init__(self, channels: Mapping[str, int], whole: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.points: dict[str, list[str]] = {}
        for point, width in channels.items():
            self.points.setdefault(str(width), []).append(point)
        stacks = {
            width: DiscriminatorStack(len(same), int(width) if whole else 1)
            for width, same in self.points.items()
        }
        self.stacks = nn.ModuleDict(stacks)

    def arrange(self, pooled: Maps) -> list[Tensor]:
        """For each stack, the maps of its points, `[points, M, rows, columns]`.

        M counts all maps of a point. If `whole`, the result is `[points, N, C, rows, columns]`.
        `pooled` has maps `[N, C, rows, columns]` of all points, the same number for each point.
        """
        by_point: dict[str, list[Tensor]] = {}
        for point, maps in pooled:
            by_point.setdefault(point, []).append(maps)
        stacked = _images if self.whole else _single_maps
        return [stacked([by_point[point] for point in same]) for same in self.points.values()]

    def forward(self, arranged: list[Tensor]) -> list[Tensor]:
        """Logits `[points, M]` of each stack, in 32 bits or more."""
        pairs = zip(self.stacks.values(), arranged, strict=True)
        return [widen(stack(maps)) for stack, maps in pairs]

    def mean(self, losses: list[Tensor]) -> Tensor:
        """The mean over all points; each of `losses` is the mean over the points of a stack."""
        counts = [len(same) for same in self.points.values()]
        sums = [count * loss for count, loss in zip(counts, losses, strict=True)]
        return torch.stack(sums).sum() / sum(counts)


def _single_maps(maps: list[list[Tensor]]) -> Tensor:
    """Maps `[N, C, rows, columns]`, several for each point, as `[points, M, rows, columns]`."""
    every = [each for of_point in maps for each in of_point]
    if len({each.shape[2:] for each in every}) > 1:
        every = [spread(each) for each in every]
    rows = torch.cat([each.flatten(0, 1) for each in every])  # [points * M, rows, columns]
    return rows.unflatten(0, (len(maps), -1))


def _images(maps: list[list[Tensor]]) -> Tensor:
    """Maps `[N, C, rows, columns]`, several for each point, as `[points, N, C, GRID, GRID]`."""
    every = [spread(each) for of_point in maps for each in of_point]
    return torch.cat(every).unflatten(0, (len(maps), -1))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """`-log D(R) - log(1 - D(T))`, which D minimises (Eq. 2).

    The logits are of any shape; both terms are means over batch and maps.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(fake: Tensor, form: str = SQUARE) -> Tensor:
    """`1/2 * (1 - D(T))^2` (Eq. 4 without lambda2), or `-log D(T)` if the `form` is LOG.

    The logits are of any shape; the result is the mean over batch and maps. The paper uses a sum.
    The mean makes lambda2 independent of the number of maps and of the batch size.
    """
    if form == LOG:
        return F.softplus(-fake).mean()
    return (1 - torch.sigmoid(fake)).square().mean() / 2
