"""What a video file's own tables say for sure, where the number of frames in its header is an
estimate.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
        with path.open("rb") as file:
            moov = next(
                (file.read(end - file.tell()) for kind, end in _mp4_boxes(file) if kind == b"moov"),
                b"",
            )
        (scale, _), tracks = _times(_find(moov, b"mvhd")[0]), _find(moov, b"trak")
        videos = [track for track in tracks if _find(track, b"mdia", b"hdlr")[0][8:12] == b"vide"]
        return bool(videos) and all(_shows_all(track, scale) for track in videos)
    except (struct.error, IndexError, ZeroDivisionError):  # no such file, or a damaged one
        return False


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
    """Units a second and duration, in these units, of an `mvhd` or `mdhd` box."""
    return (
        struct.unpack_from(">IQ", header, 20)
        if header[0]
        else struct.unpack_from(">II", header, 12)
    )


def _find(data: bytes, kind: bytes, *inner: bytes) -> list[bytes]:
    """Contents of the MP4 boxes of a kind in `data`; with `inner`, of the boxes of these kinds
    in them.
    """
    file = io.BytesIO(data)
    found = [file.read(end - file.tell()) for name, end in _mp4_boxes(file) if name == kind]
    return [content for outer in found for content in _find(outer, *inner)] if inner else found


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kinds and ends of the boxes in a row; `file` stands at each one's content."""
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
