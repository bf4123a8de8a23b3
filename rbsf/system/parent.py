"""Processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """See to it that this process, a worker of `multiprocessing`, ends when its parent has.

    A parent that is killed cannot say so. In a process that is no worker nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)  # at once: what the worker waits for will never come

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
