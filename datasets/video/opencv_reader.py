"""Read video files with OpenCV, and detect files that it does not read correctly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.video.codecs import MAX_FPS
from rbsf.datasets.video.containers import as_shown, display_turn, has_index
from rbsf.datasets.video.images import check_video_size, encodable

COMMON_FPS = 240  # a higher rate in a header is usually its time unit, such as 1/600 s
MEASURED_FRAMES = 10  # frames whose timestamps give the rate if the header is doubtful
ATTEMPTS = 25  # a video has ended after so many failed reads in a row
NOT_DECODED = {"av01": "AV1", "vvc1": "VVC"}  # codecs that OpenCV's packages lack
# A program that only reads frames, so that its output holds FFmpeg's messages.
READ_ALONE = """
import sys, cv2
capture = cv2.VideoCapture(sys.argv[1])
for _ in range(int(sys.argv[2])):
    capture.read()
"""

# A frame, `[H, W, 3]` uint8 RGB, or None if it cannot be decoded; and its timestamp in seconds.
Stamped = tuple[np.ndarray | None, float]


class OpenCvReader:
    """Frames of a video file.

    `count` and `fps` come from the header, or are None if it does not have them. `count` is an
    estimate: it includes frames that an edit list cuts, and sound that lasts longer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = open_capture(path)
        self.count = header_count(capture)
        self.fps = _mean_rate(capture)
        self.seeks = has_index(path)  # whether `frame` finds its frame
        turn = display_turn(path)
        self.pixel_aspect = as_shown(_stored_aspect(capture), turn)
        capture.release()
        self._turn = turn if turn and turn.mirrors else None  # OpenCV turns but does not mirror

    def __iter__(self) -> Iterator[Stamped]:
        """All frames; None in place of one that cannot be decoded.

        Raises ValueError if OpenCV reports a frame as read but did not write it.
        """
        capture = self._open()
        last, number, bad, checked = None, 0, 0, False
        try:
            while bad < ATTEMPTS:
                good, image = capture.read()
                if not good or image is None:
                    bad += 1
                    continue
                yield from [(None, 0.0)] * bad
                number, bad = number + bad + 1, 0
                image = self._upright(image)
                if not checked and last is not None and is_same(image, last):
                    checked = True
                    self._check_written(number)
                yield image, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                last = image
        finally:
            capture.release()

    def _check_written(self, frames: int) -> None:
        if leaves_frames_unwritten(self.path, frames):
            raise ValueError(
                f"video {self.path} {INTERLACED} from frame {frames - 2} on; {advice(self.path)}"
            )

    def frame(self, index: int) -> np.ndarray:
        """Frame `index`, from 0, by a seek; ValueError where it cannot be decoded.

        For files whose `seeks` is True.
        """
        capture = self._open()
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, image = capture.read()
        capture.release()
        if not good:
            raise ValueError(
                f"frame {index} of video {self.path} cannot be decoded; is the file whole?"
            )
        return self._upright(image)

    def _open(self) -> cv2.VideoCapture:
        capture = open_capture(self.path)
        if self._turn:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return capture

    def _upright(self, image: np.ndarray) -> np.ndarray:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self._turn.apply(image) if self._turn else image


INTERLACED = f"is interlaced, which OpenCV {cv2.__version__} does not read"


def advice(path: Path) -> str:
    """What to do with a video that OpenCV does not read."""
    return (
        "install PyAV (pip install 'rbsf[video]'), or convert the video:"
        f" ffmpeg -i {path.name} -vf yadif=deint=1 -map 0:V:0 -c:v libx264 -crf 12 converted.mp4"
    )


def _codec(capture: cv2.VideoCapture) -> int:
    """The four characters of the codec as a number of 32 bits; 0 if nothing is open."""
    if not capture.isOpened():
        return 0
    return int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF


def fault_of(path: Path) -> str | None:
    """Say why OpenCV cannot be trusted to read a video file; None if it can be.

    Raises ValueError for a file that is damaged.
    """
    capture = open_capture(path)
    codec = _codec(capture)
    (good, first), (again, second) = capture.read(), capture.read()
    opened = capture.isOpened()
    capture.release()
    name = codec.to_bytes(4, "little").decode("latin-1").lower()
    if not opened:
        return (
            "cannot be opened as a video: cut short, damaged, of an unknown format or without"
            " pictures"
        )
    if not good and name in NOT_DECODED:
        return f"has the codec {NOT_DECODED[name]}, which OpenCV does not decode"
    if not good:
        problem = "not one frame of it can be decoded: it is cut short or damaged"
        raise ValueError(f"video {path} opens, but {problem}")
    if not again:
        return "has a single frame as OpenCV reads it, which may be its cover picture"
    if is_same(first, second) and leaves_frames_unwritten(path, 2):
        return INTERLACED
    return None


def leaves_frames_unwritten(path: Path, frames: int) -> bool:
    """Whether OpenCV returns unwritten memory for one of the first `frames` frames of a video.

    OpenCV 5 does so with interlaced video and reports the frame as read. Only a message of FFmpeg's
    shows it, so a separate process reads the video and its messages are searched.
    """
    loud = {**os.environ, "OPENCV_FFMPEG_LOGLEVEL": "16"}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALONE, encodable(path), str(frames)],
        env=loud,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return b"annot convert interlaced" in done.stdout


def is_same(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images are equal.  A few pixels are compared first."""
    if image.shape != other.shape or not np.array_equal(image[::64, ::64], other[::64, ::64]):
        return False
    return np.array_equal(image, other)


def open_capture(path: Path) -> cv2.VideoCapture:
    """A file as OpenCV opens it.

    Raises ValueError for a name that is not UTF-8, and for frames of more pixels than are read.
    """
    capture = cv2.VideoCapture(encodable(path))
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    check_video_size(path, width, height)
    return capture


def header_count(capture: cv2.VideoCapture) -> int | None:
    """Number of frames according to the header."""
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None


def header_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames a second according to the header."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MAX_FPS else None


def _stored_aspect(capture: cv2.VideoCapture) -> Fraction:
    """Width / height of a stored pixel; 1 if the file does not say."""
    width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    return Fraction(width, height) if width > 0 and height > 0 else Fraction(1)


def _mean_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames a second according to the header.

    If that rate is uncommonly high, the rate is measured from timestamps, if they rise.
    """
    fps = header_rate(capture)
    if not fps or fps <= COMMON_FPS:
        return fps
    capture.read()
    stamps = [
        capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(MEASURED_FRAMES) if capture.read()[0]
    ]
    seconds = (stamps[-1] - stamps[0]) / 1000 if stamps else 0.0
    measured = (len(stamps) - 1) / seconds if seconds > 0 else fps
    agree = 0.9 < measured / fps < 1.1  # timestamps may be rounded to milliseconds
    return fps if agree else measured
