"""Decode JPEGs, and notice those whose pixels are damaged.

libjpeg, in OpenCV, makes a picture of any bytes. What it stumbles over it prints, and tells nobody
else, so its output is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from rbsf.system.streams import stderr_to

START = b"\xff\xd8"
COMPLAINT = re.compile(rb"(?:Corrupt JPEG data|Premature end of JPEG file).*\n?")
LEFT_OVER = re.compile(r"(\d+) extraneous bytes")
MOST_LEFT_OVER = 8  # bytes; some cameras write as many too many into a picture that is whole
# The table of an MPO, in either order of bytes: the entry 0xB001, one number of 32 bits.
TABLE = re.compile(
    rb"MPF\0(?:II\*\0.{6,30}?\x01\xb0\x04\0\x01\0{3}(?P<II>.{4})"
    rb"|MM\0\*.{6,30}?\xb0\x01\0\x04\0{3}\x01(?P<MM>.{4}))",
    re.DOTALL,
)
HEARD = os.name == "posix"  # on Windows, OpenCV's standard error is not Python's


def decode_jpeg(data: np.ndarray, flags: int) -> tuple[np.ndarray | None, str]:
    """A JPEG as `cv2.imdecode` gives it, and libjpeg's word on damaged pixels, or "".

    This takes 0.02 ms more. Raises cv2.error for a picture larger than OpenCV reads.
    """
    if not HEARD:
        return cv2.imdecode(data, flags), ""
    image, output = _decode_and_listen(data, flags)
    others = COMPLAINT.sub(b"", output)
    if others:  # written meanwhile by other threads
        os.write(2, others)
    found = COMPLAINT.search(output)
    complaint = found[0].decode("latin-1").strip() if found else ""
    left_over = LEFT_OVER.search(complaint)
    harmless = left_over is not None and int(left_over[1]) <= MOST_LEFT_OVER
    return image, "" if harmless else complaint


def count_jpegs(path: Path) -> int:
    """Number of pictures that a JPEG's table lists, as MPO files have it; 1 if there is none."""
    with path.open("rb") as file:
        found = TABLE.search(file.read(1 << 18))
    if found is None:
        return 1
    order: Literal["little", "big"] = "little" if found["II"] else "big"
    return int.from_bytes(found["II"] or found["MM"], order)


def _decode_and_listen(data: np.ndarray, flags: int) -> tuple[np.ndarray | None, bytes]:
    """A picture, and what was written to standard error while it was decoded."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)  # a process begun meanwhile may keep the other end open
    try:
        with stderr_to(writer):
            image = cv2.imdecode(data, flags)
    finally:
        os.close(writer)
        output = _read(reader)
        os.close(reader)
    return image, output


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)  # all that a pipe holds
    except BlockingIOError:
        return b""
