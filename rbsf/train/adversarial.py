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
WIDTHS = (GRID * GRID, 64, 32, 16, 1)  # values before, between and after a discriminator's blocks
SLOPE = 0.2  # slope of a discriminator's LeakyReLUs


def pool(maps: Tensor) -> Tensor:
    """Average maps `[N, C, H, W]` of any size to `[N, C, GRID, GRID]`, as `F.adaptive_avg_pool2d`.

    This is one matrix product. For most sizes it takes a half to a tenth of the other's time,
    forwards and backwards.
    """
    rows, columns = maps.shape[2:]
    # Of maps in channels-last memory this is no copy.
    pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # [N, H * W, C]
    cells = _averages(rows, columns, maps.dtype, maps.device) @ pixels  # [N, GRID * GRID, C]
    return cells.mT.unflatten(2, (GRID, GRID))  # [N, C, GRID, GRID]


@lru_cache(maxsize=64)
def _averages(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights `[GRID * GRID, rows * columns]` of each pixel in each cell's average.

    They are kept, since a GPU waits where they are copied to it.
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

    It tells maps R of the float network from maps T of the 1-bit one, one map at a time, as Eq. 4
    sums over maps. Pooled maps `[count, M, GRID, GRID]` give logits `[count, M]`, positive for R.

    Four blocks of Linear and LeakyReLU narrow a map to one value. The losses have the sigmoid, for
    the sake of precision. All discriminators are evaluated at once: one by one they are thousands
    of launches a step on a GPU.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for width, narrower in pairwise(WIDTHS):
            block = [nn.Linear(width, narrower) for _ in range(count)]
            self.weights.append(torch.stack([linear.weight.detach().T for linear in block]))
            self.biases.append(torch.stack([linear.bias.detach()[None] for linear in block]))

    def forward(self, pooled: Tensor) -> Tensor:
        """See the class."""
        x = pooled.flatten(2)  # [count, M, GRID * GRID]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.leaky_relu(torch.baddbmm(bias, x, weight), SLOPE)
        return x.squeeze(2)  # [count, M]


class Discriminators(nn.Module):
    """The discriminators of all points; `channels` says how many their maps have.

    Points whose maps have as many channels share a `DiscriminatorStack`.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.points: dict[str, list[str]] = {}
        for point, width in channels.items():
            self.points.setdefault(str(width), []).append(point)
        stacks = {width: DiscriminatorStack(len(same)) for width, same in self.points.items()}
        self.stacks = nn.ModuleDict(stacks)

    def arrange(self, pooled: Maps) -> list[Tensor]:
        """For each stack its points' maps `[points, M, GRID, GRID]`; M counts all maps of a point.

        `pooled` has maps `[N, C, GRID, GRID]` of all points, of each point as many.
        """
        by_point: dict[str, list[Tensor]] = {}
        for point, maps in pooled:
            by_point.setdefault(point, []).append(maps.flatten(0, 1))  # [N * C, GRID, GRID]
        return [
            torch.stack([torch.cat(by_point[point]) for point in same])
            for same in self.points.values()
        ]

    def forward(self, arranged: list[Tensor]) -> list[Tensor]:
        """Logits `[points, M]` of each stack, in 32 bits or more."""
        pairs = zip(self.stacks.values(), arranged, strict=True)
        return [widen(stack(maps)) for stack, maps in pairs]

    def mean(self, losses: list[Tensor]) -> Tensor:
        """The mean over all points, where each loss is the mean over the points of a stack."""
        counts = [len(same) for same in self.points.values()]
        sums = [count * loss for count, loss in zip(counts, losses, strict=True)]
        return torch.stack(sums).sum() / sum(counts)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """`-log D(R) - log(1 - D(T))`, which D descends (Eq. 2).

    The logits are of any shape; both terms are means over batch and maps.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """`1/2 * (1 - D(T))^2` (Eq. 4 without lambda2).

    The logits are of any shape; the result is the mean over batch and maps. The paper has a sum.
    The mean keeps lambda2 independent of the number of maps and of the batch.
    """
    return (1 - torch.sigmoid(fake)).square().mean() / 2
