"""Encode video with OpenCV: at a constant rate, without sound."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.codecs import Codec
from rbsf.datasets.video.images import encodable
from rbsf.system.streams import stderr_to


class OpenCvEncoder:
    """Writes pictures of one size, (width, height), to a file.

    Frames of a `live` source are repeated or skipped to keep the true speed. `from_file`: the
    pictures come from a video file, which may have sound. Raises OSError if the file cannot be
    created.
    """

    def __init__(
        self,
        path: Path,
        codec: Codec,
        size: tuple[int, int],
        fps: float,
        live: bool = False,
        from_file: bool = False,
    ) -> None:
        self.left_out = "sound, where there was any, is left out" if from_file else ""
        self._fps, self._live = fps, live
        self.written = 0  # number of frames that the file should hold
        letters = cv2.VideoWriter.fourcc(*codec.encoder)
        with open(os.devnull, "w") as nowhere, stderr_to(nowhere.fileno()):
            self._writer = cv2.VideoWriter(encodable(path), letters, fps, size)
        if not self._writer.isOpened():
            raise OSError(0, f"OpenCV cannot encode {size[0]}x{size[1]} frames")

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame, `[H, W, 3]` uint8 RGB, `seconds` after the first one."""
        copies = max(1 + int(seconds * self._fps) - self.written, 0) if self._live else 1
        for _ in range(copies):
            self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.written += copies

    def close(self) -> None:
        """Finish the file. OpenCV does not report a full disk."""
        self._writer.release()
