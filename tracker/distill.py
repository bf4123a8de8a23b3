"""The task of learning a teacher's answers for pairs of crops, without true boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.tracker.teachers.pair import Lesson, TeacherPair

FLOOR = 0.05  # least deviation of a feature, relative to the mean deviation


class DistillTask:
    """L_S of Eq. 1 for a student of `rbsf.models.rbsf2`: features, class map and boxes of `source`.

    A batch holds `exemplar` `[N, 3, 127, 127]` and `search` `[N, 3, 255, 255]`, uint8 RGB. Features
    are compared in units of their deviation, which `measure` computes once from some batches.
    """

    def __init__(
        self,
        source: TeacherPair,
        features: float = 1.0,
        target: float = 1.0,
        sides: float = 1.0,
    ) -> None:
        self.source, self.weights = source, (features, target, sides)
        self.mean = self.deviation = torch.zeros(1)

    def measure(self, batches: list[dict[str, Tensor]]) -> None:
        """Measure mean and deviation of each of the teacher's features."""
        lessons = [self.source(batch["exemplar"], batch["search"]).search for batch in batches]
        deviation, mean = torch.std_mean(torch.cat(lessons), (0, 2, 3), keepdim=True)
        floor = max(FLOOR * float(deviation.mean()), 1e-6)
        self.mean, self.deviation = mean, deviation.clamp(min=floor)

    def __call__(
        self, student: Any, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts to log."""
        lesson = self.source(batch["exemplar"], batch["search"])
        if teacher is not None:  # the float twin; its maps are compared at every block
            with torch.no_grad():
                answers(teacher, batch)
        template, search, logits, sides = answers(student, batch)
        near = cells_near(lesson.target)
        middle = middle_of(lesson.template)
        template_distance = self._distance(student.adapter(template), lesson.template, middle)
        search_distance = self._distance(student.adapter(search), lesson.search, near)
        parts = {
            "features": (template_distance + search_distance) / 2,
            "target": target_loss(logits, lesson.target),
            "sides": sides_loss(sides, lesson),
        }
        weighted = [
            weight * part for weight, part in zip(self.weights, parts.values(), strict=True)
        ]
        return torch.stack(weighted).sum(), parts

    def _distance(self, own: Tensor, other: Tensor, on: Tensor) -> Tensor:
        """Smooth L1 distance of the student's features to the teacher's, in teacher deviations.

        All cells `on` the target together weigh as much as all others.
        """
        wanted = (other - self.mean) / self.deviation
        each = F.smooth_l1_loss(own, wanted, reduction="none").mean(1)  # [N, H, W]
        return (each * balanced_weights(on)).sum((1, 2)).mean()


def answers(net: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outputs of a network like RB-SF 2 for a batch.

    They are features of exemplars, features of search regions, class logits and logs of sides.
    """
    crops = [
        batch[key].float().contiguous(memory_format=torch.channels_last)
        for key in ("exemplar", "search")
    ]
    template, search = (net.backbone(x) for x in crops)
    return (template, search, *net.answer(template, search))


class PresenceTask:
    """The task of the presence output of `rbsf.models.rbsf2.Head`: does a pair show one target?

    Everything else is frozen. A batch holds `exemplar` and `search` as in `DistillTask`, and
    `negative` `[N]` bool. Only the position that tracking would choose counts: the one with the
    largest class logit.
    """

    def __call__(
        self, student: Any, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The binary cross-entropy, and the share of pairs that are judged correctly."""
        logits = presence_logits(student, batch["exemplar"], batch["search"])
        there = ~batch["negative"]
        loss = F.binary_cross_entropy_with_logits(logits, there.to(logits.dtype))
        return loss, {"right": ((logits >= 0) == there).float().mean()}


def presence_logits(net: Any, exemplar: Tensor, search: Tensor) -> Tensor:
    """The presence logits `[N]` of pairs of crops, at the positions that tracking would choose."""
    template, region = (net.backbone(crops.float()) for crops in (exemplar, search))
    maps = net.head(region, template).flatten(2)  # [N, 6, positions]
    chosen = maps[:, 0].argmax(1, keepdim=True)
    return maps[:, 5].gather(1, chosen)[:, 0]


def cells_near(target: Tensor) -> Tensor:
    """Share of each cell on the target, `[N, H + 1, W + 1]`, from those of positions, `[N, H, W]`.

    A position lies between four cells.
    """
    return F.avg_pool2d(target[:, None], 2, 1, padding=1)[:, 0]


def middle_of(features: Tensor) -> Tensor:
    """Share `[N, H, W]` of each of a template's cells on the target.

    It is 1 in the middle, which is half as high and half as wide as the map, and 0 elsewhere.
    """
    n, _, height, width = features.shape
    top, left = height // 4, width // 4
    on = features.new_zeros(n, height, width)
    on[:, top : height - top, left : width - left] = 1
    return on


def balanced_weights(on: Tensor) -> Tensor:
    """Weights `[N, H, W]`, half of them on the target, half on the rest; their sum is 1.

    `on`: share of each place that is on the target, 0 to 1. If the shares add up to less than 1,
    the target weighs less and the sum is smaller.
    """
    rest = 1 - on
    target_weights = on / on.sum((1, 2), keepdim=True).clamp(min=1)
    rest_weights = rest / rest.sum((1, 2), keepdim=True)
    return (target_weights + rest_weights) / 2


def target_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Divergence of the student's class map from the teacher's, both `[N, rows, columns]`.

    All positions on the target weigh as much as all others together, if the teacher sees a target.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    divergence = cross_entropy - _entropy(target)
    return (divergence * balanced_weights(target)).sum((1, 2)).mean()


def _entropy(share: Tensor) -> Tensor:
    return F.binary_cross_entropy(share, share, reduction="none")


def sides_loss(sides: Tensor, lesson: Lesson) -> Tensor:
    """Mean absolute difference of logs of distances `[N, 4, rows, columns]`.

    Positions are weighted by the teacher's probability that the target is there.
    """
    weight = lesson.target / lesson.target.sum((1, 2), keepdim=True).clamp(min=1)
    difference = (sides - lesson.sides).abs().mean(1)  # [N, rows, columns]
    return (difference * weight).sum((1, 2)).mean()
