"""Images with class labels, by name of the data set: LABELLED has them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from rbsf.datasets.images.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.class_folders import FOLDER, IMAGENET, TINY_IMAGENET, open_image_folder
from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.images.mnist import open_mnist
from rbsf.datasets.images.published import CHECKS


class Labelled(Protocol):
    """What a training and an evaluation ask of a data set; see `ArrayData` and `FolderData`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; label i is classes[i]."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, on a scale of 0 to 1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, on a scale of 0 to 1."""

    @property
    def size(self) -> int:
        """Side of the images of a batch, in pixels."""

    @property
    def share(self) -> float:
        """Share of an image's short side that its middle square has, which evaluation sees."""

    @property
    def crop_padding(self) -> int:
        """What `augment` is to be given for training batches; 0: their crops are random already."""

    @property
    def flip(self) -> bool:
        """What `augment` is to be given for training batches."""

    def __len__(self) -> int: ...

    def describe(self) -> str:
        """What it is, in a few words."""

    def batch_count(
        self, batch_size: int, world: int = 1, train: bool = True, limit: int | None = None
    ) -> int:
        """Batches of an epoch, of one of ``world`` ranks."""

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
        """Batches of an epoch: ``image`` [B, C, H, W] uint8, ``label`` [B] int64."""


Pair = tuple[Labelled, Labelled]
LABELLED: dict[str, Callable[..., Pair]] = {
    "mnist": lambda root, check, **_: open_mnist(root, check),
    "cifar10": lambda root, check, **_: open_cifar(root, CIFAR10, check),
    "cifar100": lambda root, check, **_: open_cifar(root, CIFAR100, check),
    "cifar100-coarse": lambda root, check, **_: open_cifar(root, CIFAR100_COARSE, check),
    "imagenet": lambda root, check, skip_broken: open_image_folder(
        root, IMAGENET, check, skip_broken
    ),
    "tiny-imagenet": lambda root, check, skip_broken: open_image_folder(
        root, TINY_IMAGENET, check, skip_broken
    ),
    "folder": lambda root, check, skip_broken: open_image_folder(root, FOLDER, check, skip_broken),
}


def open_labelled(
    name: str,
    root: str | Path,
    *,
    skip_broken: bool = False,
    check: str = "auto",
    workers: int = 0,
    size: int | None = None,
) -> Pair:
    """Training and test (or validation) images of the data set ``name``, one of LABELLED, in the
    folder ``root``.

    ``check``: how published checksums and counts bind, see `verify`. Of image files only:
    ``skip_broken``: those that cannot be decoded are named, counted and left out, not an error;
    ``workers``: processes that decode; ``size``: side of the crops in pixels (None: the data set's
    own). FileNotFoundError or ValueError, in one line, for what is missing or does not fit.
    """
    if name not in LABELLED:
        raise ValueError(f"data set is {name!r}; known: {', '.join(LABELLED)}")
    if check not in CHECKS:
        raise ValueError(f"check is {check!r}; give one of {', '.join(CHECKS)}")
    if workers < 0 or (size is not None and size < 1):
        raise ValueError(f"workers {workers}, size {size}: give at least 0 and 1")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {root}, where {name} should be")
    pair = LABELLED[name](Path(root), check=check, skip_broken=skip_broken)
    for data in pair:
        if isinstance(data, FolderData):
            data.workers, data.size = workers, size or data.size
        elif size not in (None, data.size):
            raise ValueError(
                f"size is {size}; images of {name} are {data.size} pixels wide and are not resized"
            )
    return pair
