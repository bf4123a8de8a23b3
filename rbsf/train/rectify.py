"""Algorithm 1: trains a 1-bit network, guided by its full-precision twin, for any task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.maps import MapNorm, MapRecorder, Maps, Stats
from rbsf.train.adversarial import (
    LOG,
    SQUARE,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    pool,
)
from rbsf.train.config import setting
from rbsf.train.distributed import average_buffers, average_gradients

NOT_NEGATIVE = ("lambda_", "lr_", "weight_decay")  # beginnings of settings that must be 0 or more
DECAYED = ("binary", "real", "teacher")  # optimizers that use weight decay
FIXED_IN_NORM_PASS = ("binary", "real", "c", "teacher")  # optimizers of weights that do not change
BOTH, STATISTICS, AFFINE = "both", "statistics", "affine"  # what a batch-norm learns in its pass


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


@dataclass
class RectifyConfig:
    """Algorithm 1's switches (R, G, B of Table 2), weights and learning rates."""

    TITLE: ClassVar[str] = "the method: Algorithm 1 of the paper"

    rectify: bool = setting(
        True, "Learn the matrices C and apply the kernel loss, which is R in the paper's Table 2"
    )
    gan: bool = setting(
        True, "Train discriminators on the feature maps, which is G in the paper's Table 2"
    )
    bn_pass: float = setting(
        0.1,
        "Train the batch-norms alone after each epoch, for this share of an epoch, which is B in"
        " the paper's Table 2; 0 leaves it out",
        metavar="SHARE",
    )
    bn_learns: str = setting(
        BOTH,
        "Let the batch-norms learn their statistics, their affine parameters, or both in that pass",
        choices=(BOTH, STATISTICS, AFFINE),
    )
    gan_sees: str = setting(
        "map",
        "Show the discriminators a single feature map at a time, or all maps of an image",
        choices=("map", "image"),
    )
    gan_loss: str = setting(
        SQUARE,
        "Deceive the discriminators by the square of Eq. 4, or by the log-likelihood",
        choices=(SQUARE, LOG),
    )
    norm_epochs: int = setting(
        -1,
        "Measure the statistics of the batch-norms after N epochs and keep them from then on, as"
        " in use; with -1 training uses each batch's own statistics to the end",
    )
    lambda_kernel: float = setting(1e-4, "Weigh the kernel loss by this, lambda1 of Eq. 3")
    lambda_adversarial: float = setting(0.1, "Weigh the adversarial loss by this, lambda2 of Eq. 4")
    lambda_match: float = setting(
        1.0,
        "Weigh the distance between the feature maps of student and teacher by this, which is not"
        " in the paper",
    )
    lambda_decay: float = setting(
        0.9, "Multiply lambda1 and lambda2 by this after each --lambda-epochs epochs"
    )
    lambda_epochs: int = setting(
        60, "Multiply lambda1 and lambda2 by --lambda-decay every N epochs"
    )
    lr_binary: float = setting(
        1e-3, "Train the real weights behind the signs at this rate, eta1", changeable=True
    )
    lr_real: float = setting(
        1e-3,
        "Train the real layers at this rate; 0 keeps them and their batch-norms as they are at the"
        " start",
        changeable=True,
    )
    lr_c: float = setting(1e-3, "Train the matrices C at this rate, eta2", changeable=True)
    lr_norm: float = setting(1e-3, "Train the batch-norms at this rate", changeable=True)
    lr_discriminator: float = setting(
        1e-3, "Train the discriminators at this rate", changeable=True
    )
    train_teacher: bool = setting(
        False, "Train the teacher beside the student, as Apprentice's scheme A does"
    )
    optimizer: str = setting(
        "adam",
        "Train by Adam, or by SGD with momentum 0.9; the discriminators are always trained by Adam",
        choices=("adam", "sgd"),
    )
    weight_decay: float = setting(
        0.0, "Let weights decay by this, but for those of the batch-norms"
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        for field in fields(RectifyConfig):
            if field.name.startswith(NOT_NEGATIVE):
                self._check_not_negative(field.name)
        if not 0 <= self.bn_pass <= 1:
            raise ValueError(f"bn_pass is {self.bn_pass}; it is a share of an epoch, 0 to 1")
        if self.norm_epochs < -1:
            raise ValueError(
                f"norm_epochs is {self.norm_epochs}; it must be 0 or more, or -1 for all epochs"
            )
        if self.lambda_epochs < 1:
            raise ValueError(f"lambda_epochs is {self.lambda_epochs}; it must be 1 or more")

    def _check_not_negative(self, name: str) -> None:
        value = getattr(self, name)
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")

    @property
    def compares_maps(self) -> bool:
        """Whether the student's feature maps are compared with the teacher's."""
        return self.gan or self.lambda_match > 0

    def lambda_factor(self, epoch: int) -> float:
        """The factor for lambda1 and lambda2 in `epoch` (from 0): the schedule of section 3.1."""
        return self.lambda_decay ** (epoch // self.lambda_epochs)


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
        self.optimizers = self._make_optimizers()

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

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """An optimizer for each group of parameters that learns.

        Their order is that of Algorithm 1: W, then C with W fixed. Batch-norms learn with W.
        """
        optimizers = {}
        for name, parameters in self._groups().items():
            learning = [parameter for parameter in parameters if parameter.requires_grad]
            rate = self._rate(name)
            if learning and rate:
                optimizers[name] = self._make_optimizer(name, learning, rate)
        return optimizers

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

    def _make_optimizer(
        self, name: str, parameters: list[nn.Parameter], rate: float
    ) -> torch.optim.Optimizer:
        decay = self.config.weight_decay if name in DECAYED else 0.0
        # `fused` updates all parameters at once.
        options: dict[str, Any] = {"lr": rate, "weight_decay": decay, "fused": True}
        on_gpu = parameters[0].is_cuda
        if on_gpu:  # a recorded step (rbsf.train.capture) reads this tensor at each replay
            options["lr"] = torch.tensor(rate, device=parameters[0].device)
        if self.config.optimizer == "sgd" and name != "discriminator":
            return torch.optim.SGD(parameters, momentum=0.9, **options)
        return torch.optim.Adam(parameters, capturable=on_gpu, **options)

    def _rate(self, name: str) -> float:
        """The configured learning rate of an optimizer.

        A teacher that is trained has the rate of real weights.
        """
        return getattr(self.config, "lr_real" if name == "teacher" else f"lr_{name}")

    def set_rate_factor(self, factor: float) -> None:
        """Set every learning rate to `factor` times its configured value."""
        for name, optimizer in self.optimizers.items():
            rate = factor * self._rate(name)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

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
        loss = loss + self._map_loss(fake, real, pooled, epoch, logged)
        terms = self._kernel_losses() if self.config.rectify else []
        if terms:
            logged["kernel"] = torch.stack(terms).sum()
            weight = self.config.lambda_kernel * self.config.lambda_factor(epoch)
            loss = loss + weight * logged["kernel"]
        self._update(loss, [name for name in self.optimizers if name != "discriminator"])
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
        with _held(_parameters(self._chosen(FIXED_IN_NORM_PASS))):
            loss, logged, fake, real = self._forward(batch, teacher)
            loss = loss + self._map_loss(fake, real, self._pooled(fake), epoch, logged)
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

    def _map_loss(
        self, fake: Maps, real: Maps, pooled: Maps, epoch: int, logged: dict[str, Tensor]
    ) -> Tensor | float:
        """Weighted sum of the adversarial loss and the feature regression.

        Each is a mean over points and inputs. `pooled` is `fake` as the discriminators see it.
        """
        total: Tensor | float = 0.0
        if not fake:
            return total
        if self.config.gan:
            logged["adversarial"] = self._adversarial_loss(pooled)
            weight = self.config.lambda_adversarial * self.config.lambda_factor(epoch)
            total = total + weight * logged["adversarial"]
        if self.config.lambda_match:
            logged["match"] = self._match_loss(fake, real)
            total = total + self.config.lambda_match * logged["match"]
        return total

    def _adversarial_loss(self, fakes: Maps) -> Tensor:
        with _held(self.discriminators.parameters()):
            logits = self.discriminators(self.discriminators.arrange(fakes))
        form = self.config.gan_loss
        return self.discriminators.mean([adversarial_loss(each, form) for each in logits])

    def _match_loss(self, fake: Maps, real: Maps) -> Tensor:
        pairs = zip(fake, real, strict=True)
        distances = [self._norm(point).distance(t, r) for (point, t), (_, r) in pairs]
        return torch.stack(distances).mean()

    def _chosen(self, names: Iterable[str]) -> list[torch.optim.Optimizer]:
        """The optimizers with these names that exist."""
        return [self.optimizers[name] for name in names if name in self.optimizers]

    def _update(self, loss: Tensor, names: list[str]) -> None:
        """Let the optimizers `names` make a step to reduce `loss`."""
        optimizers = self._chosen(names)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            average_gradients(_parameters([optimizer]))
            optimizer.step()
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
        optimizers = {name: each.state_dict() for name, each in self.optimizers.items()}
        return {"modules": modules, "optimizers": optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises RuntimeError, as torch does, or KeyError if it belongs to another network.
        """
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(_with_options_of(optimizer, state["optimizers"][name]))


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
    """Context manager: `parameters` get no gradient inside, and always get gradients afterwards."""
    held = list(parameters)
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


def _parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def _with_options_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The saved `state` with the options of `optimizer`, since these suit its device."""
    groups = []
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        options = {name: value for name, value in group.items() if name != "params"}
        groups.append({**saved, **options})
    return {**state, "param_groups": groups}


def _key(point: str) -> str:
    return point.replace(".", "_")  # keys of a ModuleDict must not contain dots
