"""The presence output of RB-SF 2: a network that gets one, and how well it tells targets from one
another.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.results import annotated
from rbsf.models import build
from rbsf.tracker.distill import presence_logits
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, target_crop
from rbsf.weights import load_weights


def options_of(net: nn.Module) -> dict[str, Any]:
    """What `build` was given for a network."""
    return cast(dict[str, Any], net.model_options)


def with_presence(path: str) -> nn.Module:
    """The network of `path` with a new presence output, which alone learns; ValueError for another
    network.
    """
    trained, model, _ = load_weights(path)
    if model != "rbsf2":
        raise ValueError(f"--presence-of {path}: holds {model}; give weights of RB-SF 2")
    net = build("rbsf2", **{**options_of(trained), "presence": True})
    state = {
        name: value
        for name, value in trained.state_dict().items()
        if not name.startswith("head.presence.")
    }
    net.load_state_dict(state, strict=False)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith("head.presence."))
    return net


@torch.inference_mode()
def presence_auc(net: nn.Module, sequences: list[Sequence], looks: int = 5) -> float:
    """How often presence is higher in a search region around the target than in one around another
    sequence's.

    The templates are of the first frames, the regions of `looks` frames of each sequence, around
    their true boxes.
    """
    net.eval()
    device = next(net.parameters()).device

    def as_batch(crops: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2)

    crops = [
        _looks_at(sequence, looks)
        for sequence in tqdm(sequences, desc="crops", unit="sequence", leave=False)
    ]
    regions = as_batch([region for _, own in crops for region in own])
    owner = torch.arange(len(regions), device=device) // looks
    own, other = [], []
    for number, (exemplar, _) in enumerate(crops):
        found = presence_logits(net, as_batch([exemplar] * len(regions)), regions)
        own.append(found[owner == number])
        other.append(found[owner != number])
    return float((torch.cat(own)[:, None] > torch.cat(other)).double().mean())


def _looks_at(sequence: Sequence, looks: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The exemplar of the first frame that has a box, and search regions of `looks` others."""
    first, *others = annotated(sequence)[
        np.linspace(0, len(annotated(sequence)) - 1, looks + 1).round().astype(int)
    ]
    regions = [target_crop(sequence.image(n), sequence.boxes[n], SEARCH_SIZE) for n in others]
    return target_crop(sequence.image(first), sequence.boxes[first], EXEMPLAR_SIZE), regions
