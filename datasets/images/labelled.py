"""Images with class labels, by name of the data set: `LABELLED` has them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rbsf.datasets.images.base import Labelled
from rbsf.datasets.images.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.class_folders import FOLDER, IMAGENET, TINY_IMAGENET, open_image_folder
from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.images.mnist import open_mnist
from rbsf.datasets.images.published import CHECKS

Pair = tuple[Labelled, Labelled]
LABELLED: dict[str, Callable[[Path, str, bool], Pair]] = {
    "mnist": lambda root, check, _: open_mnist(root, check),
    "cifar10": lambda root, check, _: open_cifar(root, CIFAR10, check),
    "cifar100": lambda root, check, _: open_cifar(root, CIFAR100, check),
    "cifar100-coarse": lambda root, check, _: open_cifar(root, CIFAR100_COARSE, check),
    "imagenet": lambda root, check, skip: open_image_folder(root, IMAGENET, check, skip),
    "tiny-imagenet": lambda root, check, skip: open_image_folder(root, TINY_IMAGENET, check, skip),
    "folder": lambda root, check, skip: open_image_folder(root, FOLDER, check, skip),
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
    """Open the data set `name`, one of `LABELLED`, in the folder `root`.

    Returns training images and test (or validation) images. `check` says how strictly published
    checksums and counts are compared (see `verify`). Three settings are for image files only: with
    `skip_broken`, files that cannot be decoded are named, counted and left out instead of raising
    an error; `workers` is the number of processes that decode; `size` is the side of the crops in
    pixels (None: the data set's own). Raises FileNotFoundError or ValueError, in one line, for what
    is missing or does not fit.
    """
    if name not in LABELLED:
        raise ValueError(f"data set is {name!r}; known: {', '.join(LABELLED)}")
    if check not in CHECKS:
        raise ValueError(f"check is {check!r}; give one of {', '.join(CHECKS)}")
    if workers < 0 or (size is not None and size < 1):
        raise ValueError(f"workers {workers}, size {size}: give at least 0 and 1")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {root}, where {name} should be")
    pair = LABELLED[name](Path(root), check, skip_broken)
    for data in pair:
        _set_reading(data, name, workers, size)
    return pair


def _set_reading(data: Labelled, name: str, workers: int, size: int | None) -> None:
    """Set how image files are read. Raises ValueError if images in memory have another size."""
    if isinstance(data, FolderData):
        data.workers = workers
        data.size = size or data.size
        return
    if size not in (None, data.size):
        fixed = f"images of {name} are {data.size} pixels wide and are not resized"
        raise ValueError(f"size is {size}, but {fixed}")
