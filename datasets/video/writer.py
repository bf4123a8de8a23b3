"""Write videos."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.images import encodable

WRITABLE_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
MAX_FPS = 60_000  # frames a second that a video can be written at


class VideoWriter:
    """Write frames to ``path`` (.mp4, .avi, .mov, .mkv) at ``fps``; use as a context manager.

    The first frame fixes the picture's size (cut to even sides, as the codec asks); later frames of
    another size are scaled to fit into it, with black bars. The file appears under its name when
    the block ends without an error. Raises ValueError for a bad ``fps`` or a ``path`` that cannot
    be written, OSError where writing fails later.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), float(fps)
        if self.path.suffix.lower() not in WRITABLE_SUFFIXES:
            endings = ", ".join(WRITABLE_SUFFIXES)
            raise ValueError(f"cannot write {path}: give a name that ends in one of {endings}")
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(
                f"cannot write {path} at {fps} frames per second; give a rate above 0, such as 25"
            )
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size, self._count = (0, 0), 0

    def __enter__(self) -> VideoWriter:
        if self.path.is_dir():
            raise ValueError(f"cannot write {self.path}: it is a folder; give a file name")
        try:  # now, not after an hour of tracking
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror}") from error
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a frame, H x W x 3 uint8 RGB."""
        if self._writer is None:
            self._writer = self._open(image)
        self._writer.write(cv2.cvtColor(fit(image, self._size), cv2.COLOR_RGB2BGR))
        self._count += 1

    def _open(self, image: np.ndarray) -> cv2.VideoWriter:
        height, width = image.shape[:2]
        self._size = (max(width // 2 * 2, 2), max(height // 2 * 2, 2))
        writer = cv2.VideoWriter(
            encodable(self._part), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, self._size
        )
        if not writer.isOpened():
            raise OSError(
                f"cannot write {self.path}: OpenCV cannot encode {width}x{height} frames into it"
            )
        return writer

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._keep()
        finally:
            self._part.unlink(missing_ok=True)

    def _keep(self) -> None:
        capture = cv2.VideoCapture(encodable(self._part))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # OpenCV does not tell of a full disk
        capture.release()
        if count < self._count:
            raise OSError(
                f"cannot write {self.path}: the file came out cut short; is the disk full?"
            )
        os.replace(self._part, self.path)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an H x W x 3 image to ``size`` (width, height): one odd row or column is cut, else
    scaled with bars.
    """
    width, height = size
    if 0 <= image.shape[0] - height <= 1 and 0 <= image.shape[1] - width <= 1:
        return image[:height, :width]
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    bars = (top, height - inner[1] - top, left, width - inner[0] - left)
    return cv2.copyMakeBorder(
        cv2.resize(image, inner, interpolation=cv2.INTER_AREA), *bars, cv2.BORDER_CONSTANT
    )
