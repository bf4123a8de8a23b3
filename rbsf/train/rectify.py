"""Algorithm 1: train a 1-bit network under the guidance of its full-precision twin, for any task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d, binary_layers
from rbsf.maps import MapNorm, MapRecorder, Maps, Stats
from rbsf.train.adversarial import Discriminators, adversarial_loss, discriminator_loss, pool
from rbsf.train.config import setting
from rbsf.train.distributed import average_buffers, average_gradients


class Task(Protocol):
    """What Algorithm 1 asks of a task: L_S of Eq. 1 on one batch.

    Called with the student, the teacher (None where there is none) and a batch on their device.  It
    runs both networks on the same inputs in the same order, so that their feature maps pair up, and
    returns the loss (a scalar) and further scalars to log.
    """

    def __call__(
        self, student: nn.Module, teacher: nn.Module | None, batch: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class."""
        ...


@dataclass
class RectifyConfig:
    """Algorithm 1's switches (R, G, B of Table 2), weights and learning rates."""

    rectify: bool = setting(True, "R: learn C and apply the kernel loss")
    gan: bool = setting(True, "G: discriminators on the feature maps")
    bn_pass: float = setting(
        0.1, "B: batch-norm-only pass after each epoch, share of an epoch; 0 = off"
    )
    norm_epochs: int = setting(
        -1,
        "epochs after which batch-norms keep their statistics, measured anew then, as they will be used;"
        " -1: they go by each batch to the end",
    )
    lambda_kernel: float = setting(1e-4, "lambda1, weight of the kernel loss (Eq. 3)")
    lambda_adversarial: float = setting(0.1, "lambda2, weight of the adversarial loss (Eq. 4)")
    lambda_match: float = setting(
        1.0, "weight of feature-map regression to the teacher (not in the paper)"
    )
    lambda_decay: float = setting(0.9, "lambda1 and lambda2 are multiplied by this ...")
    lambda_epochs: int = setting(60, "... every so many epochs")
    lr_binary: float = setting(1e-3, "eta1, rate of the latent binary filters W", changeable=True)
    lr_real: float = setting(
        1e-3,
        "rate of the real weights; 0 keeps the real layers and their batch-norms as they are at the start",
        changeable=True,
    )
    lr_c: float = setting(1e-3, "eta2, rate of the learnable matrices C", changeable=True)
    lr_norm: float = setting(1e-3, "rate of the batch-norm layers", changeable=True)
    lr_discriminator: float = setting(1e-3, "rate of the discriminators", changeable=True)
    train_teacher: bool = setting(
        False, "train the teacher beside the student, as Apprentice's scheme A does"
    )
    optimizer: str = setting(
        "adam", "adam, or sgd with momentum 0.9 (discriminators: adam)", choices=("adam", "sgd")
    )
    weight_decay: float = setting(0.0, "decay of real and latent binary weights")

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        for name in (
            f.name for f in fields(RectifyConfig) if f.name.startswith(("lambda_", "lr_"))
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if not 0 <= self.bn_pass <= 1:
            raise ValueError(f"bn_pass is {self.bn_pass}; it is a share of an epoch, 0 to 1")
        if self.norm_epochs < -1:
            raise ValueError(
                f"norm_epochs is {self.norm_epochs}; it must be 0 or more, or -1 for all epochs"
            )
        if self.lambda_epochs < 1:
            raise ValueError(f"lambda_epochs is {self.lambda_epochs}; it must be 1 or more")

    @property
    def compares_maps(self) -> bool:
        """Whether the student's feature maps are held to the teacher's."""
        return self.gan or self.lambda_match > 0

    def lambda_factor(self, epoch: int) -> float:
        """Factor of lambda1 and lambda2 in `epoch` (from 0): section 3.1's schedule."""
        return self.lambda_decay ** (epoch // self.lambda_epochs)


class Rectifier:
    """One network in training by Algorithm 1, with its optimizers.

    The keys of `stats` name the points, modules of student and teacher whose outputs are the maps T
    and R: the batch-norm after each binary convolution.  Its values are the teacher's statistics
    there (`rbsf.maps`).  Without a teacher and binary layers, what is left is plain training of
    `student`.  Raises ValueError where the configuration asks for maps that are not there.
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
        if (config.lambda_match or config.gan) and (teacher is None or not stats):
            missing = (
                "there is no teacher"
                if teacher is None
                else "the student has no binary layer to take them from"
            )
            raise ValueError(
                f"gan or lambda_match ask for feature maps, but {missing}; switch both off"
            )
        self.student, self.teacher, self.task, self.config = student, teacher, task, config
        self.points = tuple(stats)
        device = next(student.parameters()).device
        self.map_norms = nn.ModuleDict({_key(p): MapNorm(*stats[p]) for p in stats}).to(device)
        channels = {point: len(mean) for point, (mean, _) in stats.items() if config.gan}
        self.discriminators = Discriminators(channels).to(device)
        self.recorders: list[MapRecorder] = []
        if teacher is not None:
            teacher.eval().requires_grad_(config.train_teacher)
            if config.gan or config.lambda_match:
                self.recorders = [MapRecorder(net, stats) for net in (student, teacher)]
        if not config.lr_real:
            self._freeze_real_layers()
        self.optimizers = self._make_optimizers()

    def _freeze_real_layers(self) -> None:
        """Switch learning off for real convolutions and the batch-norms after them."""
        binary = tuple(f"{name}." for name in binary_layers(self.student))
        norms: list[nn.Module] = [
            module
            for name, module in self.student.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            and name not in self.points
            and not name.startswith(binary)
        ]
        for parameter in (
            *parameter_groups(self.student)["real"],
            *(p for norm in norms for p in norm.parameters()),
        ):
            parameter.requires_grad_(False)

    def _train_mode(self, epoch: int) -> None:
        self.student.train()
        if self.keeps_statistics(epoch):
            for norm in _norms(self.student):
                norm.eval()
        if self.teacher is not None:
            self.teacher.train(self.config.train_teacher)
        for norm in _norms(self.student):
            if (
                norm.weight is not None and not norm.weight.requires_grad
            ):  # it does not learn, and keeps its statistics
                norm.eval()

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config, groups = self.config, parameter_groups(self.student)
        groups["discriminator"] = list(self.discriminators.parameters())
        if config.train_teacher and self.teacher is not None:
            groups["teacher"] = list(self.teacher.parameters())
        if not config.rectify:
            for parameter in groups.pop("c"):
                parameter.requires_grad_(False)
        rates = {name: self._rate(name) for name in groups}
        # Algorithm 1's order: W, then C with W fixed; the batch-norms go with W.
        learning = {name: [p for p in params if p.requires_grad] for name, params in groups.items()}
        return {
            name: self._make_optimizer(name, params, rates[name])
            for name, params in learning.items()
            if params and rates[name]
        }

    def _make_optimizer(
        self, name: str, parameters: list[nn.Parameter], rate: float
    ) -> torch.optim.Optimizer:
        decay = self.config.weight_decay if name in ("binary", "real", "teacher") else 0.0
        options: dict[str, Any] = {"lr": rate, "weight_decay": decay}
        on_gpu = parameters[0].is_cuda
        if on_gpu:  # one launch for all parameters, and a rate that a recorded step reads anew (rbsf.train.capture)
            options |= {"lr": torch.tensor(rate, device=parameters[0].device), "fused": True}
        if self.config.optimizer == "sgd" and name != "discriminator":
            return torch.optim.SGD(parameters, momentum=0.9, **options)
        return torch.optim.Adam(parameters, capturable=on_gpu, **options)

    def _rate(self, name: str) -> float:
        """The configured learning rate of an optimizer; a teacher in training learns as real
        weights do.
        """
        return getattr(self.config, "lr_real" if name == "teacher" else f"lr_{name}")

    def set_rate_factor(self, factor: float) -> None:
        """Scale every learning rate to `factor` times its configured value."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                rate = factor * self._rate(name)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def keeps_statistics(self, epoch: int) -> bool:
        """Whether batch-norms have fixed statistics in `epoch` (from 0)."""
        return 0 <= self.config.norm_epochs <= epoch

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[Any]) -> None:
        """Give the batch-norms the mean statistics over `batches`: those of single batches do not
        suit tracking.
        """
        self._train_mode(-1)
        norms = [norm for norm in _norms(self.student) if norm.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all
        for batch in batches:
            self.task(self.student, None, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        average_buffers([self.student])

    def step(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """One batch of Algorithm 1: update the discriminators, then W (with batch-norms and real
        weights), then C.

        One backward pass serves W and C: Eq. 7 and 13 are partial derivatives of the same loss.
        Returns the losses to log, scalars.
        """
        self._train_mode(epoch)
        loss, logged, maps = self._forward(batch)
        fakes = self._pooled([(point, t) for point, t, _ in maps])
        if self.config.gan:
            logged["discriminator"] = self._update_discriminators(
                fakes, self._pooled([(p, r) for p, _, r in maps])
            )
        loss = loss + self._map_loss(maps, fakes, epoch, logged)
        if self.config.rectify and (terms := self._kernel_losses()):
            logged["kernel"] = torch.stack(terms).sum()
            loss = (
                loss
                + self.config.lambda_kernel * self.config.lambda_factor(epoch) * logged["kernel"]
            )
        self._update(loss, [name for name in self.optimizers if name != "discriminator"])
        return {"loss": loss.detach(), **{k: v.detach() for k, v in logged.items()}}

    def norm_step(self, batch: Any, epoch: int) -> dict[str, Tensor]:
        """One batch of the pass after each epoch: only batch-norms learn, W and C stay (Algorithm
        1, line 17).
        """
        self._train_mode(epoch)
        held = ("binary", "real", "c", "teacher")
        frozen = [p for name, o in self.optimizers.items() if name in held for p in _parameters(o)]
        with _held(frozen):
            loss, logged, maps = self._forward(batch)
            loss = loss + self._map_loss(
                maps, self._pooled([(p, t) for p, t, _ in maps]), epoch, logged
            )
            self._update(loss, ["norm"])
        return {"loss": loss.detach(), **{k: v.detach() for k, v in logged.items()}}

    def _forward(
        self, batch: Any
    ) -> tuple[Tensor, dict[str, Tensor], list[tuple[str, Tensor, Tensor]]]:
        """The task's loss, what it logs, and per point the maps (point, T, R)."""
        with ExitStack() as stack:
            recorded = [stack.enter_context(recorder.recording()) for recorder in self.recorders]
            loss, logged = self.task(self.student, self.teacher, batch)
        if not recorded:
            return loss, logged, []
        fake, real = recorded
        return loss, logged, [_pair(*maps) for maps in zip(fake, real, strict=True)]

    def _norm(self, point: str) -> MapNorm:
        return cast(MapNorm, self.map_norms[_key(point)])

    def _pooled(self, maps: Maps) -> Maps:
        """What the discriminators see of maps; normalising commutes with pooling and is cheaper
        after it.
        """
        return [(point, self._norm(point)(pool(x))) for point, x in maps] if self.config.gan else []

    def _update_discriminators(self, fakes: Maps, reals: Maps) -> Tensor:
        """Their loss, a mean over points, after a step down the sum: no discriminator learns slower
        beside others.
        """
        pairs = zip(
            self.discriminators.arrange(reals), self.discriminators.arrange(fakes), strict=True
        )
        logits = self.discriminators([torch.cat(pair, dim=1).detach() for pair in pairs])
        loss = self.discriminators.mean(
            [discriminator_loss(*both.chunk(2, dim=1)) for both in logits]
        )
        self._update(loss * len(fakes), ["discriminator"])
        return loss

    def _map_loss(
        self,
        maps: list[tuple[str, Tensor, Tensor]],
        fakes: Maps,
        epoch: int,
        logged: dict[str, Tensor],
    ) -> Tensor | float:
        """Weighted sum of the adversarial loss and the feature regression, each a mean over points
        and inputs.
        """
        if not maps:
            return 0.0
        total: Tensor | float = 0.0
        if self.config.gan:
            with _held(self.discriminators.parameters()):
                logits = self.discriminators(self.discriminators.arrange(fakes))
            logged["adversarial"] = self.discriminators.mean(
                [adversarial_loss(each) for each in logits]
            )
            total = (
                total
                + self.config.lambda_adversarial
                * self.config.lambda_factor(epoch)
                * logged["adversarial"]
            )
        if self.config.lambda_match:
            logged["match"] = torch.stack([self._norm(p).distance(t, r) for p, t, r in maps]).mean()
            total = total + self.config.lambda_match * logged["match"]
        return total

    def _update(self, loss: Tensor, names: list[str]) -> None:
        optimizers = [self.optimizers[name] for name in names if name in self.optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            average_gradients(_parameters(optimizer))
            optimizer.step()
        for layer in binary_layers(self.student).values():
            layer.constrain()

    def _kernel_losses(self) -> list[Tensor]:
        """What the method of each binary layer adds to the loss: RBConv's kernel loss, PCNN's
        projection loss.
        """
        losses = (layer.regularizer() for layer in binary_layers(self.student).values())
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
        return {
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; RuntimeError, as torch raises it, where it is another
        network's.
        """
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(_with_options_of(optimizer, state["optimizers"][name]))


def parameter_groups(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by the rate they learn at: latent `binary` filters, `real` weights, `norm`s,
    matrices `c`.
    """
    groups: dict[str, list[nn.Parameter]] = {"binary": [], "real": [], "norm": [], "c": []}
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d):
                groups["norm"].append(parameter)
            elif isinstance(module, BinaryConv2d) and name != "bias":
                groups["c" if name == "C" else "binary"].append(parameter)
            else:
                groups["real"].append(parameter)
    return groups


@contextmanager
def _held(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Context in which `parameters` get no gradient; afterwards they do again, also where it breaks
    off.
    """
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


def _pair(fake: tuple[str, Tensor], real: tuple[str, Tensor]) -> tuple[str, Tensor, Tensor]:
    """(point, T, R); ValueError where the maps are not of the same shape."""
    (point, t), (other, r) = fake, real
    if point != other or t.shape != r.shape:
        found = f"the student's is {tuple(t.shape)}, the teacher's {tuple(r.shape)}"
        raise ValueError(
            f"feature maps at {point!r} do not match: {found}; give a teacher of the student's own stages"
        )
    return point, t, r


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _with_options_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The `state` of an optimizer with the options of this one, which suit the device that it runs
    on.
    """
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    groups = [
        {**saved, **options} for saved, options in zip(state["param_groups"], own, strict=True)
    ]
    return {**state, "param_groups": groups}


def _key(point: str) -> str:
    return point.replace(".", "_")  # ModuleDict keys may hold no dot
