"""Write videos."""

from __future__ import annotations

import os
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.codecs import CODECS, MAX_FPS, MPEG4, Codec
from rbsf.datasets.video.encoders import Encoder, Original, count_written, make_encoder
from rbsf.datasets.video.images import encodable
from rbsf.system.lock import locked_name
from rbsf.system.program import check_writable

WRITABLE_SUFFIXES = tuple(CODECS)


class VideoWriter:
    """Write frames to `path` (.mp4, .avi, .mov, .mkv, .webm); use it as a context manager.

    `codec`: a result of `find_codec`; the default writes the same on every machine. `fps`: the rate
    for frames without a time, and for OpenCV's codecs. `count_up`: if the name is taken, NAME_2 and
    so on is used instead; `path` is then that name.

    The first frame fixes the picture's size (cut to even sides, which the codec needs); later
    frames of another size are scaled to fit into it, with black bars. Pixels that are not square
    stay so; if the codec only allows square ones, they are stretched to the shape that players
    show.

    The file appears under its name when the block ends without an error. After a full disk it has
    the frames for which there was space. After Ctrl-C in the block, the file `part_of(path)`
    remains. Raises ValueError for a bad `fps` and for a `path` that cannot be written or that
    another process writes, and OSError if writing fails later.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        codec: Codec = MPEG4,
        original: Original | None = None,
        count_up: bool = False,
    ) -> None:
        self.path, self.fps, self.codec = Path(path), float(fps), codec
        if self.path.suffix.lower() not in WRITABLE_SUFFIXES:
            endings = ", ".join(WRITABLE_SUFFIXES)
            raise ValueError(f"cannot write {path}: give a name that ends in one of {endings}")
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(
                f"cannot write {path} at {fps} frames per second; give a rate above 0, such as 25"
            )
        self._original = original or Original()
        self._count_up = count_up
        self._encoder: Encoder | None = None
        self._size = self._shown = (0, 0)  # (width, height) of frames, and of the video
        self._begin, self._time = 0.0, 0.0  # times of the first and the last frame, in seconds
        self._fault: OSError | None = None  # the error that ended the writing
        self._held = ExitStack()  # the lock

    @property
    def _part(self) -> Path:
        return part_of(self.path)

    def __enter__(self) -> VideoWriter:
        encodable(self.path)
        check_writable(self.path)  # now, not after an hour of tracking
        self.path = self._held.enter_context(locked_name(self.path, self._count_up, part_of))
        return self

    def write(self, image: np.ndarray, seconds: float | None = None) -> None:
        """Append a frame, `[H, W, 3]` uint8 RGB, and its time; by default 1/fps after the last."""
        if self._fault:
            raise OSError(f"cannot write {self.path}: {self._fault.strerror}") from self._fault
        try:
            if self._encoder is None:
                self._begin = seconds or 0.0
                self._encoder = self._open(image)
            elif seconds is None:
                self._time += 1 / self.fps
            else:
                self._time = max(seconds - self._begin, self._time)
            image = fit(image, self._size)
            if self._shown != self._size:
                image = cv2.resize(image, self._shown, interpolation=cv2.INTER_LINEAR)
            self._encoder.write(image, self._time)
        except OSError as error:
            self._fault = error
            raise OSError(f"cannot write {self.path}: {error.strerror}") from error

    def describe(self) -> str:
        """One line on what was written."""
        line = f"video: {self.path} ({self.codec.describe()})"
        left_out = self._encoder.left_out if self._encoder else ""
        return f"{line}; {left_out}" if left_out else line

    def _open(self, image: np.ndarray) -> Encoder:
        height, width = image.shape[:2]
        self._size = (max(width // 2 * 2, 2), max(height // 2 * 2, 2))
        self._shown = self._size
        if not self.codec.keeps_aspect:
            self._shown = shown_size(self._size, self._original.aspect)
        return make_encoder(
            self._part, self.codec, self._shown, self.fps, self._original, self._begin
        )

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        interrupted = kind is KeyboardInterrupt
        with self._held:
            try:
                if self._encoder is not None:
                    self._finish(self._encoder, kind is None)
            except KeyboardInterrupt:
                interrupted = True
                raise
            finally:
                if not interrupted:
                    self._part.unlink(missing_ok=True)

    def _finish(self, encoder: Encoder, keep: bool) -> None:
        try:
            encoder.close()
        except OSError as error:
            self._fault = self._fault or error
        if keep:
            self._keep(encoder.written)

    def _keep(self, expected: int) -> None:
        """Give the file its name. Raises OSError if frames are missing."""
        written = expected if self._is_whole(expected) else count_written(self._part)
        if written:
            os.replace(self._part, self.path)
        if written < expected:
            short = "the file came out cut short; is the disk full?"
            reason = self._fault.strerror if self._fault else short
            kept = f"the video has the first {written} frames" if written else "it is not kept"
            raise OSError(f"cannot write {self.path}: {reason} ({kept})")

    def _is_whole(self, expected: int) -> bool:
        if self._fault or self.codec.by_pyav:  # PyAV reports a full disk
            return self._fault is None
        capture = cv2.VideoCapture(encodable(self._part))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        return count >= expected


def part_of(path: Path) -> Path:
    """The file of a video until it is complete.

    All processes use the same name: the lock keeps others out.
    """
    return path.with_name(f".{path.stem}.part{path.suffix}")


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an `[H, W, 3]` image to `size` (width, height).

    One odd row or column is cut; any other image is scaled, with black bars.
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


def shown_size(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """Size in square pixels, with even sides, of a picture whose pixels have another shape."""
    width, height = size
    if aspect >= 1:
        return round(width * aspect / 2) * 2, height
    return width, round(height / aspect / 2) * 2
