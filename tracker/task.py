"""The Siamese task on pairs: response maps, SiamFC's loss, and the distance to the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.binarize import approx_sign
from rbsf.tracker.geometry import STRIDE

# As in SiamFC; it scales sums of 256 x 6 x 6 products to the range of a logistic loss.
RESPONSE_SCALE = 1e-3
BIAS_LIMIT = 1024.0  # largest bias that `best_bias` tries
BIAS_STEPS = 24  # how often its interval is halved, to 2 * BIAS_LIMIT / 2**24 = 0.0001
RADIUS = 16  # pixels of the search crop: responses this near the target's centre are positive


def cross_correlate(exemplar: Tensor, search: Tensor) -> Tensor:
    """Slide each exemplar's features `[N, C, h, w]` over its search features `[N, C, H, W]`.

    Returns responses `[N, H - h + 1, W - w + 1]`.
    """
    n, c, h, w = search.shape
    response = F.conv2d(search.reshape(1, n * c, h, w), exemplar, groups=n)  # [1, N, H', W']
    return response.squeeze(0) * RESPONSE_SCALE


def labels_for(shift: Tensor, size: int) -> Tensor:
    """Labels `[N, size, size]` of response maps: 1 within RADIUS of the target, else 0.

    `shift` `[N, 2]` is the target's centre, x then y, in pixels from the middle of the search crop.
    """
    cells = (torch.arange(size, device=shift.device) - (size - 1) / 2) * STRIDE
    dx = cells[None, None, :] - shift[:, 0, None, None]
    dy = cells[None, :, None] - shift[:, 1, None, None]
    return (dx.square() + dy.square() <= RADIUS**2).float()


def balanced_logistic(response: Tensor, labels: Tensor) -> Tensor:
    """SiamFC's loss: half the mean logistic loss of positives plus half that of negatives.

    Both arguments are `[N, H, W]`. In a map without positives, because the target is absent, the
    negatives count fully.
    """
    weight = _balanced_weights(labels)
    loss = F.binary_cross_entropy_with_logits(response, labels, weight, reduction="sum")
    return loss / len(response)


def _balanced_weights(labels: Tensor) -> Tensor:
    """Weights of the cells of `labels` `[N, H, W]`; positives sum to 1/2, negatives to 1/2.

    In a map without positives the negatives sum to 1.
    """
    positives = labels.sum((1, 2), keepdim=True)
    negatives = labels[0].numel() - positives
    share = torch.where(positives > 0, 0.5, 1.0)  # total weight of the negatives
    weight = 0.5 / positives.clamp(min=1)
    other_weight = share / negatives.clamp(min=1)
    return torch.where(labels > 0, weight, other_weight)


@torch.no_grad()
def best_bias(response: Tensor, labels: Tensor) -> Tensor:
    """The scalar b that minimises `balanced_logistic` of `response` + b; both are `[N, H, W]`.

    Such a bias is SiamFC's last parameter. Tracking does not need it, since only differences of
    responses count, but without it training mostly pushes all responses down. Since b is a minimum,
    it needs no gradient of its own: the gradient of the loss in the responses is the same. If all
    labels are equal, b is one of many values that make the loss vanish.
    """
    low, high = response.new_full((), -BIAS_LIMIT), response.new_full((), BIAS_LIMIT)
    weight = _balanced_weights(labels)
    # The loss is convex in b, so the sign of its derivative shows which half has the minimum.
    for _ in range(BIAS_STEPS):
        middle = (low + high) / 2
        rising = (weight * (torch.sigmoid(response + middle) - labels)).sum() > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return (low + high) / 2


def hit_rate(response: Tensor, labels: Tensor) -> float:
    """The share of response maps with their highest cell labelled positive; both `[N, H, W]`."""
    highest = response.flatten(1).argmax(1, keepdim=True)
    return labels.flatten(1).gather(1, highest).mean().item()


def response_distance(response: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two batches of response maps `[N, H, W]`.

    Each map is normalised to mean 0 and deviation 1.
    """

    def normalise(maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        return (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)

    return F.mse_loss(normalise(response), normalise(target))


class SiameseTask:
    """L_S of Eq. 1 for a batch of pairs.

    It is SiamFC's loss plus `match` times the distance to the teacher's response. SiamFC's loss is
    computed with the bias that is best for the batch (`best_bias`).

    A batch holds `exemplar` `[N, 3, 127, 127]` and `search` `[N, 3, 255, 255]`, uint8 RGB, `shift`
    `[N, 2]` float (see `labels_for`) and `negative` `[N]` bool: the search crop shows another
    target. With `bits` the signs of the student's features are correlated; their gradient is the
    same as for the signs in its layers (Eq. 8).
    """

    def __init__(
        self, match: float = 1.0, precision: torch.dtype = torch.float32, bits: bool = False
    ) -> None:
        self.match, self.precision, self.bits = match, precision, bits

    def __call__(
        self, student: nn.Module, teacher: nn.Module | None, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts to log."""
        response = self.respond(student, batch, self.bits)
        labels = labels_for(batch["shift"], response.shape[-1]) * ~batch["negative"][:, None, None]
        logistic = balanced_logistic(response + best_bias(response, labels), labels)
        if teacher is None:
            return logistic, {"logistic": logistic}
        with torch.no_grad():
            target = self.respond(teacher, batch)
        distance = response_distance(response, target)
        return logistic + self.match * distance, {"logistic": logistic, "response": distance}

    def respond(self, net: nn.Module, batch: dict[str, Any], bits: bool = False) -> Tensor:
        """Response maps `[N, 17, 17]` float32 of `net`; with `bits`, of its features' signs."""
        device = batch["search"].device
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            exemplar, search = (
                net(batch[key].float().contiguous(memory_format=torch.channels_last))
                for key in ("exemplar", "search")
            )
        exemplar, search = exemplar.float(), search.float()
        if bits:
            exemplar, search = approx_sign(exemplar), approx_sign(search)
        return cross_correlate(exemplar, search)
