"""CIFAR-100's binary layout filled with made-up images: what a rehearsal needs that must not wait
for real ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rbsf.datasets.images.cifar import CIFAR100, CIFAR100_COARSE
from rbsf.system.files import write_atomically

BLOCK = 8  # pixels of one colour, along each side


def write_made_up_cifar(root: Path, seed: int = 0) -> None:
    """Write `root`/cifar-100-binary: images of coloured blocks, as many of each class as in
    CIFAR-100.
    """
    folder = root / "cifar-100-binary"
    generator = np.random.default_rng(seed)
    for split, count in CIFAR100.counts.items():
        fine = generator.permutation(count) % CIFAR100.classes
        labels = np.stack([fine % CIFAR100_COARSE.classes, fine], axis=1).astype(np.uint8)
        coarse = generator.integers(0, 256, (count, 3, 32 // BLOCK, 32 // BLOCK), np.uint8)
        images = coarse.repeat(BLOCK, axis=2).repeat(BLOCK, axis=3)  # [N, 3, 32, 32]
        records = np.concatenate([labels, images.reshape(count, -1)], axis=1)
        write_atomically(folder / f"{split}.bin", records.tobytes())
    for cifar in (CIFAR100, CIFAR100_COARSE):
        names = "".join(f"class{number}\n" for number in range(cifar.classes))
        write_atomically(folder / cifar.names[2], names.encode())
