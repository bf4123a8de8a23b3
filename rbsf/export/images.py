"""The images that a packed network takes, and how a network in PyTorch takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rbsf.models import EXEMPLAR_SIZE, SEARCH_SIZE


@dataclass(frozen=True)
class Images:
    """The images that a packed network takes, uint8 `[N, *shape]`.

    The network in PyTorch takes (image - mean) / std; mean and std are in units of pixel values.
    """

    shape: tuple[int, int, int]  # (H, W, C)
    mean: Sequence[float] = (0.0,)  # one number per channel, or one for all
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        """Raise ValueError for a mean or a deviation that does not suit the channels."""
        for name, least in (("mean", -np.inf), ("std", 0.0)):
            values = np.atleast_1d(np.asarray(getattr(self, name), np.float64))
            if values.shape not in ((1,), self.shape[2:]):
                count = f"one number, or one for each of {self.shape[2]} channels"
                raise ValueError(f"{name} is {getattr(self, name)}; give {count}")
            if not np.isfinite(values).all() or values.min() <= least:
                above = " above 0" if name == "std" else ""
                raise ValueError(f"{name} is {getattr(self, name)}; give finite numbers{above}")

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """The input of the network in PyTorch, float32 `[N, C, H, W]`, for uint8 `[N, H, W, C]`."""
        channels = pixels.shape[-1:]
        mean = np.broadcast_to(np.asarray(self.mean, np.float32), channels)
        std = np.broadcast_to(np.asarray(self.std, np.float32), channels)
        return torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()

    @torch.inference_mode()
    def logits(self, net: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
        """What `net` computes in its own dtype for uint8 `[N, H, W, C]`: float32 `[N, ...]`."""
        dtype = next(net.parameters()).dtype
        return net(self.normalised(pixels).to(dtype)).float().numpy()


CROPS = Images((EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3))  # a tracker's input; it may also be larger
REGIONS = Images((SEARCH_SIZE, SEARCH_SIZE, 3))  # the input of a tracker with a head


def made_up_images(shape: Sequence[int], count: int = 2) -> np.ndarray:
    """Images uint8 `[count, H, W, C]` for comparisons; every call returns the same ones.

    `shape` is (H, W, C). The images consist of soft shapes and some noise.
    """
    rng = np.random.default_rng(0)
    height, width, channels = shape
    rows, columns = -(-height // 8), -(-width // 8)
    coarse = rng.integers(0, 256, (count, rows, columns, channels))
    soft = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(soft + rng.normal(0, 12, soft.shape), 0, 255).astype(np.uint8)
