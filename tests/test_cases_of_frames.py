"""Frames that caused users trouble: each is read correctly, or refused in a line that says why."""

from __future__ import annotations

import csv
import os
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from requirements import case, needs

from rbsf.datasets.video import pyav_reader
from rbsf.datasets.video.encoders import find_codec
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.images import read_image
from rbsf.datasets.video.opencv_reader import INTERLACED
from rbsf.datasets.video.sources import _choose_reader
from rbsf.eval.metrics import overlaps
from rbsf.tools.track import main as track

FIRST = "20,20,32,32"
with_pyav = pytest.mark.skipif(
    not pyav_reader.is_installed(), reason=needs("pyav", "PyAV is not installed")
)


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch):
    """As on a machine that has no PyAV."""
    monkeypatch.setattr(pyav_reader, "is_installed", lambda: False)
    for found in (_choose_reader, find_codec):
        found.cache_clear()
    yield
    for found in (_choose_reader, find_codec):
        found.cache_clear()


def follow(source: str | Path, folder: Path, tmp_path: Path, frames: int = 0) -> np.ndarray:
    """The overlap of the box that the program tracks with the true square, for each frame."""
    boxes = tmp_path / "boxes.csv"
    assert track(["--video", str(source), "--init", FIRST, "--boxes", str(boxes), "--no-out"]) == 0
    rows = list(csv.DictReader(boxes.open()))
    found = np.array([[float(row[key]) for key in "xywh"] for row in rows])
    truth = np.loadtxt(folder / "truth.txt", delimiter=",")[: frames or None]
    assert len(found) == len(truth)
    return overlaps(found, truth)


@with_pyav
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("01-interlaced", "interlaced.mp4"),
        ("01-interlaced", "progressive.mp4"),
        ("06-animated-images", "anim.gif"),
        ("06-animated-images", "anim.webp"),
        ("06-animated-images", "anim.png"),
        ("06-animated-images", "stack.tif"),
        ("07-av1", "av1.webm"),
        ("08-16-bit-counts", "full_range"),
        ("08-16-bit-counts", "ten_bit"),
        ("08-16-bit-counts", "thermal"),
        ("09-one-bad-mjpeg-frame", "badframe.avi"),
        ("05-pattern-takes-other-files", "%05d.png"),
        ("17-brackets-in-pattern", "clip [1]/%04d.jpg"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(stretched|stands in)")
def test_the_target_is_followed(name, source, tmp_path):
    folder = case(name)
    frames = len(list((folder / source).iterdir())) if (folder / source).is_dir() else 0
    assert follow(folder / source, folder, tmp_path, frames).mean() > 0.8


@with_pyav
def test_interlaced_video_reads_the_same_twice():
    path = case("01-interlaced") / "interlaced.mp4"
    first, second = list(open_frames(path)), list(open_frames(path))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("01-interlaced", "interlaced.mp4", INTERLACED),
        ("07-av1", "av1.webm", "has the codec AV1, which OpenCV does not decode"),
    ],
)
@pytest.mark.usefixtures("without_pyav")
def test_what_needs_pyav_is_refused_without_it(name, source, reason):
    path = case(name) / source
    if reason == INTERLACED and int(cv2.__version__.split(".")[0]) < 5:
        assert len(list(open_frames(path))) == 16  # OpenCV 4 reads it rightly
        return
    with pytest.raises(ValueError) as error:
        open_frames(path)
    assert f"{source} {reason}; install PyAV" in str(error.value)


def test_a_bad_frame_is_warned_of_and_numbers_and_times_are_kept():
    with pytest.warns(UserWarning, match="frame 5 cannot be decoded; the one before stands in"):
        frames = list(open_frames(case("09-one-bad-mjpeg-frame") / "badframe.avi").start())
    images, times = zip(*frames, strict=True)
    assert len(images) == 16
    assert np.array_equal(images[5], images[4])
    assert times == pytest.approx([number / 25 for number in range(16)])


@pytest.mark.parametrize("pyav", [True, False])
def test_pixels_that_are_not_square_are_shown_in_their_shape(
    pyav, tmp_path, monkeypatch, request, capsys
):
    """Each is 160x120 stored pixels, twice as wide as high: players show 320x120."""
    if pyav and not pyav_reader.is_installed():
        pytest.skip(needs("pyav", "PyAV is not installed"))
    if not pyav:
        request.getfixturevalue("without_pyav")
    folder = case("26-anamorphic")
    out, boxes = tmp_path / "o.mp4", tmp_path / "b.csv"
    source = str(folder / "sar2.mp4")
    flags = ["--init", FIRST, "--out", str(out), "--boxes", str(boxes)]
    assert track(["--video", source, *flags]) == 0
    stored = next(iter(open_frames(source))).shape
    shown = f"{2 * stored[1]}x{stored[0]}"
    assert f"pixels of the shape 2:1: boxes are in those of its {stored[1]}x{stored[0]} frames" in (
        said := capsys.readouterr().out
    )
    assert f"which players show as {shown}" in said
    written = open_frames(out)
    shape = next(iter(written)).shape
    assert written.pixel_aspect * shape[1] == 2 * stored[1]
    assert shape[0] == stored[0]
    assert written.pixel_aspect == (2 if pyav else 1)
    rows = list(csv.DictReader(boxes.open()))
    found = np.array([[float(row[key]) for key in "xywh"] for row in rows])
    truth = np.loadtxt(folder / "truth.txt", delimiter=",")
    assert overlaps(found, truth[: len(found)]).mean() > 0.8


def test_masks_beside_frames_are_warned_of():
    with pytest.warns(UserWarning, match="2 kinds of names"):
        open_frames(case("18-masks-beside-frames"))


@pytest.mark.parametrize("name", ["float", "avif", "jp2"])
@pytest.mark.filterwarnings("ignore:.*stretched")
def test_other_formats_are_read(name):
    images = list(open_frames(case("21-float-tiff") / name))
    assert len(images) == 4
    assert all(len(np.unique(image)) > 32 for image in images)


def test_an_image_that_claims_too_many_pixels_is_refused():
    with pytest.raises(ValueError, match="is cut short"):
        read_image(case("hostile") / "image.png-hang-9ce8f1fd.png")


def test_missing_numbers_are_warned_of(tmp_path):
    for number in [*range(10), *range(12, 30)]:
        cv2.imwrite(str(tmp_path / f"{number:04}.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.warns(UserWarning, match="frame numbers are missing: 10 to 11;"):
        open_frames(tmp_path)


def test_hidden_files_and_folders_are_no_frames(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / ".b.png"), image)
    (tmp_path / "c.png").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_frames(tmp_path).count == 1


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip(needs("linux", "this file system takes no such name"))
    with pytest.raises(ValueError, match=r"caf\\xe9.mp4 is not valid UTF-8"):
        open_frames(path)


def test_a_mirrored_video_is_read_upright(tmp_path):
    """The display matrix of a phone's front camera: turned by 90 degrees, and mirrored."""
    from rbsf.datasets.video.writer import VideoWriter

    image = np.zeros((64, 96, 3), np.uint8)
    image[:20, :30] = 255  # at the top left
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        for shift in range(3):
            video.write(np.roll(image, shift, axis=1))
    plain = (tmp_path / "a.mp4").read_bytes()
    at = plain.index(b"tkhd") + 4 + 40
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    shapes = {}
    for name, matrix in {
        "down": [one, none, none, none, minus],
        "across": [minus, none, none, none, one],
        "turned": [none, one, none, one, none],
    }.items():
        (tmp_path / f"{name}.mp4").write_bytes(plain[:at] + b"".join(matrix) + plain[at + 20 :])
        shapes[name] = next(iter(open_frames(tmp_path / f"{name}.mp4")))
    assert shapes["down"][-10, 10].min() > 200
    assert shapes["across"][10, -10].min() > 200
    assert shapes["turned"].shape == (96, 64, 3)
    assert shapes["turned"][10, 10].min() > 200


@with_pyav
def test_a_cover_picture_in_front_is_no_video(tmp_path):
    import av

    path = tmp_path / "cover.mkv"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 200, np.uint8), "rgb24")
        for packet in [*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode()]:
            container.mux(packet)
        rng = np.random.default_rng(0)
        for _ in range(12):
            image = rng.integers(0, 256, (120, 160, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode())
    frames = list(open_frames(path))
    assert {frame.shape for frame in frames} == {(120, 160, 3)}
    assert len(frames) == 12


def test_a_repeated_timestamp_spoils_no_later_one():
    from rbsf.datasets.video.sources import _timed

    image = np.zeros((2, 2, 3), np.uint8)
    stamps = [1.0, 1.04, 1.04, 1.2, 1.24]
    times = [seconds for _, seconds in _timed([(image, stamp) for stamp in stamps], 25.0)]
    assert times == pytest.approx([0, 0.04, 0.08, 0.2, 0.24])
    steady = [0.0, 0.04, 0.04, 0.08, 0.12, 0.16]
    times = [seconds for _, seconds in _timed([(image, stamp) for stamp in steady], 25.0)]
    assert times == pytest.approx([0, 0.04, 0.08, 0.08, 0.12, 0.16])


@with_pyav
@pytest.mark.skipif(os.name == "nt", reason=needs("linux", "it makes a named pipe"))
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("01-interlaced", "interlaced.mp4"),
        ("07-av1", "av1.webm"),
        ("09-one-bad-mjpeg-frame", "badframe.avi"),
        ("26-anamorphic", "sar2.mp4"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*frame 5 cannot be decoded")
def test_a_pipe_gives_the_frames_of_the_file(name: str, source: str, tmp_path: Path) -> None:
    file, pipe = case(name) / source, tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()), daemon=True).start()
    piped, whole = open_frames(pipe), open_frames(file)
    assert piped.pixel_aspect == whole.pixel_aspect
    pairs = list(zip(piped, whole, strict=True))
    assert len(pairs) == 16
    assert all(np.array_equal(one, other) for one, other in pairs)


@with_pyav
def test_a_stream_is_turned_as_players_show_it(tmp_path: Path) -> None:
    """The display matrix in the header of an .mp4 says by how much."""
    content = (case("01-interlaced") / "progressive.mp4").read_bytes()
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b = (0).to_bytes(4, "big"), (65536).to_bytes(4, "big")
    minus = (-65536).to_bytes(4, "big", signed=True)
    turns = [((a, b), (minus, a)), ((a, minus), (b, a)), ((minus, a), (a, minus))]
    for first_row, second_row in turns:
        matrix = b"".join((*first_row, a, *second_row, a))
        file = tmp_path / "turned.mp4"
        file.write_bytes(content[:at] + matrix + content[at + 24 :])
        stream, whole = open_frames(f"file://{file}"), open_frames(file)
        for one, other in zip(stream, whole, strict=True):
            np.testing.assert_array_equal(one, other)
