"""What all sets of labelled images have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from rbsf.datasets.batches import count_batches, shares
from rbsf.datasets.images.epochs import check_limit, epoch_order


class Labelled(ABC):
    """Images with class labels, for training and evaluation.

    `classes`: names of the classes; label i is `classes[i]`. `mean` and `std`: one of each for
    every channel, on a scale of 0 to 1. `crop_padding` (pixels) and `flip`: arguments of
    `rbsf.datasets.images.augment.augment` for training batches. A `crop_padding` of 0 means that
    training crops are random already.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of a batch's images in pixels."""

    @property
    @abstractmethod
    def share(self) -> float:
        """Side of the middle square that evaluation sees, as a share of an image's short side."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def describe(self) -> str:
        """Describe the set in a few words."""

    def batch_count(self, batch_size: int, limit: int | None = None) -> int:
        """Number of batches of an evaluation by one process.

        Raises ValueError for numbers out of range, as `batches` does.
        """
        images = len(self)
        if limit is not None:
            images = min(check_limit(limit), images)
        return count_batches(images, batch_size, train=False)

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
        """Batches of one rank, from its batch `start` on.

        A batch has `image` `[B, C, H, W]` uint8 and `label` `[B]` int64. `epoch_order` says which
        images an epoch reads and in which order (`limit`: how many at most), and `shares` says
        which of them a rank gets. Raises ValueError at once for numbers out of range.
        """
        order = epoch_order(self._label_array(), seed, epoch, train, limit)
        parts = shares(len(order), batch_size, start, rank, world, train)
        return self._read_batches(order, parts, (seed, epoch), train)

    def class_shares(self) -> np.ndarray:
        """Share of the images in each class, `[classes]`; the sum is 1."""
        counts = np.bincount(self._label_array(), minlength=len(self.classes))
        return counts / counts.sum()

    @abstractmethod
    def _label_array(self) -> np.ndarray:
        """The labels, `[N]` int64."""

    @abstractmethod
    def _read_batches(
        self, order: np.ndarray, parts: Iterator[slice], key: tuple[int, int], train: bool
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the images `order[part]` of each part as a batch; `key`: seed and epoch."""
