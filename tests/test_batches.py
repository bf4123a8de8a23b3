"""Batches of images in memory: order, shares of processes, and limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from rbsf.datasets.batches import shares
from rbsf.datasets.images.epochs import balanced_subset, epoch_order
from rbsf.datasets.images.in_memory import ArrayData


def data(count=50, classes=5):
    labels = torch.arange(count) % classes
    images = (
        torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 3, 8, 8).contiguous()
    )
    return ArrayData(images, labels, tuple("abcdefghij"[:classes]), (0.5,) * 3, (0.25,) * 3)


def test_training_batches_are_a_shuffle_that_seed_and_epoch_decide():
    def order(**numbers):
        return torch.cat([b["image"][:, 0, 0, 0] for b in data().batches(10, **numbers)]).tolist()

    first = order(seed=1, epoch=0)
    assert sorted(first) == list(range(50))
    assert first != sorted(first)
    assert order(seed=1, epoch=0) == first
    assert order(seed=1, epoch=1) != first
    assert order(seed=2, epoch=0) != first
    assert order(seed=1, epoch=0, start=3) == first[30:]
    assert order(seed=1, epoch=0, train=False) == list(range(50))


def test_images_keep_their_labels():
    for batch in data().batches(7, 0, 0):
        assert batch["label"].dtype == torch.int64
        assert batch["image"].shape == (7, 3, 8, 8)
        assert (batch["image"][:, 0, 0, 0] % 5).tolist() == batch["label"].tolist()


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_ranks_share_an_epoch_without_overlap(images, batch_size, world, train, start):
    if train and images < batch_size * world:
        with pytest.raises(ValueError, match="do not fill"):
            shares(images, batch_size, 0, 0, world, train)
        return
    parts = [list(shares(images, batch_size, 0, rank, world, train)) for rank in range(world)]
    seen = [i for rank in parts for part in rank for i in range(images)[part]]
    assert len(seen) == len(set(seen))
    if train:
        assert len(seen) == images // (batch_size * world) * batch_size * world
        assert len({len(rank) for rank in parts}) == 1
    else:
        assert sorted(seen) == list(range(images))
    if start <= len(parts[-1]):
        assert list(shares(images, batch_size, start, 0, world, train)) == parts[0][start:]


def test_numbers_out_of_range_are_refused_at_once():
    refused(lambda: data().batches(0, 0, 0), "batch_size 0")
    refused(lambda: data().batches(26, 0, 0, world=2), "50 images do not fill 2 x 26")
    refused(lambda: data().batches(5, 0, 0, rank=2, world=2), "rank is 2 of 2")
    refused(lambda: data().batches(5, 0, 0, start=11), "start is 11", "0 to 10")
    refused(lambda: data().batches(5, 0, 0, limit=0), "limit is 0")


def test_a_limit_is_balanced_seeded_and_grows_by_adding():
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    for count, expected in ((3, [1, 1, 1]), (9, [3, 3, 3]), (23, [10, 10, 3]), (200, [100, 20, 3])):
        assert np.bincount(labels[balanced_subset(labels, count, 5)]).tolist() == expected
    small, large = (set(balanced_subset(labels, count, 5).tolist()) for count in (7, 40))
    assert small < large
    assert small != set(balanced_subset(labels, 7, 6).tolist())
    # Every epoch has the same images.
    assert sorted(epoch_order(labels, 5, 3, True, 7)) == sorted(small)


def test_batch_counts_and_subsets_agree_with_what_is_read():
    whole = data()
    for limit in (None, 13, 500):
        read = list(whole.batches(4, 0, 0, train=False, limit=limit))
        assert whole.batch_count(4, limit=limit) == len(read)
    images = torch.cat([batch["image"] for batch in whole.batches(4, 0, 0, train=False, limit=13)])
    assert torch.equal(images, whole.images[balanced_subset(whole.labels.numpy(), 13, 0)])
    assert whole.describe() == "50 images of 3x8x8, 5 classes"


def test_tensors_that_do_not_fit_are_refused():
    whole = data()
    for changes, word in (
        ({"images": whole.images.float()}, "float32"),
        ({"images": whole.images[:, :2]}, "3 channel means"),
        ({"labels": whole.labels[1:]}, "int64 [49]"),
        ({"labels": whole.labels.int()}, "int32"),
        ({"labels": whole.labels - 1}, "from -1 to 3"),
        ({"classes": ("a", "b")}, "from 0 to 4; there are classes 0 to 1"),
    ):
        refused(lambda changes=changes: dataclasses.replace(whole, **changes), word)
