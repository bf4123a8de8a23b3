"""Feature maps of student and teacher: recording them, their statistics, and a start from the
teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from rbsf.layers import binary_layers
from rbsf.precision import widen

CALIBRATION = 16  # batches that suffice for a teacher's map statistics
Maps = list[tuple[str, Tensor]]  # point, and a map [N, C, H, W] of its output
Stats = dict[
    str, tuple[Tensor, Tensor]
]  # point -> mean and deviation [C] of the channels of its map


class MapRecorder:
    """Records, inside `recording()`, what the modules named `points` put out each time `net` runs.

    Maps are kept as they were put out, also where the network writes into them afterwards, as
    ReLU(inplace=True) does: the first recording copies them, and later ones do so if it has seen
    that happen.
    """

    def __init__(self, net: nn.Module, points: Iterable[str]) -> None:
        self._modules = {point: net.get_submodule(point) for point in points}
        self._copies = True

    @contextmanager
    def recording(self) -> Iterator[Maps]:
        """Context whose list collects (point, map [N, C, H, W]) in the order of the forward passes.

        RuntimeError at its end where a network writes into its maps that has not done so before.
        """
        maps: Maps = []
        outputs: list[tuple[Tensor, int]] = []

        def keep(point: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                outputs.append((output, output._version))
                maps.append((point, output.clone() if self._copies else output.view_as(output)))

            return record

        hooks = [
            module.register_forward_hook(keep(point)) for point, module in self._modules.items()
        ]
        try:
            yield maps
        finally:
            for hook in hooks:
                hook.remove()
        written = any(output._version != version for output, version in outputs)
        if written and not self._copies:
            raise RuntimeError(
                "the network writes into its feature maps in this pass, but did not in the first"
            )
        self._copies = written


class MapNorm(nn.Module):
    """Normalise the channels of a map by fixed statistics of the teacher's, so that layers weigh
    alike.

    Statistics of the batch itself made training unstable: a channel that is dead in a batch divides
    by nothing.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer(
            "inverse", 1 / std.clamp(min=0.1 * std.mean().item()).view(1, -1, 1, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] of any float dtype to the same in float32, of float64 in float64."""
        return (widen(maps) - self.mean) * self.inverse

    def distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """Half the mean squared distance of two maps after normalisation, a scalar."""
        return _HalfSquare.apply(fake, real, self.inverse)


class _HalfSquare(torch.autograd.Function):
    """Mean of ((fake - real) * factor)^2 / 2, with a gradient for `fake` in its own dtype and
    memory layout.

    By hand, since autograd's takes several passes over maps in float32, a tenth of a training
    step's time on a CPU. The mean, which no gradient depends on, is as exact as the maps' dtype.
    """

    @staticmethod
    def forward(ctx: Any, fake: Tensor, real: Tensor, factor: Tensor) -> Tensor:
        difference = (fake - real.detach()) * factor.to(fake.dtype)
        ctx.save_for_backward(difference, factor)
        return widen(torch.linalg.vector_norm(difference)).square() / (2 * difference.numel())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        difference, factor = ctx.saved_tensors
        return difference * (factor * (grad / difference.numel())).to(difference.dtype), None, None


def measure_maps(
    student: nn.Module,
    teacher: nn.Module,
    forward: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
) -> Stats:
    """Find the points at which to compare the two networks, and measure the teacher's maps there.

    A point is the batch-norm that reads a binary layer of the student, as its first batch shows;
    the teacher's module of that name makes the map to match.  `forward(net, batch)` runs a network.
    Returns mean and deviation [C] of every channel over all `batches`, by point.  ValueError for a
    teacher without such a module, and for a binary layer whose output no batch-norm reads.
    """
    batches = iter(batches)
    if (first := next(batches, None)) is None:
        return {}
    points, modules = (
        _points(student, partial(forward, student, first)),
        dict(teacher.named_modules()),
    )
    if missing := [point for point in points if point not in modules]:
        raise ValueError(
            f"the teacher has no layer {missing[0]!r}: it is no float twin of the student"
        )
    return map_statistics(teacher, points, partial(forward, teacher), chain([first], batches))


@torch.no_grad()
def map_statistics(
    net: nn.Module, points: Iterable[str], run: Callable[[Any], Any], batches: Iterable[Any]
) -> Stats:
    """Mean and deviation of the channels of what the modules `points` put out over `batches`, `net`
    in eval mode.
    """
    stats: dict[str, Tensor] = {}
    net.eval()
    recorder = MapRecorder(net, points)
    for batch in batches:
        with recorder.recording() as recorded:
            run(batch)
        for point, maps in recorded:
            stats[point] = stats.get(point, 0) + _moments(maps)
    return {point: _mean_and_deviation(stats[point]) for point in stats}


def _points(net: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Names of the batch-norms that read the outputs of the binary layers of `net` in `run()`, in
    their order.
    """
    layers = binary_layers(net)
    found = _readers(net, layers, run)
    if missing := [name for name in layers if name not in found]:
        raise ValueError(
            f"no batch-norm reads the output of binary layer {missing[0]!r}; maps are compared after one"
        )
    return [found[name] for name in layers]


@torch.no_grad()
def _readers(
    net: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[], Any]
) -> dict[str, str]:
    """For each of `layers` whose output a batch-norm reads in `run()`, `net` in eval mode, the
    batch-norm's name.
    """
    made: dict[
        int, tuple[str, Tensor]
    ] = {}  # id -> layer and the tensor itself, so that no other takes its id
    found: dict[str, str] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: made.update({id(output): (name, output)})

    def find(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda _module, inputs, _output: found.update(
            {made[id(inputs[0])][0]: name} if id(inputs[0]) in made else {}
        )

    norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    hooks += [norm.register_forward_hook(find(name)) for name, norm in norms.items()]
    training = net.training
    net.eval()
    run()
    net.train(training)
    for hook in hooks:
        hook.remove()
    return found


def _moments(maps: Tensor) -> Tensor:
    """Count, sum and sum of squares of every channel, [3, C] float64."""
    x = maps.detach().float()
    count = torch.full_like(x[0, :, 0, 0], x[:, 0].numel())
    return torch.stack([count, x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]).double()


def _mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    count, total, square = moments
    mean = total / count
    return mean.float(), (square / count - mean.square()).clamp(min=0).sqrt().float()


def start_from_teacher(student: nn.Module, teacher: nn.Module, stats: Stats) -> None:
    """Start a 1-bit `student` from its `teacher`: same weights, and the teacher's map statistics
    (`measure_maps`).

    Latent filters are divided by three deviations of their layer, so that they lie where Eq. 8 has
    a gradient; the batch-norm at each point starts with the deviation and mean of the teacher's map
    as its scale and shift. ValueError for a teacher whose filters are of other shapes.
    """
    binary = binary_layers(student)
    own = student.state_dict()
    shared = {k: v for k, v in teacher.state_dict().items() if k in own and v.shape == own[k].shape}
    student.load_state_dict(
        {k: v for k, v in shared.items() if k.removesuffix(".weight") not in binary}, strict=False
    )
    for name, layer in binary.items():
        weight = teacher.get_parameter(f"{name}.weight").detach()
        own_shape = (
            layer.out_channels,
            *layer.weight.shape[1:],
        )  # PCNN keeps a part of the filters
        if tuple(weight.shape) != own_shape:
            shapes = f"the teacher's filters are {tuple(weight.shape)}, the student's {own_shape}"
            raise ValueError(
                f"layer {name!r}: {shapes}; train a teacher of the student's own stages"
            )
        layer.set_weight(weight / (3 * weight.std()))
    for point, (mean, std) in stats.items():
        norm = student.get_submodule(point)
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.copy_(std)
            norm.bias.data.copy_(mean)
            norm.reset_running_stats()


@torch.no_grad()
def start_again(net: nn.Module, run: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    """Bring a trained `net` into a state from which it can be trained on; what it computes in eval
    mode stays.

    Published networks come with their batch-norms folded into the convolutions: batches would
    normalise anew what is scaled already.  So batch-norms get the statistics of what they see.  And
    weights of a convolution in front of one may have any size: those of a first layer for pixels to
    255 are so small that Adam, whose steps are of one size for all, would overwrite them.  So they
    get the deviation of fresh ones, 1 / sqrt(3 fan-in).

    That is for the convolutions whose output a batch-norm reads, and for these.  `run(batch)` runs
    `net`.
    """
    batches = iter(batches)
    first = next(batches)
    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    readers = _readers(net, convs, partial(run, first))
    for name, (mean, std) in map_statistics(net, readers, run, chain([first], batches)).items():
        norm, size = cast(nn.BatchNorm2d, net.get_submodule(readers[name])), _resize(convs[name])
        was = norm.state_dict()
        scale = was["weight"] / (was["running_var"] + norm.eps).sqrt()
        mean, bias = mean * size, was["bias"] + scale * (mean - was["running_mean"])
        variance = (std * size).square()
        weight = scale / size * (variance + norm.eps).sqrt()
        norm.load_state_dict(
            {**was, "weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        )


def _resize(conv: nn.Conv2d) -> float:
    """Give weights the deviation of fresh ones; returns the factor, 1 for a convolution whose bias
    it would not fit.
    """
    if conv.bias is not None or not conv.weight.any():
        return 1.0
    factor = 1 / (3 * conv.weight[0].numel()) ** 0.5 / conv.weight.std().item()
    conv.weight.mul_(factor)
    return factor
