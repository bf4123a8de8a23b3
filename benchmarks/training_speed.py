"""Measure pairs per second of the loader alone, and of loader and network together, in one process.

It takes the flags of tools/train_rbsf.py. Each side gets --pairs pairs, after two batches that do
not count. The ratio should be well above 1, so that the loader is not the limit.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch

from rbsf.datasets.pairs.pair_dataset import make_loader
from rbsf.system.program import run
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import read_config
from rbsf.train.device import choose_device
from rbsf.train.distributed import Process

WARM_UP = 2  # batches that do not count


def rate(loader: Any, use: Callable[[Any], object], pairs: int) -> float:
    """Pairs per second if `use` gets each batch of `loader`; the first batches do not count."""
    start = 0.0
    for number, batch in enumerate(loader):
        if number == WARM_UP:
            start = time.perf_counter()
        use(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return pairs / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Measure both and print them with their ratio."""
    config = read_config(argv, __doc__ or "")
    counted, device = config.pairs, choose_device(config.machine.device)
    config = dataclasses.replace(config, pairs=counted + WARM_UP * config.loop.batch_size)
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    recipe = SiameseRecipe(config, Process(0, 1, device))
    recipe.open()
    dataset, rectifier = recipe.dataset, recipe.build()
    sizes = (config.loop.batch_size, config.machine.workers)

    def step(batch: dict[str, torch.Tensor]) -> None:
        rectifier.step({k: v.to(device, non_blocking=True) for k, v in batch.items()}, 0)

    alone = rate(make_loader(dataset, *sizes), lambda batch: batch, counted)
    both = rate(make_loader(dataset, *sizes), step, counted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threads = f"{config.machine.workers} workers, {torch.get_num_threads()} threads"
    print(f"batch {config.loop.batch_size}, {threads}, {device.type}")
    print(f"loader alone         {alone:8.1f} pairs/s")
    print(f"loader and network   {both:8.1f} pairs/s   (Algorithm 1, model {config.model})")
    print(f"ratio                {alone / both:8.1f}")
    print(f"peak memory          {peak:8.0f} MB   (this process)")
    return 0


if __name__ == "__main__":
    run(main)
