"""Networks as backbones of `rbsf.tracker.siamfc`: uint8 RGB crops in, float32 features out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rbsf.tracker import PRECISIONS
from rbsf.tracker.geometry import EXEMPLAR_SIZE
from rbsf.tracker.siamfc import Backbone

if TYPE_CHECKING:  # torch takes a second to import, and packed networks do not need it
    from torch import nn


def torch_backbone(net: nn.Module, device: str = "auto", precision: str = "float32") -> Backbone:
    """Wrap a network that takes RGB `[N, 3, S, S]`, float 0 to 255, and returns `[N, C, H, W]`.

    The network is put into eval mode on `device`, a torch device name or "auto" (a GPU if there is
    one). `precision` "bfloat16" runs convolutions in 16 bits, about 4 times faster on CPUs with
    AMX. Raises ValueError for an unknown precision or a missing device.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: give one of {', '.join(PRECISIONS)}")
    from rbsf.train.device import choose_device

    place = choose_device(device)
    net = net.eval().to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def features(crops: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(crops).to(place).permute(0, 3, 1, 2)  # [N, 3, S, S], channels last
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            maps = net(batch.float())  # [N, C, H, W]
            return maps.float().contiguous().cpu().numpy()

    return features


def try_backbone(backbone: Backbone) -> None:
    """Raise RuntimeError or ValueError if a network does not turn a crop into features."""
    crop = np.zeros((1, EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3), np.uint8)
    shape = backbone(crop).shape
    if len(shape) != 4 or min(shape[2:]) < 2:
        raise ValueError(f"it turns a {EXEMPLAR_SIZE}-pixel crop into {shape}")
