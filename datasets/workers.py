"""Processes that read images."""

from __future__ import annotations

import signal

import cv2

from rbsf.system.parent import end_with_parent


def start_worker(_: int = 0) -> None:
    """Prepare a worker process; a loader calls this first, with the worker's number."""
    # The processes share the work. Threads in each of them would only get in each other's way.
    cv2.setNumThreads(1)
    end_with_parent()
    # Ctrl-C is for the parent process, which finishes its step and saves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
