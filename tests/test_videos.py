"""Videos whose headers say little.

Whole files have another number of frames, uneven times or odd rates; pipes and streams have no
header of use.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
from test_frames import damage, drain, noisy, picture, write_video

from rbsf.datasets.video.containers import display_turn, is_cut_short, shows_all_frames
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.sources import count_frames
from rbsf.datasets.video.writer import VideoWriter


def edit(path: Path, mark: bytes, skip: int, value: bytes) -> Path:
    """Write `value` over the bytes that begin `skip` bytes behind the start of `mark`."""
    data = bytearray(path.read_bytes())
    place = data.index(mark) + skip
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def misleading(path: Path, said: int) -> Path:
    """A whole video of 40 frames at 25 a second, whose header says another number."""
    write_video(path, noisy(40))
    if path.suffix == ".mkv":
        return edit(path, b"\x44\x89\x88", 3, struct.pack(">d", said * 40.0))  # duration in ms
    if path.suffix == ".avi":
        edit(path, b"strh", 40, struct.pack("<I", said))
        return edit(path, b"avih", 24, struct.pack("<I", said))
    return edit(path, b"elst", 12, struct.pack(">I", 800))  # shows the first 0.8 s of 1.6 s


def uneven(path: Path) -> Path:
    """An .mkv of 10 frames: five are 40 ms apart, and five more follow after 1 s."""
    data = bytearray(write_video(path, [picture()] * 10).read_bytes())
    for block in list(
        re.finditer(rb"[\x80-\xff]\x81(..)[\x00\x80]\x00\x00\x01[\xb0-\xb6]", data, re.DOTALL)
    )[5:]:
        data[slice(*block.span(1))] = struct.pack(">h", struct.unpack(">h", block[1])[0] + 1000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "said", "shown"), [("a.mkv", 50, 40), ("a.avi", 50, 40), ("a.mp4", 40, 20)]
)
def test_a_whole_video_is_not_broken_whatever_its_header_says(
    tmp_path: Path, name: str, said: int, shown: int
) -> None:
    path = misleading(tmp_path / name, said)
    frames = open_frames(path)
    assert frames.count == said
    assert drain(iter(frames)) == (shown, "")
    assert count_frames(path) == shown


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_a_file_cut_short_is_broken_whatever_its_header_says(tmp_path: Path, name: str) -> None:
    count, message = drain(iter(open_frames(damage(misleading(tmp_path / name, 50), keep=0.6))))
    assert 10 < count < 30
    assert f"{count} of the 50 frames" in message


def test_an_mp4_of_which_the_end_never_came_is_broken(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", noisy(40))
    data = path.read_bytes()
    # A download that reserved its room looks like this.
    damage(path, zero=(0.5, data.index(b"moov") / len(data) - 0.01))
    count, message = drain(iter(open_frames(path)))
    assert 10 < count < 30
    assert f"{count} of the 40 frames" in message


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if length is None else length, kind) + content


def gif(pictures: int) -> bytes:
    """A GIF of 32 x 16 pixels, of which each picture paints the first."""
    screen, colors = struct.pack("<HH", 32, 16), b"\xf0\0\0" + b"\0\0\0\xff\xff\xff"
    picture = b"\x21\xf9\4\0\x0a\0\0\0," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2\x44\1\0"
    return b"GIF89a" + screen + colors + picture * pictures + b";"


def test_a_gif_without_its_end_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif(5))
    assert drain(iter(open_frames(tmp_path / "a.gif"))) == (5, "")
    (tmp_path / "a.gif").write_bytes(gif(5)[:-25])
    count, message = drain(iter(open_frames(tmp_path / "a.gif")))
    assert f"a.gif is cut short or damaged: {count} frames could be decoded" in message


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (gif(2), False),
        (gif(2) + b"\0" * 20, False),
        (gif(2)[:-1] + b"\0" * 20, False),  # rubbish in place of the end
        (gif(2)[:-1], True),
        (gif(2)[:-3], True),
        (gif(2)[:30], True),
        (box(b"ftyp", b"isom") + box(b"mdat", b"12345678"), False),
        (box(b"ftyp", b"isom") + box(b"mdat", b"12345678", 17), True),
        (box(b"ftyp", b"isom") + box(b"mdat", b"12345678", 0), False),  # to the end of the file
        (box(b"ftyp", b"isom") + box(b"mdat", struct.pack(">Q", 16), 1), False),  # 64-bit length
        (box(b"ftyp", b"isom") + box(b"mdat", struct.pack(">Q", 1 << 33), 1), True),
        (box(b"ftyp", b"isom") + b"\0\0\0\1mdat\0\0", False),  # the length itself is cut
        (b"\0\0\0\1moov" + b"\x7f" + b"\xff" * 7, True),
        # Here rubbish lies behind the boxes.
        (
            box(b"ftyp", b"isom") + box(b"mdat", b"12345678") + b"\xff" * 20,
            False,
        ),
        (struct.pack("<4sI", b"RIFF", 8) + b"AVI LIST", False),
        (struct.pack("<4sI", b"RIFF", 9) + b"AVI LIST", True),
        (struct.pack("<4sI", b"RIFF", 0xFFFFFFFF) + b"AVI LIST", False),  # as written to a pipe
        (
            (2 * (struct.pack("<4sI", b"RIFF", 8) + b"AVI LIST"))[:-1],
            True,
        ),  # the second of two parts
        (b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x82cd", False),
        (b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x40\x03cd", True),
        (
            b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"cd",
            False,
        ),  # a live stream
        (b"\x1a\x45\xdf\xa3", False),
        (b"G@\x11\x10" * 40, False),  # a transport stream declares no length
        (b"", False),
    ],
)
def test_lengths_that_containers_declare_are_read(tmp_path: Path, data: bytes, cut: bool) -> None:
    (tmp_path / "a").write_bytes(data)
    assert is_cut_short(tmp_path / "a") is cut
    assert not shows_all_frames(tmp_path / "a")
    assert display_turn(tmp_path / "a") is None


def test_frames_have_their_own_times(tmp_path: Path) -> None:
    times = [seconds for _, seconds in open_frames(uneven(tmp_path / "a.mkv")).start()]
    assert times == pytest.approx(
        [0, 0.04, 0.08, 0.12, 0.16, 1.2, 1.24, 1.28, 1.32, 1.36], abs=0.002
    )


def test_frames_without_timestamps_are_timed_by_the_mean_rate(tmp_path: Path) -> None:
    path = tmp_path / "raw.mjpeg"
    path.write_bytes(b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in noisy(10)))
    frames = open_frames(path)
    assert frames.count is None
    times = [seconds for _, seconds in frames.start()]
    assert frames.fps is not None
    assert all(b - a == pytest.approx(1 / frames.fps) for a, b in pairwise(map(float, times)))


@pytest.mark.parametrize("fps", [0.5, 1000, 5000])
def test_slow_and_fast_videos_keep_their_rate(tmp_path: Path, fps: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps) as video:
        for _ in range(12):
            video.write(picture())
    frames = open_frames(tmp_path / "a.mp4")
    assert frames.fps == pytest.approx(fps)
    assert [seconds for _, seconds in frames.start()] == pytest.approx([i / fps for i in range(12)])


def test_a_rate_that_is_a_unit_of_time_is_not_believed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [picture()] * 12)
    edit(path, b"\x23\xe3\x83", 4, (1_000_000).to_bytes(4, "big"))  # says that a frame lasts 1 ms
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 1000
    assert open_frames(path).fps == pytest.approx(25)


def serve(path: Path, pipe: Path) -> Path:
    """Make a named pipe, into which a file is written once it is read."""
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True).start()
    return pipe


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", noisy(10), "MJPG")
    frames = open_frames(serve(path, tmp_path / "pipe"))
    images = list(frames)
    assert all((a == b).all() for a, b in zip(images, open_frames(path), strict=True))
    with pytest.raises(ValueError, match=r"pipe can be read only once; save it to a file"):
        next(iter(frames))


def test_a_pipe_of_which_nothing_can_be_decoded_is_named(tmp_path: Path) -> None:
    # Its index is at the end, and a pipe cannot go back.
    path = write_video(tmp_path / "a.mp4", noisy(40))
    with pytest.raises(ValueError, match=r"pipe opens, but no frame comes; an \.mp4 can"):
        open_frames(serve(path, tmp_path / "pipe"))


def test_urls_go_to_ffmpeg(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", noisy(10))
    frames = open_frames(f"file://{path}")
    assert (frames.count, frames.fps) == (10, 25)
    assert [seconds for _, seconds in frames.start()] == pytest.approx([i / 25 for i in range(10)])
    message = r"rtsp://127\.0\.0\.1:1/x cannot be opened as a video; is the address right"
    with pytest.raises(ValueError, match=message):
        next(iter(open_frames("rtsp://127.0.0.1:1/x")))
