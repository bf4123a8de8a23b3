"""Which images an epoch reads, in which batches: pure functions of seed, epoch and numbers."""

from __future__ import annotations

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
