"""CIFAR-100's binary layout filled with made-up images, for rehearsals without the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rbsf.datasets.images.cifar import CIFAR100, CIFAR100_COARSE
from rbsf.system.files import write_atomically

BLOCK = 8  # side of a block of one colour, in pixels


def write_made_up_cifar(root: Path) -> None:
    """Write `root`/cifar-100-binary: images of coloured blocks, as many per class as CIFAR-100."""
    folder = root / "cifar-100-binary"
    generator = np.random.default_rng(0)
    blocks = 32 // BLOCK
    for split, count in CIFAR100.counts.items():
        fine = generator.permutation(count) % CIFAR100.classes
        groups = fine % CIFAR100_COARSE.classes
        labels = np.stack([groups, fine], axis=1).astype(np.uint8)  # [N, 2]
        colours = generator.integers(0, 256, (count, 3, blocks, blocks), np.uint8)
        images = colours.repeat(BLOCK, axis=2).repeat(BLOCK, axis=3)  # [N, 3, 32, 32]
        records = np.concatenate([labels, images.reshape(count, -1)], axis=1)
        write_atomically(folder / f"{split}.bin", records.tobytes())
    for cifar in (CIFAR100, CIFAR100_COARSE):
        names = "".join(f"class{number}\n" for number in range(cifar.classes))
        write_atomically(folder / cifar.names[2], names.encode())
