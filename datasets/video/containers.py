"""What a video file's own tables say for sure, where the number of frames in its header is an
estimate.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
ROUNDING = 0.002  # seconds, of durations in MP4 boxes
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM
STREAMED = (0, 0xFFFFFFFF)  # a RIFF length that the writer did not know


def is_cut_short(path: Path) -> bool:
    """Whether an outermost block of an MP4 or MOV, AVI, Matroska or WebM file reaches beyond the
    file's end.

    False for other formats, and where the blocks are whole or declare no length (live recordings).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            ends = _riff_ends(file, size)
        elif head[:4] == EBML:
            ends = _matroska_ends(file)
        else:
            file.seek(0)
            ends = (end for kind, end in _mp4_boxes(file) if kind in MP4_BOXES)
        return any(end > size for end in ends)


def shows_all_frames(path: Path) -> bool:
    """Whether a file is an MP4 or MOV, whose header lists each frame, and no edit list leaves
    frames out.
    """
    try:
        moov = _read_moov(path)
        scale, _ = _times(_find(moov, b"mvhd")[0])
        videos = _video_tracks(moov)
        return bool(videos) and all(_shows_all(track, scale) for track in videos)
    except (struct.error, IndexError, ZeroDivisionError):  # no such file, or a damaged one
        return False


@dataclass(frozen=True)
class Turn:
    """How a player turns and mirrors a picture: the columns of a video track's display matrix.

    A pixel at x, y is shown at a x + c y, b x + d y, but for a shift.
    """

    a: float
    b: float
    c: float
    d: float

    @property
    def mirrors(self) -> bool:
        """Whether the picture is shown mirrored."""
        return self.a * self.d - self.b * self.c < 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image as it is shown, turned by the multiple of 90 degrees that comes nearest."""
        if abs(self.a) + abs(self.d) >= abs(self.b) + abs(self.c):
            across, down = self.a, self.d
        else:
            image, across, down = image.swapaxes(0, 1), self.c, self.b
        if across < 0:
            image = image[:, ::-1]
        if down < 0:
            image = image[::-1]
        return np.ascontiguousarray(image)


def display_turn(path: Path) -> Turn | None:
    """The display matrix of an MP4's or MOV's first video track; None for other files and none."""
    try:
        for track in _video_tracks(_read_moov(path)):
            header = _find(track, b"tkhd")[0]
            start = 52 if header[0] else 40  # version 1 has longer times
            a, b, _, c, d = struct.unpack_from(">5i", header, start)
            plain = (a > 0 and d > 0 and not b and not c) or not (a or b or c or d)
            return None if plain else Turn(a, b, c, d)
    except (struct.error, IndexError):  # no such file, or a damaged one
        pass
    return None


def _read_moov(path: Path) -> bytes:
    """The tables of an MP4 or MOV; empty for other files."""
    with path.open("rb") as file:
        for kind, end in _mp4_boxes(file):
            if kind == b"moov":
                return file.read(end - file.tell())
    return b""


def _video_tracks(moov: bytes) -> list[bytes]:
    tracks = _find(moov, b"trak")
    return [track for track in tracks if _find(track, b"mdia", b"hdlr")[0][8:12] == b"vide"]


def _shows_all(track: bytes, movie_scale: int) -> bool:
    scale, duration = _times(_find(track, b"mdia", b"mdhd")[0])
    lists = _find(track, b"edts", b"elst")
    if not lists:
        return True
    entry = struct.Struct(
        ">Qq4x" if lists[0][0] else ">Ii4x"
    )  # how long, of the movie; from where on, -1: a pause
    count = struct.unpack_from(">I", lists[0], 4)[0]
    shown = [
        length
        for length, start in entry.iter_unpack(lists[0][8 : 8 + count * entry.size])
        if start != -1
    ]
    return len(shown) == 1 and (
        shown[0] == 0 or shown[0] / movie_scale > duration / scale - ROUNDING
    )


def _times(header: bytes) -> tuple[int, int]:
    """Units a second and duration, in these units, of an ``mvhd`` or ``mdhd`` box."""
    return (
        struct.unpack_from(">IQ", header, 20)
        if header[0]
        else struct.unpack_from(">II", header, 12)
    )


def _find(data: bytes, kind: bytes, *inner: bytes) -> list[bytes]:
    """Contents of the MP4 boxes of a kind in ``data``; with ``inner``, of the boxes of these kinds
    in them.
    """
    file = io.BytesIO(data)
    found = [file.read(end - file.tell()) for name, end in _mp4_boxes(file) if name == kind]
    return [content for outer in found for content in _find(outer, *inner)] if inner else found


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kinds and ends of the boxes in a row; ``file`` stands at each one's content."""
    start = 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if length == 1:
            length = struct.unpack(">Q", file.read(8))[0]
        if not kind.isalnum() or length < 8:  # another format, or 0: a box that goes on to the end
            return
        start += length
        yield kind, start
        file.seek(start)


def _riff_ends(file: BinaryIO, size: int) -> Iterator[int]:
    start = 0
    while start + 8 <= size:  # an AVI above 1 GB is a row of RIFFs
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in STREAMED:
            return
        start += 8 + length
        yield start
        start += length % 2


def _matroska_ends(file: BinaryIO) -> Iterator[int]:
    file.seek(4)
    header = _read_length(file)
    if header is None:
        return
    file.seek(header, 1)
    if file.read(4) == SEGMENT and (length := _read_length(file)) is not None:
        yield file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """Length of a Matroska element: as many bytes as the first has leading zeros, and one; all ones
    are unknown.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(more), "big") & (1 << 7 * (more + 1)) - 1
    return None if value == (1 << 7 * (more + 1)) - 1 else value
