"""Networks as the backbones that ``tracker.siamfc`` takes: uint8 RGB crops in, float32 features out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tracker.geometry import EXEMPLAR_SIZE
from tracker.siamfc import Backbone

if TYPE_CHECKING:  # torch takes a second to import and a packed network needs none
    import torch
    from torch import nn

PRECISIONS = ("float32", "bfloat16")


def torch_backbone(net: nn.Module, device: str = "auto", precision: str = "float32") -> Backbone:
    """Wrap a network of float RGB 0..255 (N, 3, S, S) -> (N, C, H, W); it is put into eval mode on
    ``device``.

    ``device`` is a torch device name or "auto" (a GPU if there is one); ``precision`` "bfloat16" runs
    convolutions in 16 bits, about 4 times faster on CPUs with AMX. Raises ValueError for an unknown precision
    or a missing device.
    """
    import torch

    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: give one of {', '.join(PRECISIONS)}")
    place = choose_device(device)
    net = net.eval().to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def features(crops: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(crops).to(place).permute(0, 3, 1, 2).float()  # (N, 3, S, S), channels last
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return net(batch).float().contiguous().cpu().numpy()  # (N, C, H, W)

    return features


def load_backbone(path: str | Path, device: str = "auto", precision: str = "float32") -> Backbone:
    """Load a weights file (``rbsf.weights.load_weights``) as a backbone, and try it on an empty crop.

    Raises FileNotFoundError for a missing file; ValueError for a broken one and for another network's
    weights.
    """
    from rbsf.weights import load_weights

    backbone = torch_backbone(load_weights(path)[0], device, precision)
    try:
        shape = backbone(np.zeros((1, EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3), np.uint8)).shape
    except RuntimeError as error:  # torch's own words name layers, not the file
        raise ValueError(f"{path} holds no tracker backbone: {str(error).splitlines()[0]}") from error
    if len(shape) != 4 or min(shape[2:]) < 2:
        raise ValueError(f"{path} holds no tracker backbone: it turns a {EXEMPLAR_SIZE}-pixel crop into {shape}")
    return backbone


def set_threads(count: int | None) -> None:
    """Limit PyTorch and OpenCV to ``count`` CPU threads in this process; None leaves them as they are."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)


def choose_device(name: str) -> torch.device:
    """PyTorch device called `name`, for "auto" a GPU if there is one; ValueError where it is not to be had."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # torch's two ways to say that a device is not there
        raise ValueError(f"device {name!r} is not available here: {str(error).splitlines()[0]}; try cpu") from error
