"""Loaders that read a data set in worker processes."""

from __future__ import annotations

import signal
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rbsf.datasets.workers import start_worker


class _Loader(DataLoader[Any]):
    """A loader whose processes never see Ctrl-C, which is for the parent process.

    They inherit the block while they start. A Ctrl-C of that moment reaches the parent afterwards.
    """

    def __iter__(self) -> Any:
        if not hasattr(signal, "pthread_sigmask"):  # on Windows
            return super().__iter__()
        resource_tracker.ensure_running()  # its start would lift the block
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_loader(dataset: Dataset[Any], batches: Any, workers: int, **more: Any) -> DataLoader[Any]:
    """A loader of the `batches` of a data set, lists of its keys, in `workers` processes (0: none).

    The processes stay from one pass to the next. `more` goes to PyTorch's loader. Raises ValueError
    for a negative number of workers.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; give 0 or more")
    return _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        # In a forked process OpenCV would wait for threads that the fork has lost.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
        # Without it a pass would draw from the global generator, and a resumed run would differ.
        generator=torch.Generator(),
        **more,
    )
