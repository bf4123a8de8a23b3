"""Processes that read images."""

from __future__ import annotations

import signal

import cv2


def start_worker(_: int = 0) -> None:
    """What such a process does first; a loader tells it its number."""
    cv2.setNumThreads(
        1
    )  # the processes are the parallelism; threads on top only get in each other's way
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which finishes its step and saves
