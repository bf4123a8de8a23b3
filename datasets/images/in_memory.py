"""Labelled images held whole in memory, on the CPU or a GPU: MNIST and CIFAR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rbsf.datasets.images.epochs import count_batches, epoch_order, shares


@dataclass(frozen=True)
class ArrayData:
    """N images with their labels, and what a network needs to know of them.

    ``images`` [N, C, H, W] uint8 (RGB, or one channel) and ``labels`` [N] int64 lie on one device;
    ``classes``: their names; ``mean``, ``std``: of every channel on a scale of 0 to 1, of the
    training set, as published; ``size``: side in pixels. ``crop_padding`` (pixels) and ``flip`` are
    what `rbsf.datasets.images.augment.augment` is to be given. ValueError for tensors that do not
    fit together and labels out of range.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or not len(self.mean) == len(self.std) == images.shape[1]
        ):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)} with {len(self.mean)} channel means; "
                "they must be uint8 [N, C, H, W] with C means"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or not len(labels):
            raise ValueError(
                f"labels are {labels.dtype} {list(labels.shape)}; they must be int64, one for each of "
                f"{len(images)} images, at least one"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"labels run from {low} to {high}; there are classes 0 to {len(self.classes) - 1}"
            )

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[-1]

    @property
    def share(self) -> float:
        """1: small images are seen whole."""
        return 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ArrayData:
        """The same on another device."""
        return dataclasses.replace(
            self, images=self.images.to(device), labels=self.labels.to(device)
        )

    def describe(self) -> str:
        """What it is, in a few words."""
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"{len(self)} images of {shape}, {len(self.classes)} classes"

    def batch_count(
        self, batch_size: int, world: int = 1, train: bool = True, limit: int | None = None
    ) -> int:
        """Batches of an epoch, of one of ``world`` ranks (evaluation: of rank 0)."""
        return count_batches(min(len(self), limit or len(self)), batch_size, world, train)

    def batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        train: bool = True,
        limit: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of one rank from its batch ``start``: ``image`` [B, C, H, W] uint8, ``label`` [B]
        int64.

        As stored, not augmented; on the device of the images. Order and ``limit`` (first images of
        a class-balanced subset): `epoch_order`, a pure function of ``(seed, epoch)``; what a rank
        gets: `shares`. Raises their ValueError at once.
        """
        order = torch.from_numpy(epoch_order(self.labels.cpu().numpy(), seed, epoch, train, limit))
        order = order.to(self.images.device)  # once an epoch, not once a batch
        parts = shares(len(order), batch_size, start, rank, world, train)
        return (
            {"image": self.images[order[part]], "label": self.labels[order[part]]} for part in parts
        )
