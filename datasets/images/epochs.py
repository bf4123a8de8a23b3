"""Which images an epoch reads, in which batches: pure functions of seed, epoch and numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def check_limit(limit: int) -> int:
    """Return `limit`, a number of images. Raises ValueError if it is below 1."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; give a number of images from 1")
    return limit


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` of N labels at random, divided as evenly as possible over the classes.

    Returns their indices, ascending, int64 `[min(count, N)]`. With the same seed, the images of a
    smaller `count` are among those of a larger one. Raises ValueError for a `count` below 1.
    """
    check_limit(count)
    shuffled = np.random.default_rng((seed, 1)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    begins_class = np.diff(labels[by_class], prepend=-1)
    starts = np.flatnonzero(begins_class)  # where each class begins in `by_class`
    sizes = np.diff(np.append(starts, len(labels)))
    rank_in_class = np.arange(len(labels)) - np.repeat(starts, sizes)
    first_of_each = np.argsort(rank_in_class, kind="stable")[:count]
    return np.sort(by_class[first_of_each])


def epoch_order(
    labels: np.ndarray, seed: int, epoch: int, train: bool, limit: int | None
) -> np.ndarray:
    """Indices of N images in the order of an epoch, int64: shuffled for training, else ascending.

    With `limit`, they are a `balanced_subset` of that many, the same in every epoch.
    """
    chosen = np.arange(len(labels))
    if limit is not None:
        chosen = balanced_subset(labels, limit, seed)
    if not train:
        return chosen
    return np.random.default_rng((seed, epoch)).permutation(chosen)


def count_batches(images: int, batch_size: int, world: int = 1, train: bool = True) -> int:
    """Number of batches that one rank (evaluation: rank 0) has in a pass over `images` images.

    See `shares`. Raises ValueError for a `batch_size` below 1, and if a training's images do not
    fill one batch on every rank.
    """
    if batch_size < 1 or world < 1:
        raise ValueError(f"batch_size {batch_size}, {world} processes: give at least 1")
    on_all_ranks = batch_size * world
    if not train:
        return -(-images // on_all_ranks)  # rounded up
    if images < on_all_ranks:
        lack = f"{images} images do not fill {world} x {batch_size}"
        raise ValueError(f"{lack}; give a smaller batch or more images")
    return images // on_all_ranks


def shares(
    images: int, batch_size: int, start: int, rank: int, world: int, train: bool
) -> Iterator[slice]:
    """The batches of one rank, from its batch `start` on, as parts of an epoch's order.

    The ranks take turns, batch by batch. In training, every batch has `batch_size` images and every
    rank has the same number of batches; the remaining images are left out. In evaluation, every
    image comes once; the last batch may be smaller, and ranks may differ by one batch. Raises
    ValueError for numbers out of range.
    """
    count = count_batches(images, batch_size, world, train)
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}; give one from 0 to {world - 1}")
    if not 0 <= start <= count:
        raise ValueError(f"start is {start}; an epoch has batches 0 to {count}")
    firsts = ((batch * world + rank) * batch_size for batch in range(start, count))
    return (slice(first, min(first + batch_size, images)) for first in firsts if first < images)
