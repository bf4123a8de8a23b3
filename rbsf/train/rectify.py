"""Algorithm 1: trains a 1-bit network, guided by its full-precision twin, for any task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.maps import MapNorm, MapRecorder, Maps, Stats
from rbsf.train.adversarial import Discriminators, adversarial_loss, discriminator_loss, pool
from rbsf.train.distributed import average_buffers
from rbsf.train.optimizers import Optimizers
from rbsf.train.rectify_config import AFFINE, STATISTICS, RectifyConfig

# Optimizers whose parameters learn in a step, and those whose parameters the batch-norm pass holds.
LEARN_IN_STEP = ("binary", "real", "norm", "c", "teacher")
FIXED_IN_NORM_PASS = ("binary", "real", "c", "teacher")


class Task(Protocol):
    """A task for Algorithm 1: it computes L_S of Eq. 1 on one batch.

    It is called with the student, the teacher (or None) and a batch on their device. It runs both
    networks on the same inputs in the same order, so that their feature maps pair up. It returns
    the loss (a scalar) and further scalars to log. An attribute `teacher_for_maps` tells that the
    loss does not depend on the teacher, which then only runs for its maps.
    """

    def __call__(
        self, student: nn.Module, teacher: nn.Module | None, batch: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class."""
        ...


class Rectifier:
    """A network that is trained by Algorithm 1, with its optimizers.

    The keys of `stats` are the points: the batch-norms after the binary convolutions, in student
    and teacher, which output the maps T and R. The values are the teacher's statistics there
    (`rbsf.maps`). Without a teacher and binary layers, this is plain training of `student`.

    Raises ValueError if the configuration needs maps that do not exist.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        task: Task,
        config: RectifyConfig,
        stats: Stats | None = None,
    ) -> None:
        stats = stats or {}
        if config.compares_maps:
            _check_maps(teacher, stats)
        self.student, self.teacher, self.task, self.config = student, teacher, task, config
        self.points, self.layers = tuple(stats), list(binary_layers(student).values())
        device = next(student.parameters()).device
        norms = {_key(point): MapNorm(mean, std) for point, (mean, std) in stats.items()}
        self.map_norms = nn.ModuleDict(norms).to(device)
        channels = {point: len(mean) for point, (mean, _) in stats.items()}
        judged = channels if config.gan else {}
        self.discriminators = Discriminators(judged, config.gan_sees == "image").to(device)
        if teacher is not None:
            teacher.eval().requires_grad_(config.train_teacher)
        self.recorders = self._recorders()
        if not config.lr_real:
            self._freeze_real_layers()
        self.optimizers = Optimizers(self._groups(), config)

    def _recorders(self) -> list[MapRecorder]:
        """Recorders for the maps of student and teacher; empty if maps are not compared."""
        if self.teacher is None or not self.config.compares_maps:
            return []
        return [MapRecorder(net, self.points) for net in (self.student, self.teacher)]

    def _freeze_real_layers(self) -> None:
        """Disable learning for real layers and all batch-norms that belong to no binary layer."""
        binary = tuple(f"{name}." for name in binary_layers(self.student))
        frozen = parameter_groups(self.student)["real"]
        for name, module in self.student.named_modules():
            of_binary = name in self.points or name.startswith(binary)
            if isinstance(module, nn.BatchNorm2d) and not of_binary:
                frozen += module.parameters()
        for parameter in frozen:
            parameter.requires_grad_(False)

    def _train_mode(self, epoch: int) -> None:
        """Put the networks into train mode, except batch-norms that keep their statistics."""
        self.student.train()
        if self.teacher is not None:
            self.teacher.train(self.config.train_teacher)
        fixed = self.keeps_statistics(epoch)
        for norm in _norms(self.student):
            if fixed or _is_frozen(norm):
                norm.eval()

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name of their optimizer; matrices C are frozen without `rectify`."""
        groups = parameter_groups(self.student)
        groups["discriminator"] = list(self.discriminators.parameters())
        if self.config.train_teacher and self.teacher is not None:
            groups["teacher"] = list(self.teacher.parameters())
        if not self.config.rectify:
            for parameter in groups.pop("c"):
                parameter.requires_grad_(False)
        return groups

    def set_rate_factor(self, factor: float) -> None:
        """Set every learning rate to `factor` times its configured value."""
        self.optimizers.set_rate_factor(factor)

    def keeps_statistics(self, epoch: int) -> bool:
        """Whether batch-norms have fixed statistics in `epoch` (from 0)."""
        return 0 <= self.config.norm_epochs <= epoch

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[Any]) -> None:
        """Give the batch-norms the mean statistics over `batches`.

        Statistics of single batches do not suit tracking.
        """
        self._train_mode(-1)
        norms = [norm for norm in _norms(self.student) if norm.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # makes PyTorch take the mean of all batches
        for batch in batches:
            self.task(self.student, None, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        average_buffers([self.student])

    def step(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """One batch of Algorithm 1: the discriminators learn, then W, then C.

        Batch-norms and real weights learn with W. One backward pass is enough for W and C, since
        Eq. 7 and 13 are partial derivatives of the same loss. Returns the losses to log, scalars.
        """
        self._train_mode(epoch)
        loss, logged, fake, real = self._forward(batch, self.teacher)
        pooled = self._pooled(fake)
        if self.config.gan:
            logged["discriminator"] = self._update_discriminators(pooled, self._pooled(real))
        of_maps, parts = self._map_losses(fake, real, pooled, epoch)
        loss, logged = loss + of_maps, logged | parts
        terms = self._kernel_losses() if self.config.rectify else []
        if terms:
            logged["kernel"] = torch.stack(terms).sum()
            weight = self.config.lambda_kernel * self.config.lambda_factor(epoch)
            loss = loss + weight * logged["kernel"]
        self._update(loss, LEARN_IN_STEP)
        return _detached(loss, logged)

    def norm_step(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """One batch of the pass after each epoch (Algorithm 1, line 17).

        Only batch-norms learn; W and C do not change. Returns the losses to log, scalars.
        """
        self._train_mode(epoch)
        if self.config.bn_learns == STATISTICS:
            with torch.no_grad():
                return _detached(*self.task(self.student, None, batch))
        if self.config.bn_learns == AFFINE:
            self.student.eval()
        idle = self.config.lambda_match == 0 and getattr(self.task, "teacher_for_maps", False)
        teacher = None if idle else self.teacher  # the discriminators do not learn and only see T
        with _held(self.optimizers.parameters(FIXED_IN_NORM_PASS)):
            loss, logged, fake, real = self._forward(batch, teacher)
            of_maps, parts = self._map_losses(fake, real, self._pooled(fake), epoch)
            loss, logged = loss + of_maps, logged | parts
            self._update(loss, ["norm"])
        return _detached(loss, logged)

    def _forward(
        self, batch: Any, teacher: nn.Module | None
    ) -> tuple[Tensor, dict[str, Tensor], Maps, Maps]:
        """The task's loss, what it logs, and the maps T and R of all points, in the same order.

        Without a `teacher` there are no maps R.
        """
        with ExitStack() as stack:
            recorded = [stack.enter_context(recorder.recording()) for recorder in self.recorders]
            loss, logged = self.task(self.student, teacher, batch)
        if not recorded:
            return loss, logged, [], []
        fake, real = recorded
        if teacher is not None:
            _check_pairs(fake, real)
        return loss, logged, fake, real

    def _norm(self, point: str) -> MapNorm:
        return cast(MapNorm, self.map_norms[_key(point)])

    def _pooled(self, maps: Maps) -> Maps:
        """`maps` as the discriminators see them; empty if there are no discriminators.

        The maps are normalised after the pooling, which gives the same result and is cheaper.
        """
        if not self.config.gan:
            return []
        return [(point, self._norm(point)(pool(x))) for point, x in maps]

    def _update_discriminators(self, fakes: Maps, reals: Maps) -> Tensor:
        """Let the discriminators learn; returns their loss, a mean over points.

        The step minimises the sum over points, so that the number of points does not slow down the
        learning of a discriminator.
        """
        real_maps = self.discriminators.arrange(reals)
        fake_maps = self.discriminators.arrange(fakes)
        pairs = zip(real_maps, fake_maps, strict=True)
        logits = self.discriminators([torch.cat(pair, dim=1).detach() for pair in pairs])
        losses = [discriminator_loss(*both.chunk(2, dim=1)) for both in logits]
        loss = self.discriminators.mean(losses)
        self._update(loss * len(fakes), ["discriminator"])
        return loss

    def _map_losses(
        self, fake: Maps, real: Maps, pooled: Maps, epoch: int
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The weighted sum of the adversarial loss and the feature regression, and its parts.

        Each part is a mean over points and inputs. `pooled` is `fake` as the discriminators see it.
        """
        total: Tensor | float = 0.0
        parts: dict[str, Tensor] = {}
        if fake and self.config.gan:
            parts["adversarial"] = self._adversarial_loss(pooled)
            weight = self.config.lambda_adversarial * self.config.lambda_factor(epoch)
            total = total + weight * parts["adversarial"]
        if fake and self.config.lambda_match:
            parts["match"] = self._match_loss(fake, real)
            total = total + self.config.lambda_match * parts["match"]
        return total, parts

    def _adversarial_loss(self, fakes: Maps) -> Tensor:
        with _held(self.discriminators.parameters()):
            logits = self.discriminators(self.discriminators.arrange(fakes))
        form = self.config.gan_loss
        return self.discriminators.mean([adversarial_loss(each, form) for each in logits])

    def _match_loss(self, fake: Maps, real: Maps) -> Tensor:
        pairs = zip(fake, real, strict=True)
        distances = [self._norm(point).distance(t, r) for (point, t), (_, r) in pairs]
        return torch.stack(distances).mean()

    def _update(self, loss: Tensor, names: Sequence[str]) -> None:
        """Let the optimizers `names` make a step to reduce `loss`."""
        self.optimizers.update(loss, names)
        for layer in self.layers:
            layer.constrain()

    def _kernel_losses(self) -> list[Tensor]:
        """The losses that the methods of the binary layers add.

        These are RBConv's kernel loss and PCNN's projection loss.
        """
        losses = [layer.regularizer() for layer in self.layers]
        return [loss for loss in losses if loss is not None]

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights or statistics that a checkpoint must hold, by name."""
        modules = {
            "student": self.student,
            "map_norms": self.map_norms,
            "discriminators": self.discriminators,
        }
        return modules if self.teacher is None else {**modules, "teacher": self.teacher}

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and optimizers, for a checkpoint."""
        modules = {name: module.state_dict() for name, module in self.modules().items()}
        return {"modules": modules, "optimizers": self.optimizers.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises RuntimeError, as torch does, or KeyError if it belongs to another network.
        """
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        self.optimizers.load_state_dict(state["optimizers"])


def parameter_groups(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters in groups, each with its own learning rate.

    The groups are `binary` (latent filters), `real` (real weights), `norm` (batch-norms) and `c`
    (the matrices C).
    """
    groups: dict[str, list[nn.Parameter]] = {"binary": [], "real": [], "norm": [], "c": []}
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            groups[_group_of(module, name)].append(parameter)
    return groups


def _group_of(module: nn.Module, name: str) -> str:
    """The group of the parameter `name` of a module."""
    if isinstance(module, nn.BatchNorm2d):
        return "norm"
    if not isinstance(module, BinaryConv2d) or name == "bias":
        return "real"
    return "c" if name == "C" else "binary"


@contextmanager
def _held(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Context manager: `parameters` get no gradient inside."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def _is_frozen(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch-norm does not learn; it then also keeps its statistics."""
    return norm.weight is not None and not norm.weight.requires_grad


def _check_maps(teacher: nn.Module | None, stats: Stats) -> None:
    """Raise ValueError if there are no feature maps to compare."""
    if teacher is None:
        missing = "there is no teacher"
    elif not stats:
        missing = "the student has no binary layer to take them from"
    else:
        return
    raise ValueError(f"gan or lambda_match ask for feature maps, but {missing}; switch both off")


def _check_pairs(fake: Maps, real: Maps) -> None:
    """Raise ValueError if the maps of student and teacher do not match in pairs."""
    for (point, t), (other, r) in zip(fake, real, strict=True):
        if point != other or t.shape != r.shape:
            found = f"the student's is {tuple(t.shape)}, the teacher's {tuple(r.shape)}"
            advice = "give a teacher of the student's own stages"
            raise ValueError(f"feature maps at {point!r} do not match: {found}; {advice}")


def _detached(loss: Tensor, logged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values that a step logs, detached from their autograd graphs."""
    return {name: value.detach() for name, value in {"loss": loss, **logged}.items()}


def _key(point: str) -> str:
    return point.replace(".", "_")  # keys of a ModuleDict must not contain dots
