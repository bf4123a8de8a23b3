"""Validation of a tracker after each epoch: on pairs of held-out sequences, and by tracking."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.pair_dataset import PairDataset, make_loader
from rbsf.datasets.pairs.sampling import Row
from rbsf.datasets.pairs.training_data import find_held_out
from rbsf.datasets.video.sequences import Sequence
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.tools.recipes.yardsticks import Figures, digest_of, kept, still_and_shipped, track_heads
from rbsf.tracker.backbones import torch_backbone
from rbsf.tracker.siamfc import SiamFC
from rbsf.tracker.task import SiameseTask, balanced_logistic, best_bias, hit_rate, labels_for
from rbsf.train.device import dtype_of, name_of
from rbsf.train.trainer import Validate

PAIRS = 200  # held-out pairs for validation
BATCH = 8  # pairs at a time
RESPONSE = 17  # cells of a response map's side


def validation(
    stores: list[CropStore], sequences: list[Sequence], config: SiameseConfig, device: torch.device
) -> Validate | None:
    """Make the function that measures a network on `sequences`; None if there are none.

    It returns `val_auc` and `val_precision` of tracking their first frames. If `stores` hold their
    crops, it also returns `val_logistic` and `val_hit` of 200 pairs of them, always the same. These
    say less about tracking, but vary less by chance.
    """
    if not sequences:
        return None
    parts = [_tracked(sequences, config, device)]
    if rows := find_held_out(stores, sequences):
        parts.append(_paired(stores, rows, config, device))

    def validate(net: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        for part in parts:
            figures |= part(net)
        return figures

    return validate


def _paired(
    stores: list[CropStore], rows: list[Row], config: SiameseConfig, device: torch.device
) -> Validate:
    """SiamFC's loss of pairs of the stores' sequences `rows`, and the share with a right peak.

    A peak is right if it lies on the target, see `hit_rate`.
    """
    dataset = PairDataset(stores, PAIRS, seed=0, only=rows)
    precision = dtype_of(config.machine.precision, device)
    task = SiameseTask(precision=precision, bits=config.correlation_bits)

    @torch.inference_mode()
    def validate(net: nn.Module) -> dict[str, float]:
        net.eval()
        responses, shifts = [], []
        for batch in make_loader(dataset, BATCH):
            placed = {key: value.to(device) for key, value in batch.items()}
            responses.append(task.respond(net, placed, task.bits))
            shifts.append(placed["shift"])
        response = torch.cat(responses)
        labels = labels_for(torch.cat(shifts), response.shape[-1])
        loss = balanced_logistic(response + best_bias(response, labels), labels)
        return {"val_logistic": loss.item(), "val_hit": hit_rate(response, labels)}

    return validate


def _tracked(sequences: list[Sequence], config: SiameseConfig, device: torch.device) -> Validate:
    """AUC and precision of tracking the first frames of `sequences`."""
    heads = [sequence.head(config.val_frames) for sequence in sequences]
    precision = name_of(dtype_of(config.machine.precision, device))

    def validate(net: nn.Module) -> dict[str, float]:
        backbone = torch_backbone(net, str(device), precision)
        return track_heads(SiamFC(backbone, config.constants), heads)

    return validate


def yardsticks(
    stores: list[CropStore], sequences: list[Sequence], config: SiameseConfig
) -> dict[str, Figures]:
    """Figures of a box that never moves and of the shipped RB-SF on the same `sequences`.

    They are measured once, and kept in the folder of the training.
    """
    if not sequences:
        return {}
    heads = [sequence.head(config.val_frames) for sequence in sequences]
    rows = find_held_out(stores, sequences)

    def measure() -> dict[str, Figures]:
        figures = still_and_shipped(heads, config.machine.threads)
        if rows:
            next(iter(figures.values())).update(_of_the_middle(stores, rows))
        return figures

    cut = [stores[store].path for store, _ in rows]
    return kept(Path(config.out), f"{digest_of(heads, cut)} {rows}", measure)


def _of_the_middle(stores: list[CropStore], rows: list[Row]) -> Figures:
    """Figures of always placing the target in the middle, for the same pairs.

    All responses elsewhere are alike, so the loss is ln 2.
    """
    dataset = PairDataset(stores, PAIRS, seed=0, only=rows)
    shifts = torch.stack([dataset[number]["shift"] for number in range(PAIRS)])
    hit = labels_for(shifts, RESPONSE)[:, RESPONSE // 2, RESPONSE // 2].mean().item()
    return {"val_logistic": math.log(2), "val_hit": hit}
