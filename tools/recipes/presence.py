"""The presence output of RB-SF 2: add it to a network, and measure how it tells targets apart."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rbsf.datasets.video.sequences import Sequence
from rbsf.models import build
from rbsf.tracker.distill import presence_logits
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, target_crop
from rbsf.weights import load_weights

LOOKS = 5  # search regions of each sequence
PRESENCE = "head.presence."  # names of the presence output's tensors begin with this


def options_of(net: nn.Module) -> dict[str, Any]:
    """The options that `build` was given for a network."""
    return cast(dict[str, Any], net.model_options)


def with_presence(path: str) -> nn.Module:
    """The network of `path` with a new presence output; nothing else learns.

    Raises ValueError for weights of another network than RB-SF 2.
    """
    trained, model, _ = load_weights(path)
    if model != "rbsf2":
        raise ValueError(f"--presence-of {path}: holds {model}; give weights of RB-SF 2")
    net = build("rbsf2", **{**options_of(trained), "presence": True})
    trained_state = trained.state_dict().items()
    kept = {name: value for name, value in trained_state if not name.startswith(PRESENCE)}
    net.load_state_dict(kept, strict=False)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(PRESENCE))
    return net


@torch.inference_mode()
def presence_auc(net: nn.Module, sequences: list[Sequence]) -> float:
    """How often presence is higher around a template's own target than around another's.

    This is a share of the pairs of search regions, one around the template's own target and one
    around that of another sequence. The templates come from the first frames. The regions come from
    LOOKS frames of each sequence, around their true boxes.
    """
    net.eval()
    device = next(net.parameters()).device

    def as_batch(crops: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2)  # [N, 3, H, W]

    progress = tqdm(sequences, desc="crops", unit="sequence", leave=False)
    crops = [_looks_at(sequence) for sequence in progress]
    regions = as_batch([region for _, around in crops for region in around])
    owner = torch.arange(len(regions), device=device) // LOOKS  # the sequence of each region
    own, other = [], []
    for number, (exemplar, _) in enumerate(crops):
        found = presence_logits(net, as_batch([exemplar] * len(regions)), regions)
        own.append(found[owner == number])
        other.append(found[owner != number])
    return float((torch.cat(own)[:, None] > torch.cat(other)).double().mean())


def _looks_at(sequence: Sequence) -> tuple[np.ndarray, list[np.ndarray]]:
    """The exemplar of the first frame that has a box, and search regions of LOOKS others."""
    frames = sequence.annotated()
    chosen = np.linspace(0, len(frames) - 1, LOOKS + 1).round().astype(int)
    first, *others = frames[chosen]
    regions = [target_crop(sequence.image(n), sequence.boxes[n], SEARCH_SIZE) for n in others]
    return target_crop(sequence.image(first), sequence.boxes[first], EXEMPLAR_SIZE), regions
