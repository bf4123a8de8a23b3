"""Labelled images held whole in memory, on the CPU or a GPU: MNIST and CIFAR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rbsf.datasets.images.base import Labelled


@dataclass(frozen=True)
class ArrayData(Labelled):
    """N images with their labels, class names and statistics.

    `images` `[N, C, H, W]` uint8 (RGB, or one channel) and `labels` `[N]` int64 lie on one device.
    `mean` and `std` are those of the training set, as published. Batches have the images as they
    are stored, not augmented, on the device of the images. Raises ValueError for tensors that do
    not fit together and for labels out of range.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        self._check_images()
        self._check_labels()

    def _check_images(self) -> None:
        images, means = self.images, len(self.mean)
        is_bytes = images.dtype == torch.uint8 and images.ndim == 4
        if not is_bytes or not means == len(self.std) == images.shape[1]:
            found = f"images are {images.dtype} {list(images.shape)} with {means} channel means"
            raise ValueError(f"{found}; they must be uint8 [N, C, H, W] with C means")

    def _check_labels(self) -> None:
        labels, count = self.labels, len(self.images)
        if labels.dtype != torch.int64 or labels.shape != (count,) or count == 0:
            raise ValueError(
                f"labels are {labels.dtype} {list(labels.shape)}; "
                f"they must be int64, one for each of {count} images, at least one"
            )
        low, high, last = int(labels.min()), int(labels.max()), len(self.classes) - 1
        if low < 0 or high > last:
            raise ValueError(f"labels run from {low} to {high}; there are classes 0 to {last}")

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[-1]

    @property
    def share(self) -> float:
        """1, because small images are seen whole."""
        return 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ArrayData:
        """Copy the images to another device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return dataclasses.replace(self, images=images, labels=labels)

    def describe(self) -> str:
        """Describe the set in a few words."""
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"{len(self)} images of {shape}, {len(self.classes)} classes"

    def _label_array(self) -> np.ndarray:
        return self.labels.cpu().numpy()

    def _read_batches(
        self, order: np.ndarray, parts: Iterator[slice], key: tuple[int, int], train: bool
    ) -> Iterator[dict[str, Tensor]]:
        indices = torch.from_numpy(order).to(self.images.device)  # copied once an epoch
        for part in parts:
            chosen = indices[part]
            yield {"image": self.images[chosen], "label": self.labels[chosen]}
