"""The classification task: cross-entropy on batches of labelled images, and top-1 and top-5
accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.methods.scheme_a import apprentice_loss
from rbsf.precision import widen


class ClassificationTask:
    """L_S of Eq. 1 for a batch `image` [N, C, H, W] float, normalised, and `label` [N] int64: the
    cross-entropy.

    With a teacher both networks see the batch.  `apprentice`: the teacher learns too, by
    Apprentice's loss of both.
    """

    def __init__(self, precision: torch.dtype = torch.float32, apprentice: bool = False) -> None:
        self.precision, self.apprentice = precision, apprentice

    def __call__(
        self, student: nn.Module, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and to log: the cross-entropy, and the error, the share of images that are not
        classed right.
        """
        labels = batch["label"]
        logits = self.classify(student, batch["image"])
        entropy = F.cross_entropy(logits, labels)
        logged = {"entropy": entropy, "error": (logits.detach().argmax(1) != labels).float().mean()}
        if teacher is None:
            return entropy, logged
        with torch.set_grad_enabled(self.apprentice):
            guide = self.classify(teacher, batch["image"])
        return (apprentice_loss(logits, guide, labels) if self.apprentice else entropy), logged

    def classify(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits [N, classes] of `net`, float32, or float64 of a network in float64."""
        with torch.autocast(
            images.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            return widen(net(images))


@torch.inference_mode()
def evaluate(
    net: nn.Module, batches: Iterable[dict[str, Tensor]], task: ClassificationTask
) -> dict[str, float]:
    """Mean cross-entropy, and top-1 and top-5 accuracy in percent, of `net` in eval mode, over all
    images of `batches`.

    `top5` counts a class among the five (or fewer, where there are fewer) with the largest logits;
    `tested` is the number of images.  ValueError where there is none.
    """
    net.eval()
    sums, images = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        logits, labels = task.classify(net, batch["image"]), batch["label"]
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        entropy = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([best[:, 0].sum(), best.sum(), entropy]).double().cpu()
        images += len(labels)
    if not images:
        raise ValueError("there is no image to evaluate on")
    top1, top5, entropy = (sums / images).tolist()
    return {"top1": 100 * top1, "top5": 100 * top5, "entropy": entropy, "tested": images}
