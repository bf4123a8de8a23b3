"""Ends worker processes when the process that started them ends."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Make this process, a worker of `multiprocessing`, end when its parent has ended.

    A killed parent cannot tell its workers to end. In other processes this does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)  # at once, since the worker may wait for data that will never come

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
