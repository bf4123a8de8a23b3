"""Which images an epoch reads, in which batches: pure functions of seed, epoch and numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices, ascending, of ``count`` of N labels (all, where there are fewer), as many of each
    class as can be.

    A larger ``count`` of the same seed holds the smaller one. Returns int64 (min(count, N)).
    ValueError below 1.
    """
    if count < 1:
        raise ValueError(f"limit is {count}; give a number of images from 1")
    shuffled = np.random.default_rng((seed, 1)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.flatnonzero(
        np.diff(labels[by_class], prepend=-1)
    )  # where each class begins in by_class
    sizes = np.diff(np.append(starts, len(labels)))
    rank = np.arange(len(labels)) - np.repeat(
        starts, sizes
    )  # of each image among those of its class
    return np.sort(by_class[np.argsort(rank, kind="stable")[:count]])


def epoch_order(
    labels: np.ndarray, seed: int, epoch: int, train: bool, limit: int | None
) -> np.ndarray:
    """Indices into N labels in the order of an epoch, int64: shuffled for training, ascending
    otherwise.

    ``limit``: only a `balanced_subset` of so many, the same in every epoch.
    """
    chosen = np.arange(len(labels)) if limit is None else balanced_subset(labels, limit, seed)
    return np.random.default_rng((seed, epoch)).permutation(chosen) if train else chosen


def count_batches(images: int, batch_size: int, world: int = 1, train: bool = True) -> int:
    """Batches of one rank (evaluation: of rank 0) in a pass over so many images; see `shares`.

    ValueError for a ``batch_size`` below 1, and where a training's images do not fill one batch on
    every rank.
    """
    if batch_size < 1 or world < 1:
        raise ValueError(f"batch_size {batch_size}, {world} processes: give at least 1")
    if train and images < batch_size * world:
        raise ValueError(
            f"{images} images do not fill {world} x {batch_size}; give a smaller batch or more images"
        )
    return images // (batch_size * world) if train else -(-images // (batch_size * world))


def shares(
    images: int, batch_size: int, start: int, rank: int, world: int, train: bool
) -> Iterator[slice]:
    """The batches of one rank, parts of an epoch's order, from its batch ``start``; ranks take
    turns, batch by batch.

    Training: all of ``batch_size``, as many on every rank; what does not fill them is left out.
    Evaluation: every image once; the last batch may be smaller, and ranks may differ by one batch.
    ValueError for numbers out of range.
    """
    count = count_batches(images, batch_size, world, train)
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}; give one from 0 to {world - 1}")
    if not 0 <= start <= count:
        raise ValueError(f"start is {start}; an epoch has batches 0 to {count}")
    firsts = ((batch * world + rank) * batch_size for batch in range(start, count))
    return (slice(first, min(first + batch_size, images)) for first in firsts if first < images)
