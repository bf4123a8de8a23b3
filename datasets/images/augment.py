"""Augment and normalise batches of images on their own device, without a loop over images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def batch_generator(
    seed: int, epoch: int, number: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Make a generator on `device` for the batch `number` of an epoch.

    Its draws depend on the three numbers and on the kind of device alone. With several ranks, no
    two of them may use the same number: give `batch * world + rank`.
    """
    state = np.random.SeedSequence((seed, epoch, number)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)  # 63 bits: not negative as int64


def augment(
    images: Tensor, generator: torch.Generator, crop_padding: int = 4, flip: bool = True
) -> Tensor:
    """Cut random crops out of zero-padded images and mirror half of them left to right.

    Each image draws for itself. `images` `[B, C, H, W]`, of any dtype, is not changed; the result
    has its shape, dtype and device, and is contiguous. `crop_padding`: pixels on each side.
    `generator`: on the same device as the images.
    """
    if crop_padding == 0 and not flip:
        return images
    count, channels, height, width = images.shape
    device = images.device
    columns = torch.arange(width, device=device).expand(count, width)
    rows = torch.arange(height, device=device).expand(count, height)
    if flip:
        mirror = torch.rand((count, 1), generator=generator, device=device) < 0.5
        columns = torch.where(mirror, width - 1 - columns, columns)
    if crop_padding:
        offsets = 2 * crop_padding + 1
        shifts = torch.randint(offsets, (2, count, 1), generator=generator, device=device)
        rows = rows + shifts[0]
        columns = columns + shifts[1]
        images = functional.pad(images, (crop_padding,) * 4)
    row_starts = rows[:, :, None] * images.shape[-1]
    pixels = row_starts + columns[:, None, :]  # [B, H, W], numbers of pixels in the padded image
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)  # [B, C, H * W]
    return images.flatten(2).gather(2, pixels).view(count, channels, height, width)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Compute `(images / 255 - mean) / std` by channel.

    `images` is `[B, C, H, W]` uint8; the result is float32, in the same memory order.
    """
    scale, shift = _constants(tuple(mean), tuple(std), images.device)
    return images * scale + shift


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand of `normalise`, `[1, C, 1, 1]` float32.

    They are cached, because the program would wait for every copy to a GPU.
    """
    means = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
    stds = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
    return (1 / (255 * stds)).float().to(device), (-means / stds).float().to(device)
