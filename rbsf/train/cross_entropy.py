"""The classification task: cross-entropy on labelled images, and top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.methods.scheme_a import apprentice_loss
from rbsf.precision import widen

TEMPERATURE = 4.0  # of the class probabilities that a student learns from its teacher


class ClassificationTask:
    """The task in which L_S of Eq. 1 is the cross-entropy.

    A batch has `image` `[N, C, H, W]`, float, normalised, and `label` `[N]`, int64. With a teacher
    both networks see the batch. With `apprentice` the teacher learns too; both then use
    Apprentice's loss. `distill` weighs the divergence from the teacher's class probabilities, see
    `soft_divergence`.
    """

    def __init__(
        self,
        precision: torch.dtype = torch.float32,
        apprentice: bool = False,
        distill: float = 0.0,
    ) -> None:
        self.precision, self.apprentice, self.distill = precision, apprentice, distill
        self.teacher_for_maps = not (apprentice or distill)

    def __call__(
        self, student: nn.Module, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and values to log: cross-entropy and share of wrongly classified images."""
        labels = batch["label"]
        logits = self.classify(student, batch["image"])
        entropy = F.cross_entropy(logits, labels)
        wrong = logits.detach().argmax(1) != labels
        logged = {"entropy": entropy, "error": wrong.float().mean()}
        if teacher is None:
            return entropy, logged
        with torch.set_grad_enabled(self.apprentice):
            guide = self.classify(teacher, batch["image"])
        if self.apprentice:
            return apprentice_loss(logits, guide, labels), logged
        if not self.distill:
            return entropy, logged
        logged["divergence"] = soft_divergence(logits, guide)
        return entropy + self.distill * logged["divergence"], logged

    def classify(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits `[N, classes]` of `net`, float32, or float64 if the network is float64."""
        reduced = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision, enabled=reduced):
            return widen(net(images))


def soft_divergence(logits: Tensor, guide: Tensor) -> Tensor:
    """Divergence of the student's softened class probabilities from the teacher's, a scalar.

    Both logits `[N, classes]` are divided by TEMPERATURE, and the mean over N is multiplied by its
    square (Hinton et al., arXiv:1503.02531, section 2).
    """
    own, other = (F.log_softmax(values / TEMPERATURE, 1) for values in (logits, guide))
    return TEMPERATURE**2 * F.kl_div(own, other, reduction="batchmean", log_target=True)


@torch.inference_mode()
def evaluate(
    net: nn.Module, batches: Iterable[dict[str, Tensor]], task: ClassificationTask
) -> dict[str, Any]:
    """Mean cross-entropy, and top-1 and top-5 accuracy in percent, over all images of `batches`.

    `net` runs in eval mode. For `top5` the class must be among the five with the largest logits, or
    among all classes if there are fewer. `tested` is the number of images N, and `right` `[N]` bool
    says which of them are classed correctly.

    Raises ValueError if there is no image.
    """
    net.eval()
    sums, right = torch.zeros(3, dtype=torch.float64), []
    for batch in batches:
        logits, labels = task.classify(net, batch["image"]), batch["label"]
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        entropy = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([best[:, 0].sum(), best.sum(), entropy]).double().cpu()
        right.append(best[:, 0].cpu().numpy())
    images = sum(map(len, right))
    if not images:
        raise ValueError("there is no image to evaluate on")
    top1, top5, entropy = (sums / images).tolist()
    scores = {"top1": 100 * top1, "top5": 100 * top5, "entropy": entropy, "tested": images}
    return {**scores, "right": np.concatenate(right)}
