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
WIDTHS = (GRID * GRID, 64, 32, 16, 1)  # of a discriminator's blocks
SLOPE = 0.2  # of its LeakyReLUs


def pool(maps: Tensor) -> Tensor:
    """Average maps [N, C, H, W] of any size to [N, C, GRID, GRID], as `F.adaptive_avg_pool2d`.

    As one matrix product, which forwards and backwards takes a half to a tenth of its time for most
    sizes.
    """
    rows, columns = maps.shape[2:]
    pixels = maps.permute(0, 2, 3, 1).flatten(
        1, 2
    )  # [N, H * W, C], no copy of maps in channels-last memory
    return (_averages(rows, columns, maps.dtype, maps.device) @ pixels).mT.unflatten(
        2, (GRID, GRID)
    )


@lru_cache(maxsize=64)
def _averages(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights [GRID * GRID, rows * columns] of each pixel in each cell's average; kept, as a GPU
    waits for copies.
    """
    return torch.kron(_windows(rows), _windows(columns)).to(device, dtype)


def _windows(size: int) -> Tensor:
    """Weights [GRID, size]: cell i averages the pixels from floor(i * size / GRID) to ceil((i + 1)
    * size / GRID).
    """
    cells, pixels = torch.arange(GRID)[:, None], torch.arange(size)
    inside = (pixels >= cells * size // GRID) & (pixels < -(-(cells + 1) * size // GRID))
    return inside / inside.sum(1, keepdim=True)


class DiscriminatorStack(nn.Module):
    """A discriminator for each of `count` points, which tells maps R of the float network from maps
    T of the 1-bit one.

    One map at a time, as Eq. 4 sums over maps: pooled maps [count, M, GRID, GRID] give logits
    [count, M], towards R positive.  Four blocks of Linear and LeakyReLU narrow a map to one value;
    the sigmoid is left to the losses, for the sake of precision.  All are evaluated at once: one by
    one they are thousands of launches a step on a GPU.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        blocks = [[nn.Linear(i, o) for _ in range(count)] for i, o in pairwise(WIDTHS)]
        self.weights = nn.ParameterList(
            torch.stack([linear.weight.detach().T for linear in block]) for block in blocks
        )
        self.biases = nn.ParameterList(
            torch.stack([linear.bias.detach()[None] for linear in block]) for block in blocks
        )

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
        self.stacks = nn.ModuleDict(
            {width: DiscriminatorStack(len(same)) for width, same in self.points.items()}
        )

    def arrange(self, pooled: Maps) -> list[Tensor]:
        """Pooled maps [N, C, GRID, GRID] of all points, each as often as the others, as the stacks
        take them.

        For each stack [points, M, GRID, GRID]; M: all maps of a point.
        """
        by_point: dict[str, list[Tensor]] = {}
        for point, maps in pooled:
            by_point.setdefault(point, []).append(maps.flatten(0, 1))  # [N * C, GRID, GRID]
        return [
            torch.stack([torch.cat(by_point[point]) for point in same])
            for same in self.points.values()
        ]

    def forward(self, arranged: list[Tensor]) -> list[Tensor]:
        """Logits [points, M] of each stack, in 32 bits or more."""
        return [
            widen(stack(maps)) for stack, maps in zip(self.stacks.values(), arranged, strict=True)
        ]

    def mean(self, losses: list[Tensor]) -> Tensor:
        """The mean over all points of what is a mean over the points of each stack."""
        counts = [len(same) for same in self.points.values()]
        return torch.stack(
            [count * loss for count, loss in zip(counts, losses, strict=True)]
        ).sum() / sum(counts)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``-log D(R) - log(1 - D(T))`` from logits of any shape, as means over batch and maps: what D
    descends (Eq. 2).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """``1/2 * (1 - D(T))^2`` from logits of any shape, the mean over batch and maps (Eq. 4 without
    lambda2).

    The mean, not the paper's sum, keeps lambda2 independent of the number of maps and the batch.
    """
    return (1 - torch.sigmoid(fake)).square().mean() / 2
