"""Feature maps of student and teacher: recording, statistics, and initialisation by the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from rbsf.layers import binary_layers
from rbsf.makers import Makers
from rbsf.precision import widen

CALIBRATION = 16  # number of batches that is enough for a teacher's map statistics
Maps = list[tuple[str, Tensor]]  # points, each with a map [N, C, H, W] of its output
Stats = dict[str, tuple[Tensor, Tensor]]  # by point: mean and deviation [C] of its channels


class MapRecorder:
    """Records, inside `recording()`, the outputs of the modules named `points` of `net`.

    A map is kept as the module returned it, even if the network changes it afterwards, as
    ReLU(inplace=True) does. The first recording copies its maps. Later recordings copy them only if
    the recording before has seen such a change.
    """

    def __init__(self, net: nn.Module, points: Iterable[str]) -> None:
        self._modules = {point: net.get_submodule(point) for point in points}
        self._copies = True

    @contextmanager
    def recording(self) -> Iterator[Maps]:
        """Context manager; its list collects (point, map `[N, C, H, W]`) in order of the outputs.

        Raises RuntimeError at its end if the network changes its maps but did not do so in the
        first recording.
        """
        maps: Maps = []
        outputs: list[tuple[Tensor, int]] = []

        def recorder(point: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                outputs.append((output, output._version))
                kept = output.clone() if self._copies else output.view_as(output)
                maps.append((point, kept))

            return record

        hooks = [
            module.register_forward_hook(recorder(point)) for point, module in self._modules.items()
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
    """Normalises channels of a map by fixed statistics `[C]`, so that all layers count equally.

    The statistics are the teacher's. Statistics of the batch itself made training unstable: a
    channel that is dead in a batch has a deviation of zero.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        least = 0.1 * std.mean().item()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("inverse", 1 / std.clamp(min=least).view(1, -1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]`: float64 stays float64, other float dtypes become float32."""
        return (widen(maps) - self.mean) * self.inverse

    def distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """Half the mean squared distance of two maps after normalisation, a scalar."""
        return _HalfSquare.apply(fake, real, self.inverse)


class _HalfSquare(torch.autograd.Function):
    """Mean of `((fake - real) * factor)^2 / 2`, with a gradient for `fake` alone.

    The gradient has the dtype and memory layout of `fake`. It is written by hand, since autograd
    would make several passes over float32 maps, a tenth of a training step's time on a CPU. The
    mean is as exact as the dtype of the maps; no gradient depends on it.
    """

    @staticmethod
    def forward(ctx: Any, fake: Tensor, real: Tensor, factor: Tensor) -> Tensor:
        difference = (fake - real.detach()) * factor.to(fake.dtype)
        ctx.save_for_backward(difference, factor)
        norm = widen(torch.linalg.vector_norm(difference))
        return norm.square() / (2 * difference.numel())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        difference, factor = ctx.saved_tensors
        slope = factor * (grad / difference.numel())
        return difference * slope.to(difference.dtype), None, None


def measure_maps(
    student: nn.Module,
    teacher: nn.Module,
    forward: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
) -> Stats:
    """Find the points at which to compare the two networks, and measure the teacher's maps there.

    A point is the name of a batch-norm that reads a binary layer of the student in the first batch.
    The teacher's module of that name makes the map to match. `forward(net, batch)` runs a network.

    Returns mean and deviation `[C]` of the channels over all `batches`, by point. Raises ValueError
    if the teacher has no such module, or if no batch-norm reads the output of a binary layer.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return {}
    points = _points(student, partial(forward, student, first))
    modules = dict(teacher.named_modules())
    if missing := [point for point in points if point not in modules]:
        raise ValueError(
            f"the teacher has no layer {missing[0]!r}: it is no float twin of the student"
        )
    return map_statistics(teacher, points, partial(forward, teacher), chain([first], batches))


@torch.no_grad()
def map_statistics(
    net: nn.Module, points: Iterable[str], run: Callable[[Any], Any], batches: Iterable[Any]
) -> Stats:
    """Mean and deviation of the channels of the outputs of the modules named `points`.

    `run(batch)` runs `net`, which is put into eval mode, on each of `batches`.
    """
    moments: dict[str, Tensor] = {}
    net.eval()
    recorder = MapRecorder(net, points)
    for batch in batches:
        with recorder.recording() as recorded:
            run(batch)
        for point, maps in recorded:
            moments[point] = moments.get(point, 0) + _moments(maps)
    return {point: _mean_and_deviation(moments[point]) for point in moments}


def _points(net: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Names of the batch-norms that read the binary layers of `net` in `run()`, in their order."""
    layers = binary_layers(net)
    readers = _readers(net, layers, run)
    if missing := [name for name in layers if name not in readers]:
        layer = f"binary layer {missing[0]!r}"
        raise ValueError(f"no batch-norm reads the output of {layer}; maps are compared after one")
    return [readers[name] for name in layers]


@torch.no_grad()
def _readers(
    net: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[], Any]
) -> dict[str, str]:
    """The name of the batch-norm that reads the output of each of `layers` in `run()`, by layer.

    A layer is left out if no batch-norm reads its unchanged output. `net` runs in eval mode; its
    own mode is restored.
    """
    names = {module: name for name, module in net.named_modules()}
    makers = Makers()
    readers: dict[str, str] = {}

    def note_output(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        makers.note(output, names[layer])

    def find_maker(norm: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        if layer := makers.maker(inputs[0]):
            readers[layer] = names[norm]

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(note_output) for layer in layers.values()]
    hooks += [norm.register_forward_hook(find_maker) for norm in norms]
    training = net.training
    net.eval()
    try:
        run()
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return readers


def _moments(maps: Tensor) -> Tensor:
    """Count, sum and sum of squares of every channel, `[3, C]`, float64."""
    x = maps.detach().float()
    others = (0, 2, 3)  # all dimensions but the channels
    total, square = x.sum(others), x.square().sum(others)
    count = torch.full_like(total, x[:, 0].numel())
    return torch.stack([count, total, square]).double()


def _mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    count, total, square = moments
    mean = total / count
    variance = (square / count - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().float()


def start_from_teacher(student: nn.Module, teacher: nn.Module, stats: Stats) -> None:
    """Initialise a 1-bit `student` with the weights and map statistics of its `teacher`.

    Latent filters are divided by three deviations of their layer, so that they lie where Eq. 8 has
    a gradient. The batch-norm at each point of `stats` (see `measure_maps`) takes the deviation of
    the teacher's map as its scale and the mean as its shift. Raises ValueError if the teacher's
    filters have other shapes.
    """
    binary = binary_layers(student)
    _copy_real_layers(student, teacher, binary)
    for name, layer in binary.items():
        weight = teacher.get_parameter(f"{name}.weight").detach()
        # PCNN keeps only a part of the filters, so `layer.weight` has fewer.
        own_shape = (layer.out_channels, *layer.weight.shape[1:])
        if tuple(weight.shape) != own_shape:
            shapes = f"the teacher's filters are {tuple(weight.shape)}, the student's {own_shape}"
            advice = "train a teacher of the student's own stages"
            raise ValueError(f"layer {name!r}: {shapes}; {advice}")
        layer.set_weight(weight / (3 * weight.std()))
    for point, (mean, std) in stats.items():
        norm = student.get_submodule(point)
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.copy_(std)
            norm.bias.data.copy_(mean)
            norm.reset_running_stats()


def _copy_real_layers(
    student: nn.Module, teacher: nn.Module, binary: Mapping[str, nn.Module]
) -> None:
    """Copy the tensors that have one shape in both networks, except the weights of `binary`."""
    own = student.state_dict()
    shared = {
        key: value
        for key, value in teacher.state_dict().items()
        if key in own and value.shape == own[key].shape
    }
    real = {
        key: value for key, value in shared.items() if key.removesuffix(".weight") not in binary
    }
    student.load_state_dict(real, strict=False)


@torch.no_grad()
def start_again(net: nn.Module, run: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    """Prepare a trained `net` for further training; its output in eval mode stays the same.

    Published networks have their batch-norms folded into the convolutions. In training, batches
    would be normalised a second time, so each batch-norm gets the statistics of its inputs in
    `batches`. Weights may also have any size. In a first layer for pixels up to 255 they are so
    small that Adam, which makes steps of the same size for all weights, would overwrite them. So
    the weights get the deviation of newly made ones, 1 / sqrt(3 fan-in).

    Only convolutions with a batch-norm that reads their output, and these batch-norms, are changed.
    `run(batch)` runs `net`.
    """
    batches = iter(batches)
    first = next(batches)
    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    readers = _readers(net, convs, partial(run, first))
    stats = map_statistics(net, readers, run, chain([first], batches))
    for name, (mean, std) in stats.items():
        norm = cast(nn.BatchNorm2d, net.get_submodule(readers[name]))
        factor = _resize(convs[name])
        _take_statistics(norm, mean, std, factor)


def _resize(conv: nn.Conv2d) -> float:
    """Give the weights of `conv` the deviation of newly made ones; returns the factor.

    A convolution with a bias is not changed, since the bias would no longer fit: the factor is 1.
    """
    if conv.bias is not None or not conv.weight.any():
        return 1.0
    fan_in = conv.weight[0].numel()
    factor = 1 / (3 * fan_in) ** 0.5 / conv.weight.std().item()
    conv.weight.mul_(factor)
    return factor


def _take_statistics(norm: nn.BatchNorm2d, mean: Tensor, std: Tensor, factor: float) -> None:
    """Give `norm` the statistics of its input, which from now on is `factor` times as large.

    `mean` and `std` `[C]` describe the input before that. The output in eval mode does not change.
    """
    old = norm.state_dict()
    scale = old["weight"] / (old["running_var"] + norm.eps).sqrt()
    variance = (std * factor).square()
    new = {
        "weight": scale / factor * (variance + norm.eps).sqrt(),
        "bias": old["bias"] + scale * (mean - old["running_mean"]),
        "running_mean": mean * factor,
        "running_var": variance,
    }
    norm.load_state_dict({**old, **new})
