"""Augmentation shifts and mirrors images in the promised shares; three numbers decide how."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from rbsf.datasets.images.augment import augment, batch_generator, normalise

# All pixels differ, and none is 0.
IMAGE = torch.arange(1, 2 * 3 * 5 + 1, dtype=torch.uint8).view(2, 3, 5)


def variants(padding):
    """Every crop of IMAGE, plain and mirrored, as tuples."""
    padded = pad(IMAGE, (padding,) * 4)
    for y in range(2 * padding + 1):
        for x in range(2 * padding + 1):
            crop = padded[:, y : y + 3, x : x + 5]
            yield (y, x, False), crop
            yield (y, x, True), crop.flip(-1)


def draws(padding, flip, count=4000):
    images = IMAGE.expand(count, -1, -1, -1)
    return augment(images, batch_generator(0, 0, 0), padding, flip)


def test_every_shift_and_mirror_comes_equally_often():
    known = {tuple(crop.flatten().tolist()): key for key, crop in variants(1)}
    found = [known[tuple(crop.flatten().tolist())] for crop in draws(1, True)]
    share = {key: found.count(key) / len(found) for key in known.values()}
    assert len(share) == 18
    # The tolerance is 4 standard deviations of 4000 draws.
    assert all(abs(value - 1 / 18) < 0.015 for value in share.values())


def test_without_padding_and_flip_images_come_back_as_they_are():
    assert torch.equal(draws(0, False), IMAGE.expand(4000, -1, -1, -1))


def test_flip_alone_mirrors_half_of_them():
    mirrored = (draws(0, True) == IMAGE.flip(-1)).flatten(1).all(1)
    plain = (draws(0, True) == IMAGE).flatten(1).all(1)
    assert bool((mirrored ^ plain).all())
    assert abs(mirrored.float().mean().item() - 0.5) < 0.03


def test_crops_alone_never_mirror():
    known = {tuple(crop.flatten().tolist()): key for key, crop in variants(2)}
    assert not any(known[tuple(crop.flatten().tolist())][2] for crop in draws(2, False))


def test_the_given_image_is_not_changed():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    out = augment(images, batch_generator(0, 0, 0))
    assert torch.equal(images, before)
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)


@pytest.mark.parametrize("other", [(1, 2, 4), (1, 3, 3), (2, 2, 3)])
def test_draws_are_decided_by_seed_epoch_and_number(other):
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    once = augment(images, batch_generator(1, 2, 3))
    torch.manual_seed(99)
    assert torch.equal(augment(images, batch_generator(1, 2, 3)), once)
    assert not torch.equal(augment(images, batch_generator(*other)), once)


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    augment(torch.zeros((2, 3, 8, 8), dtype=torch.uint8), batch_generator(0, 0, 0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_normalise_gives_known_numbers():
    images = torch.tensor([[[[0]], [[255]], [[51]]]], dtype=torch.uint8)  # [1, 3, 1, 1]
    out = normalise(images, (0.5, 0.25, 0.2), (0.5, 0.25, 0.1))
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == pytest.approx([-1, 3, 0], abs=1e-6)
