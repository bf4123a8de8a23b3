from __future__ import annotations

import os
import re
import resource
import struct
import warnings
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from requirements import needs

from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.images import list_images, read_image
from rbsf.datasets.video.pyav_reader import PyavReader, is_installed
from rbsf.datasets.video.sources import BrokenVideo, read_video_frame
from rbsf.datasets.video.writer import VideoWriter, fit

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def picture(color: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], 3), color, dtype=np.uint8)


def noisy(count: int, seed: int = 0) -> list[np.ndarray]:
    """Frames that do not compress away, so that cutting a file loses frames."""
    rng = np.random.default_rng(seed)
    return [
        cv2.resize(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), (128, 96))
        for _ in range(count)
    ]


def write_video(path: Path, frames: list[np.ndarray], codec: str = "mp4v") -> Path:
    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, size)
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def damage(path: Path, *, keep: float = 1.0, zero: tuple[float, float] = (0, 0)) -> Path:
    """Cut a file to a share of its bytes, and overwrite those between two shares with zeros."""
    data = bytearray(path.read_bytes())
    first, last = (int(len(data) * share) for share in zero)
    data[first:last] = bytes(last - first)
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def drain(frames: Iterator[np.ndarray]) -> tuple[int, str]:
    """The number of good frames, and the message where they break off, else an empty one."""
    count = 0
    try:
        for _ in frames:
            count += 1
    except BrokenVideo as error:
        return count, str(error)
    return count, ""


# --- images


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        (np.full((4, 5), 77, np.uint8), (77, 77, 77)),  # gray
        (np.full((4, 5, 3), (10, 20, 30), np.uint8), (30, 20, 10)),  # OpenCV stores BGR
        (np.full((4, 5, 4), (10, 20, 30, 128), np.uint8), (30, 20, 10)),  # half transparent
        (np.full((4, 5), 77 * 257, np.uint16), (77, 77, 77)),  # 16 bits
    ],
)
def test_any_channels_and_depth_become_rgb(
    tmp_path: Path, stored: np.ndarray, seen: tuple[int, ...]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert tuple(image[0, 0]) == seen


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg does not exist"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_an_image_cut_short_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), noisy(1)[0])
    damage(path, keep=keep)
    with pytest.raises(ValueError, match=rf"cut\{suffix} is (empty|not an image, or is cut short)"):
        read_image(path)


def damaged_jpeg(path: Path) -> Path:
    """A JPEG with wrong bytes in its middle, of which OpenCV makes a picture all the same."""
    data = bytearray(cv2.imencode(".jpg", noisy(1)[0])[1].tobytes())
    half = len(data) // 2
    data[half : half + 60 : 3] = b"\x5a" * 20
    path.write_bytes(data)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    return path


def test_a_jpeg_with_wrong_bytes_inside_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = damaged_jpeg(tmp_path / "wrong.jpg")
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"wrong\.jpg is damaged \(Corrupt JPEG data: "):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_bytes_left_over_in_a_whole_jpeg_are_no_damage(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", noisy(1)[0])[1].tobytes()
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "padded.jpg").write_bytes(data[:-2] + b"\0\0\0" + data[-2:])
    images = [read_image(tmp_path / name) for name in ("whole.jpg", "padded.jpg")]
    assert np.array_equal(*images)


def test_what_others_write_while_a_jpeg_is_decoded_is_passed_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    imdecode = cv2.imdecode

    def interrupted(data: np.ndarray, flags: int) -> np.ndarray | None:
        os.write(2, b"from another thread\n")
        return imdecode(data, flags)

    cv2.imwrite(str(tmp_path / "whole.jpg"), picture())
    monkeypatch.setattr(cv2, "imdecode", interrupted)
    read_image(tmp_path / "whole.jpg")
    assert capfd.readouterr().err == "from another thread\n"


@pytest.mark.skipif(not hasattr(cv2, "imwriteanimation"), reason=needs("opencv", "OpenCV is old"))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_animated_image_has_its_own_clock(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"slow{suffix}"
    animation = cv2.Animation()
    animation.frames = [picture((value,) * 3)[..., 0] for value in (20, 120, 220)]  # gray
    animation.durations = np.array([500, 250, 250])
    assert cv2.imwriteanimation(str(path), animation)
    frames = open_frames(path)
    assert (frames.count, frames.fps) == (3, 3.0)
    assert [seconds for _, seconds in frames.start()] == [0.0, 0.5, 0.75]
    assert {image.shape for image in frames} == {(48, 64, 3)}
    damage(path, keep=0.5)
    with pytest.raises(ValueError, match=rf"slow\{suffix} is not an image, or is cut short"):
        open_frames(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_of_several_pictures_is_no_video(tmp_path: Path, order: str) -> None:
    jpeg = cv2.imencode(".jpg", picture())[1].tobytes()
    start = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHI4sHHIII", 0xB000, 7, 4, b"0100", 0xB001, 4, 1, 16, 0)
    table = b"MPF\0" + start + struct.pack(order + "IH", 8, 2) + entries
    data = jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(table) + 2) + table + jpeg[2:]
    (tmp_path / "a.mpo").write_bytes(data * 16)
    with pytest.raises(ValueError, match=r"a\.mpo holds 16 pictures, of which only the first"):
        open_frames(tmp_path / "a.mpo")
    (tmp_path / "phone.jpg").write_bytes(data * 2)
    assert read_image(tmp_path / "phone.jpg").shape == (48, 64, 3)
    assert len(list(open_frames(tmp_path / "phone.jpg"))) == 1


# --- folders, patterns, cameras


def test_images_come_in_natural_order_and_may_change_size(tmp_path: Path) -> None:
    for number, size in ((10, (30, 20)), (2, (64, 48)), (1, (8, 8))):
        cv2.imwrite(str(tmp_path / f"f{number}.png"), picture(size=size))
    (tmp_path / "notes.txt").write_text("not a frame")
    frames = open_frames(tmp_path)
    assert (frames.count, frames.fps) == (3, None)
    assert [f.shape[:2] for f in frames] == [(8, 8), (48, 64), (20, 30)]
    assert len(list(frames)) == 3  # a second time
    assert [f.shape[:2] for f in open_frames(f"{tmp_path}/f1*.png")] == [(8, 8), (20, 30)]
    assert [f.shape[:2] for f in open_frames(f"{tmp_path}/f%d.png")] == [(8, 8), (48, 64), (20, 30)]
    assert open_frames(tmp_path / "f2.png").count == 1


def test_a_sequence_folder_is_entered(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    cv2.imwrite(str(tmp_path / "img" / "0001.jpg"), picture())
    assert open_frames(tmp_path).count == 1
    assert list_images(tmp_path) == []


@pytest.mark.parametrize("source", ["", "*.jpg"])
def test_a_source_without_images_says_so(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=r"holds no images; looked for \.jpg"):
        open_frames(f"{tmp_path}/{source}")


def test_a_broken_image_among_good_ones_ends_the_run_there(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture())
    (tmp_path / "2.jpg").write_bytes(b"")
    frames = iter(open_frames(tmp_path))
    next(frames)
    with pytest.raises(ValueError, match=r"2\.jpg is empty"):
        next(frames)


def test_a_missing_source_or_camera_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        open_frames("nowhere.mp4")
    with pytest.raises(ValueError, match="camera 97 cannot be opened"):
        open_frames("97")


# --- videos


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.mov"])
def test_written_videos_read_back(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, 12.5) as video:
        for color in 3 * [RED] + 3 * [GREEN] + 3 * [BLUE]:
            video.write(picture(color))
    frames = open_frames(tmp_path / name)
    assert (frames.count, frames.fps) == (9, pytest.approx(12.5))
    images = list(frames)
    assert [i.shape for i in images] == 9 * [(48, 64, 3)]
    for image, color in zip(
        images[1::3], (RED, GREEN, BLUE), strict=True
    ):  # RGB goes in and comes out
        assert np.abs(image.mean(axis=(0, 1)) - color).max() < 12
    assert np.array_equal(read_video_frame(tmp_path / name, 4), images[4])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def write_transport_stream(path: Path, images: list[np.ndarray]) -> None:
    """An MPEG transport stream with frames out of order, in which OpenCV finds wrong frames."""
    av = pytest.importorskip("av", reason=needs("pyav", "the test writes a transport stream"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "g": "8"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_frames_of_a_file_without_an_index_are_found(tmp_path: Path) -> None:
    write_transport_stream(tmp_path / "a.ts", noisy(20))
    images = list(open_frames(tmp_path / "a.ts"))
    assert len(images) == 20
    for number in (5, 6, 12, 12, 3, 0, 19):
        assert np.array_equal(read_video_frame(tmp_path / "a.ts", number), images[number])
    with pytest.raises(ValueError, match=r"frame 20 of video .*a\.ts cannot be decoded"):
        read_video_frame(tmp_path / "a.ts", 20)
    assert np.array_equal(read_video_frame(tmp_path / "a.ts", 1), images[1])


def test_pyav_tells_of_frames_with_errors_once(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    write_transport_stream(path, noisy(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(PyavReader(path))) == 20
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 4000 : 40] = b"\x5a" * 100
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"a\.ts is damaged: from frame \d+ on") as told:
        assert len(list(PyavReader(path))) > 10
    assert len(told) == 1


def test_a_small_file_does_not_take_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, colors = struct.pack("<HH", 16_000, 16_000), b"\xf0\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\4\0\x0a\0\0\0," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2\x44\1\0"
    (tmp_path / "large.gif").write_bytes(b"GIF89a" + screen + colors + frame * 3 + b";")
    monkeypatch.setattr("rbsf.datasets.video.images.most_pixels", lambda: 1 << 26)
    with pytest.raises(ValueError, match=r"large\.gif has 16000 x 16000 pixels, more than"):
        open_frames(tmp_path / "large.gif")
    if is_installed():
        with pytest.raises(ValueError, match=r"large\.gif has 16000 x 16000 pixels, more than"):
            PyavReader(tmp_path / "large.gif")
    cv2.imwritemulti(str(tmp_path / "s.tiff"), [picture()] * 3)
    assert len(list(open_frames(tmp_path / "s.tiff"))) == 3
    monkeypatch.setattr("rbsf.datasets.video.images.most_pixels", lambda: 64 * 48 // 2)
    with pytest.raises(ValueError, match=r"s\.tiff holds 3 pictures of 64 x 48 pixels, more than"):
        open_frames(tmp_path / "s.tiff")


def test_an_empty_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.mp4").touch()
    with pytest.raises(ValueError, match=r"e\.mp4 is empty \(0 bytes\)"):
        open_frames(tmp_path / "e.mp4")


@pytest.mark.parametrize("keep", [0.1, 0.9])
def test_an_mp4_cut_before_its_table_cannot_be_opened(
    tmp_path: Path, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = damage(write_video(tmp_path / "cut.mp4", noisy(20)), keep=keep)
    with pytest.raises(ValueError, match=r"cut\.mp4 cannot be opened as a video: cut short"):
        open_frames(path)
    assert capfd.readouterr().err == ""  # ffmpeg prints nothing of its own


def test_text_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x,y,w,h\n" * 100)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be opened as a video"):
        open_frames(tmp_path / "a.mp4")


def test_a_file_of_sound_is_said_to_hold_no_pictures(tmp_path: Path) -> None:
    pytest.importorskip("av", reason=needs("pyav", "OpenCV cannot tell"))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    (tmp_path / "sound.wav").rename(tmp_path / "sound.mp4")
    with pytest.raises(ValueError, match=r"sound\.mp4 holds no pictures, only sound or text"):
        open_frames(tmp_path / "sound.mp4")


def test_a_video_of_zeros_where_frames_should_be_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "z.mp4", noisy(20))
    data = path.read_bytes()
    # Only the table of frames is left.
    first, last = data.index(b"mdat") + 4, data.index(b"moov") - 4
    damage(path, zero=(first / len(data), last / len(data)))
    with pytest.raises(ValueError, match=r"z\.mp4 opens, but not one frame of it can be decoded"):
        open_frames(path)


@pytest.mark.parametrize(
    ("name", "codec"), [("b.avi", "MJPG"), ("b.avi", "mp4v"), ("b.mkv", "mp4v")]
)
def test_a_video_that_breaks_off_gives_its_good_frames_first(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = damage(write_video(tmp_path / name, noisy(40), codec), keep=0.5)
    frames = open_frames(path)
    count, message = drain(iter(frames))
    assert 10 < count < 30
    assert re.search(
        rf"{count} of the 40 frames that its header promises .*\(0 to {count - 1}\)", message
    )
    assert next(iter(frames)).shape == (96, 128, 3)


def test_damage_in_the_middle_of_an_mp4_is_told(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "m.mp4", noisy(40)), zero=(0.5, 0.7))
    count, message = drain(iter(open_frames(path)))
    assert 10 < count < 39
    assert f"m.mp4 is damaged: frames {count} to " in message


def test_a_video_without_one_good_frame_is_told(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason=needs("pyav", "the test writes AV1"))
    path = tmp_path / "m.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libsvtav1", 25, options={"svtav1-params": "logical-processors=1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for image in noisy(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    end = data.index(b"moov", start) - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(BrokenVideo, match=r"m\.mp4 is damaged: none of its frames"):
        list(open_frames(path))


def test_whole_videos_from_elsewhere_do_not_count_as_broken(
    real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "OTB" / "Dog" / "img"
    with VideoWriter(tmp_path / "dog.mp4", 30) as video:
        for image in open_frames(folder):
            video.write(image)
    assert drain(iter(open_frames(tmp_path / "dog.mp4"))) == (127, "")


# --- the writer


def test_the_first_frame_fixes_an_even_size(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        for size in ((65, 49), (64, 48), (200, 50), (20, 20)):
            video.write(picture(size=size))
    assert [f.shape for f in open_frames(tmp_path / "a.mp4")] == 4 * [(48, 64, 3)]


def test_other_sizes_are_fitted_with_bars() -> None:
    wide = fit(picture(size=(200, 50)), (64, 48))  # 64 x 16 pixels in the middle
    assert wide.shape == (48, 64, 3)
    assert wide[:16].max() == wide[32:].max() == 0
    assert np.array_equal(wide[16:32], picture(size=(64, 16)))
    assert np.array_equal(fit(picture(size=(65, 49)), (64, 48)), picture())


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [
        ("a.txt", 25, r"a\.txt: give a name that ends in one of \.mp4"),
        ("a.mp4", 0, "at 0 frames per second"),
        ("a.mp4", float("nan"), "at nan frames per second"),
        ("folder.mp4", 25, r"folder\.mp4: it is a folder"),
        ("file/a.mp4", 25, r"cannot write .*a\.mp4: (Not a directory|File exists)"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, name: str, fps: float, message: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / name, fps):
        pass


def write_all(path: Path, images: Iterable[np.ndarray]) -> None:
    with VideoWriter(path, 25) as video:
        for image in images:
            video.write(image)


def test_a_failed_run_leaves_the_old_video_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(AttributeError):
        write_all(path, [picture(), None])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.mp4: .*is the disk full"):
            write_all(tmp_path / "a.mp4", noisy(60))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
