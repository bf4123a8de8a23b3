"""Facts from a video file's own tables, since its header's number of frames is an estimate."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
MOST_ASPECT = 8  # largest ratio of a pixel's sides; a file with a larger one is damaged
ROUNDING = 0.002  # seconds by which durations in MP4 boxes may be rounded
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # elements of Matroska and WebM
GIF = b"GIF8"
# How AVI, Matroska, WebM, GIF, Flash and Windows Media begin.
INDEXED = (b"RIFF", EBML, GIF, b"FLV", b"\x30\x26\xb2\x75")
STREAMED = (0, 0xFFFFFFFF)  # RIFF lengths that mean "unknown when written"


def is_cut_short(path: Path) -> bool:
    """Whether an outermost block of a file claims to reach beyond the file's end.

    Known formats are MP4, MOV, AVI, Matroska, WebM and GIF, whose last block must be there too.
    Returns False for other formats, and if the blocks are whole or declare no length (live
    recordings).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            ends = _riff_ends(file, size)
        elif head[:4] == EBML:
            ends = _matroska_ends(file)
        elif head.startswith(GIF):
            ends = iter([_gif_end(file)])
        else:
            file.seek(0)
            ends = (end for kind, end in _mp4_boxes(file) if kind in MP4_BOXES)
        return any(end > size for end in ends)


def is_gif(path: Path) -> bool:
    """Whether a file is a GIF, whose header does not count its frames."""
    with path.open("rb") as file:
        return file.read(len(GIF)) == GIF


def has_index(path: Path) -> bool:
    """Whether a file is of a format in which OpenCV finds a frame by its number.

    In MPEG transport and program streams, for one, it finds another frame.
    """
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(INDEXED) or head[4:8] in MP4_BOXES


def shows_all_frames(path: Path) -> bool:
    """Whether a file is an MP4 or MOV whose edit lists leave no frames out.

    The header of such a file lists each frame.
    """
    try:
        moov = _read_moov(path)
        movie_scale, _ = _times(_find(moov, b"mvhd")[0])
        videos = [track for track in _find(moov, b"trak") if _is_video(track)]
        return bool(videos) and all(_shows_all(track, movie_scale) for track in videos)
    except (struct.error, IndexError, ZeroDivisionError):  # another format, or a damaged file
        return False


@dataclass(frozen=True)
class Turn:
    """A video track's display matrix, by which a player turns and mirrors the picture.

    A pixel at x, y is shown at a x + c y, b x + d y, plus a shift that is not kept here.
    """

    a: float
    b: float
    c: float
    d: float

    @property
    def mirrors(self) -> bool:
        """Whether the picture is shown mirrored."""
        return self.a * self.d - self.b * self.c < 0

    @property
    def lays_down(self) -> bool:
        """Whether the picture is shown turned by a quarter, so that width and height swap."""
        return abs(self.a) + abs(self.d) < abs(self.b) + abs(self.c)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image as players show it, turned by the nearest multiple of 90 degrees."""
        if not self.lays_down:
            across, down = self.a, self.d
        else:
            image, across, down = image.swapaxes(0, 1), self.c, self.b
        if across < 0:
            image = image[:, ::-1]
        if down < 0:
            image = image[::-1]
        return np.ascontiguousarray(image)


def display_turn(path: Path) -> Turn | None:
    """Display matrix of an MP4's or MOV's first video track; None if missing or without effect."""
    try:
        moov = _read_moov(path)
        for track in filter(_is_video, _find(moov, b"trak")):
            header = _find(track, b"tkhd")[0]
            start = 52 if header[0] else 40  # version 1 has longer times
            a, b, _, c, d = struct.unpack_from(">5i", header, start)
            plain = (a > 0 and d > 0 and not b and not c) or not (a or b or c or d)
            return None if plain else Turn(a, b, c, d)
    except (struct.error, IndexError):  # another format, or a damaged file
        pass
    return None


def as_shown(pixel_aspect: Fraction, turn: Turn | None) -> Fraction:
    """Width / height of a pixel after the picture is turned; 1 if the value is implausible."""
    if not 1 / MOST_ASPECT <= pixel_aspect <= MOST_ASPECT:
        return Fraction(1)
    return 1 / pixel_aspect if turn and turn.lays_down else pixel_aspect


def _read_moov(path: Path) -> bytes:
    """Content of an MP4 file's header; empty if there is none."""
    with path.open("rb") as file:
        for kind, end in _mp4_boxes(file):
            if kind == b"moov":
                return file.read(min(end - file.tell(), path.stat().st_size))
    return b""


def _is_video(track: bytes) -> bool:
    return _find(track, b"mdia", b"hdlr")[0][8:12] == b"vide"


def _shows_all(track: bytes, movie_scale: int) -> bool:
    """Whether a track's edit list, if it has one, shows the track once and whole."""
    scale, duration = _times(_find(track, b"mdia", b"mdhd")[0])
    lists = _find(track, b"edts", b"elst")
    if not lists:
        return True
    edits = lists[0]
    is_long = edits[0] != 0  # version 1 has numbers of 64 bits
    entry = struct.Struct(">Qq4x" if is_long else ">Ii4x")  # length, start in the track
    count = struct.unpack_from(">I", edits, 4)[0]
    entries = entry.iter_unpack(edits[8 : 8 + count * entry.size])
    shown = [length for length, start in entries if start != -1]  # a start of -1 is a pause
    if len(shown) != 1:
        return False
    return shown[0] == 0 or shown[0] / movie_scale > duration / scale - ROUNDING


def _times(header: bytes) -> tuple[int, int]:
    """Units per second, and the duration in these units, from an `mvhd` or `mdhd` box."""
    is_long = header[0] != 0
    return (
        struct.unpack_from(">IQ", header, 20) if is_long else struct.unpack_from(">II", header, 12)
    )


def _find(data: bytes, kind: bytes, *inner: bytes) -> list[bytes]:
    """Contents of the MP4 boxes of a kind in `data`.

    With `inner`: contents of the boxes of these kinds inside them, one level for each kind.
    """
    file = io.BytesIO(data)
    found = [data[file.tell() : end] for name, end in _mp4_boxes(file) if name == kind]
    if not inner:
        return found
    return list(chain.from_iterable(_find(content, *inner) for content in found))


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kinds and ends of successive boxes, with `file` at the start of each one's content.

    The last box may end beyond the end of the file.
    """
    size = file.seek(0, io.SEEK_END)
    start = 0
    while start < size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        content = 8
        if length == 1:
            length, content = int.from_bytes(head[8:], "big"), 16
        # A length of 0 means "up to the end"; other kinds and lengths here mean no MP4.
        if not kind.isalnum() or length < content:
            return
        file.seek(start + content)
        start += length
        yield kind, start


def _riff_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Ends of an AVI's RIFF blocks; above 1 GB it has several."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in STREAMED:
            return
        start += 8 + length
        yield start
        start += length % 2


def _gif_end(file: BinaryIO) -> int:
    """End of a GIF's last block; beyond the file's end if that cuts a block or ends no GIF."""
    file.seek(10)
    file.seek(_color_bytes(file) + 2, 1)  # with the numbers of the background and the aspect
    while (kind := file.read(1)) in (b",", b"!"):  # a picture, or an extension
        if kind == b",":
            file.seek(8, 1)  # place and size
            file.seek(_color_bytes(file), 1)
        file.seek(1, 1)  # the picture's code size, or the extension's label
        while length := int.from_bytes(file.read(1), "big"):
            file.seek(length, 1)
    return file.tell() + (kind == b"")


def _color_bytes(file: BinaryIO) -> int:
    """Length of the colour table that a GIF's next byte announces."""
    flags = int.from_bytes(file.read(1), "big")
    return 3 * 2 ** (flags % 8 + 1) if flags >= 128 else 0


def _matroska_ends(file: BinaryIO) -> Iterator[int]:
    """Yield the end of the segment, which has all frames, if its length is known."""
    file.seek(4)
    header = _read_length(file)
    if header is None:
        return
    file.seek(header, 1)
    if file.read(4) != SEGMENT:
        return
    length = _read_length(file)
    if length is not None:
        yield file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """Length of a Matroska element; None if the file ends or marks the length as unknown.

    The number of leading zeros in the first byte says how many bytes follow. Each byte has 7 bits
    of the length; if all of them are ones, the length is unknown.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    all_ones = (1 << 7 * (more + 1)) - 1
    value = int.from_bytes(first + file.read(more), "big") & all_ones
    return None if value == all_ones else value
