"""Feature maps of student and teacher: recording them, their statistics, and a start from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.layers import binary_layers

Maps = list[tuple[str, Tensor]]  # point, and a map [N, C, H, W] of its output
Stats = dict[str, tuple[Tensor, Tensor]]  # point -> mean and deviation [C] of the channels of its map


class MapRecorder:
    """Records, inside `recording()`, what the modules named `points` put out each time `net` runs."""

    def __init__(self, net: nn.Module, points: Iterable[str]) -> None:
        self._maps: Maps | None = None
        for point in points:
            net.get_submodule(point).register_forward_hook(self._hook(point))

    def _hook(self, point: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if self._maps is not None:
                self._maps.append((point, output))

        return record

    @contextmanager
    def recording(self) -> Iterator[Maps]:
        """Context whose list collects (point, map [N, C, H, W]) in the order of the forward passes."""
        maps: Maps = []
        self._maps = maps
        try:
            yield maps
        finally:
            self._maps = None  # else passes outside training, as in validation, would pile up maps


class MapNorm(nn.Module):
    """Normalise the channels of a map by fixed statistics of the teacher's, so that layers weigh alike.

    Statistics of the batch itself made training unstable: a channel that is dead in a batch divides by nothing.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("inverse", 1 / std.clamp(min=0.1 * std.mean().item()).view(1, -1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] of any float dtype to float32."""
        return (maps.float() - self.mean) * self.inverse

    def distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """Half the mean squared distance of two maps after normalisation, a scalar."""
        difference = (fake - real) * self.inverse.to(fake.dtype)  # the mean cancels
        return difference.square().mean(dtype=torch.float32) / 2


def measure_maps(recorded: Maps) -> Stats:
    """Mean and deviation [C] of every channel of the recorded maps, by point."""
    sums: dict[str, Tensor] = {}
    for point, maps in recorded:
        x = maps.detach().float()
        moments = torch.stack(
            [torch.ones_like(x[0, :, 0, 0]) * x[:, 0].numel(), x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]
        )
        sums[point] = sums.get(point, 0) + moments.double()
    measured: Stats = {}
    for point, (count, total, square) in sums.items():
        mean = total / count
        measured[point] = (mean.float(), (square / count - mean.square()).clamp(min=0).sqrt().float())
    return measured


def start_from_teacher(student: nn.Module, teacher: nn.Module, points: Sequence[str], stats: Stats) -> None:
    """Start a 1-bit `student` from its `teacher`: same weights, and the teacher's map statistics.

    Latent filters are divided by three deviations of their layer, so that they lie where Eq. 8 has a gradient;
    the batch-norm at each of `points` starts with the deviation and mean of the teacher's map as its scale and shift.
    """
    binary = binary_layers(student)
    own = student.state_dict()
    shared = {k: v for k, v in teacher.state_dict().items() if k in own and v.shape == own[k].shape}
    student.load_state_dict({k: v for k, v in shared.items() if k.removesuffix(".weight") not in binary}, strict=False)
    for name, layer in binary.items():
        conv = teacher.get_submodule(name)
        if isinstance(conv, nn.Conv2d):
            layer.set_weight(conv.weight.detach() / (3 * conv.weight.detach().std()))
    for point in points:
        norm, (mean, std) = student.get_submodule(point), stats[point]
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.copy_(std)
            norm.bias.data.copy_(mean)
            norm.reset_running_stats()
