"""Find a codec that works on this machine, and open an encoder."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video import pyav_reader
from rbsf.datasets.video.codecs import CODECS, MPEG4, Codec
from rbsf.datasets.video.opencv_encoder import OpenCvEncoder
from rbsf.datasets.video.pyav_encoder import PyavEncoder

Encoder = OpenCvEncoder | PyavEncoder

TRIAL_SIZE = (320, 240)  # width and height of the picture that tests a codec


@dataclass(frozen=True)
class Original:
    """What a written video takes over from its source."""

    aspect: Fraction = Fraction(1)  # width / height of a pixel
    sound: Path | None = None  # a video file whose sound is copied
    live: bool = False  # a live source, which drops frames while the tracker is busy


def make_encoder(
    path: Path,
    codec: Codec,
    size: tuple[int, int],
    fps: float,
    original: Original | None = None,
    begin: float = 0.0,
) -> Encoder:
    """Make an encoder of pictures of one size (width, height). Raises OSError if that fails."""
    original = original or Original()
    if codec.by_pyav:
        aspect = original.aspect if codec.keeps_aspect else Fraction(1)
        return PyavEncoder(path, codec, size, fps, aspect, original.sound, begin)
    return OpenCvEncoder(path, codec, size, fps, original.live, original.sound is not None)


@lru_cache
def find_codec(suffix: str) -> Codec:
    """Find the first codec of CODECS that works here. Raises ValueError if none does."""
    for codec in CODECS.get(suffix, [MPEG4]):  # VideoWriter refuses other endings
        if codec == MPEG4 or works(codec, suffix):
            return codec
    raise ValueError(f"no codec for {suffix} is installed; give a name that ends in .mp4")


def best_suffix() -> str:
    """The suffix of a format that browsers play, if a codec for one works here; else .mp4."""
    if not find_codec(".mp4").plays:
        with suppress(ValueError):
            find_codec(".webm")
            return ".webm"
    return ".mp4"


def works(codec: Codec, suffix: str) -> bool:
    """Whether a picture can be encoded and read back."""
    if codec.by_pyav and not pyav_reader.is_installed():
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"trial{suffix}"
        try:
            encoder = make_encoder(path, codec, TRIAL_SIZE, 25.0)
            encoder.write(np.zeros((TRIAL_SIZE[1], TRIAL_SIZE[0], 3), np.uint8), 0.0)
            encoder.close()
        except (OSError, ValueError):
            return False
        return count_written(path) == 1


def count_written(path: Path) -> int:
    """Count the frames of a video that can be read. This takes time."""
    capture = cv2.VideoCapture(str(path))
    try:
        count = 0
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()
