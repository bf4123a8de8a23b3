"""Augmentation and normalisation of batches, on whatever device they lie; no loop over images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def batch_generator(
    seed: int, epoch: int, number: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on `device` whose draws depend on the three numbers alone (and on the kind of
    device).

    `number`: of the batch in its epoch; with several ranks, one that no other rank has: `batch *
    world + rank`.
    """
    state = np.random.SeedSequence((seed, epoch, number)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)  # int64 from 0


def augment(
    images: Tensor, generator: torch.Generator, crop_padding: int = 4, flip: bool = True
) -> Tensor:
    """Random crops of zero-padded images, half of them mirrored left to right; each image draws for
    itself.

    `images` [B, C, H, W], any dtype, stays as it is; the result has its shape, dtype and device,
    contiguous. `crop_padding`: pixels on each side. `generator`: on the same device.
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
        shifts = torch.randint(
            2 * crop_padding + 1, (2, count, 1), generator=generator, device=device
        )
        rows, columns = rows + shifts[0], columns + shifts[1]
        images = functional.pad(images, (crop_padding,) * 4)
    pixels = (
        rows[:, :, None] * images.shape[-1] + columns[:, None, :]
    )  # [B, H, W] in the padded image
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, pixels).view(count, channels, height, width)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """`(images / 255 - mean) / std` by channel: [B, C, H, W] uint8 to float32, in the same memory
    order.
    """
    scale, shift = _constants(tuple(mean), tuple(std), images.device)
    return images * scale + shift


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand of `normalise`, [1, C, 1, 1] float32; kept, because copying them to a GPU
    waits for it.
    """
    means, stds = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std)
    )
    return (1 / (255 * stds)).float().to(device), (-means / stds).float().to(device)
