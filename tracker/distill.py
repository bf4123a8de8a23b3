"""The task of learning from a teacher what it says of pairs of crops; no label is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.tracker.teachers.pair import Lesson, OnnxPair

FLOOR = 0.05  # of a feature's deviation: one that never changes teaches nothing


class DistillTask:
    """L_S of Eq. 1 for a student of `rbsf.models.rbsf2`: features, class map and boxes of `source`.

    A batch holds `exemplar` [N, 3, 127, 127] and `search` [N, 3, 255, 255], uint8 RGB.  Features
    are compared in units of their deviation, which `measure` takes from some batches and which
    stays then.
    """

    def __init__(
        self, source: OnnxPair, features: float = 1.0, target: float = 1.0, sides: float = 1.0
    ) -> None:
        self.source, self.weights = source, (features, target, sides)
        self.mean = self.deviation = torch.zeros(1)

    def measure(self, batches: list[dict[str, Tensor]]) -> None:
        """Take mean and deviation of each of the teacher's features."""
        lessons = [self.source(batch["exemplar"], batch["search"]).search for batch in batches]
        deviation, mean = torch.std_mean(torch.cat(lessons), (0, 2, 3), keepdim=True)
        self.mean, self.deviation = (
            mean,
            deviation.clamp(min=max(FLOOR * float(deviation.mean()), 1e-6)),
        )

    def __call__(
        self, student: Any, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts to log."""
        lesson = self.source(batch["exemplar"], batch["search"])
        if teacher is not None:  # the float twin, whose maps are compared at every block
            with torch.no_grad():
                answers(teacher, batch)
        template, search, logits, sides = answers(student, batch)
        near = cells_near(lesson.target)
        template_distance = self._distance(
            student.adapter(template), lesson.template, middle_of(lesson.template)
        )
        parts = {
            "features": (
                template_distance + self._distance(student.adapter(search), lesson.search, near)
            )
            / 2,
            "target": target_loss(logits, lesson.target),
            "sides": sides_loss(sides, lesson),
        }
        weighted = [
            weight * part for weight, part in zip(self.weights, parts.values(), strict=True)
        ]
        return torch.stack(weighted).sum(), parts

    def _distance(self, own: Tensor, other: Tensor, on: Tensor) -> Tensor:
        """Smooth L1 distance of the student's features to the teacher's, in units of its deviation:
        the mean of that over the cells `on` the target and that over the others.
        """
        each = F.smooth_l1_loss(own, (other - self.mean) / self.deviation, reduction="none").mean(1)
        return (each * both_alike(on)).sum((1, 2)).mean()


def answers(net: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of exemplars and of search regions, class logits and logs of sides, of a network as
    RB-SF 2.
    """
    crops = [
        batch[key].float().contiguous(memory_format=torch.channels_last)
        for key in ("exemplar", "search")
    ]
    template, search = (net.backbone(x) for x in crops)
    return (template, search, *net.answer(template, search))


class PresenceTask:
    """What `rbsf.models.rbsf2.Head` learns for its presence output, all else frozen: whether a pair
    shows one target.

    A batch holds `exemplar` and `search` as `DistillTask` takes them, and `negative` [N] bool.
    What counts is the position that tracking would choose, that of the largest class logit.
    """

    def __call__(
        self, student: Any, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The binary cross-entropy, and the share of pairs that are told rightly."""
        logits, there = (
            presence_logits(student, batch["exemplar"], batch["search"]),
            ~batch["negative"],
        )
        loss = F.binary_cross_entropy_with_logits(logits, there.to(logits.dtype))
        return loss, {"right": ((logits >= 0) == there).float().mean()}


def presence_logits(net: Any, exemplar: Tensor, search: Tensor) -> Tensor:
    """The presence logits [N] of pairs of crops, at the positions that tracking would choose."""
    template, region = (net.backbone(crops.float()) for crops in (exemplar, search))
    maps = net.head(region, template).flatten(2)  # [N, 6, positions]
    chosen = maps[:, 0].argmax(1, keepdim=True)
    return maps[:, 5].gather(1, chosen)[:, 0]


def cells_near(target: Tensor) -> Tensor:
    """Shares [N, H + 1, W + 1] of cells on the target, from those [N, H, W] of positions, each
    between four cells.
    """
    return F.avg_pool2d(target[:, None], 2, 1, padding=1)[:, 0]


def middle_of(features: Tensor) -> Tensor:
    """[N, H, W], 1 in the middle, half as high and wide as the map, where a template has its
    target.
    """
    n, _, height, width = features.shape
    on = features.new_zeros(n, height, width)
    on[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return on


def both_alike(on: Tensor) -> Tensor:
    """Weights [N, H, W] whose sum is 1, of what is `on` the target, by 0 to 1, and of the rest:
    both weigh the same.

    Where the target is on less than one place in sum, it weighs less.
    """
    rest = 1 - on
    shares = on / on.sum((1, 2), keepdim=True).clamp(min=1), rest / rest.sum((1, 2), keepdim=True)
    return (shares[0] + shares[1]) / 2


def target_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Divergence of the student's class map from the teacher's, both [N, rows, columns].

    Positions on the target weigh as much as all others together, where the teacher sees one.
    """
    divergence = F.binary_cross_entropy_with_logits(logits, target, reduction="none") - _entropy(
        target
    )
    return (divergence * both_alike(target)).sum((1, 2)).mean()


def _entropy(share: Tensor) -> Tensor:
    return F.binary_cross_entropy(share, share, reduction="none")


def sides_loss(sides: Tensor, lesson: Lesson) -> Tensor:
    """Mean absolute difference of logs of distances [N, 4, rows, columns], where the teacher sees
    the target.
    """
    weight = lesson.target / lesson.target.sum((1, 2), keepdim=True).clamp(min=1)
    return ((sides - lesson.sides).abs().mean(1) * weight).sum((1, 2)).mean()
