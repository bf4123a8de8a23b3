"""What tools/track.py writes: videos that play, formats of boxes, spans of time, several videos."""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from requirements import needs
from test_siamfc import contrast_backbone, frame
from test_track import START, moving, write_video
from test_videos import uneven

from rbsf.datasets.video import pyav_reader
from rbsf.datasets.video.codecs import CODECS, MPEG4
from rbsf.datasets.video.containers import Turn, as_shown
from rbsf.datasets.video.encoders import Original, best_suffix, find_codec
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.opencv_reader import OpenCvReader
from rbsf.datasets.video.writer import VideoWriter, shown_size
from rbsf.tools.track import main
from rbsf.tools.tracking.jobs import unlike
from rbsf.tools.tracking.recording import MAX_AHEAD, Recorder
from rbsf.tools.tracking.span import Span, place

with_pyav = pytest.mark.skipif(
    not pyav_reader.is_installed(), reason=needs("pyav", "PyAV is not installed")
)
SHIFTED = "--init=115,90,48,36"  # the target's box in frame 5


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rbsf.tracker.flags.DEFAULT", "rbsf")
    monkeypatch.setattr("rbsf.tracker.loading.load_network", lambda *args: contrast_backbone)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", moving(12))


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has no PyAV."""
    monkeypatch.setitem(sys.modules, "av", None)
    find_codec.cache_clear()
    yield
    find_codec.cache_clear()


def read_csv(name: str) -> list[dict[str, str]]:
    with open(name, newline="") as file:
        return list(csv.DictReader(file))


def with_sound(path: Path, codec: str, picture: str = "libx264") -> Path:
    """A video of 20 frames, 100 ms apart but for a gap of 500 ms before the tenth, and sound."""
    import av

    with av.open(str(path), "w") as file:
        stream, sound = file.add_stream(picture, rate=10), file.add_stream(codec, rate=48_000)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound.layout = "mono"
        for number, image in enumerate(moving(20)):
            picture_frame = av.VideoFrame.from_ndarray(image, "rgb24")
            picture_frame.pts = 100 * number + 400 * (number >= 10)
            picture_frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(picture_frame))
        form = sound.codec_context.format.name
        size = sound.codec_context.frame_size or 1024
        resampler = av.AudioResampler(form, "mono", 48_000, size)
        for number in range(24 * 48_000 // 10 // size):
            tone = np.sin(np.arange(size) / 20) * 8000
            chunk = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], "s16", "mono")
            chunk.rate, chunk.pts, chunk.time_base = 48_000, number * size, Fraction(1, 48_000)
            for part in resampler.resample(chunk):
                file.mux(sound.encode(part))
        file.mux(sound.encode())
        file.mux(stream.encode())
    return path


def times_of(path: str, kind: str) -> list[float]:
    """Times of a file's packets of a kind, in seconds."""
    import av

    with av.open(path) as file:
        packets = [each for each in file.demux() if each.pts is not None]
        return [float(each.pts * each.time_base) for each in packets if each.stream.type == kind]


@with_pyav
def test_a_video_plays_has_true_times_and_its_sound(capsys: pytest.CaptureFixture[str]) -> None:
    with_sound(Path("in.mp4"), "aac")
    assert main(["--video", "in.mp4", START]) == 0
    assert "video: in_tracked.mp4 (H.264)\n" in capsys.readouterr().out
    expected = [number / 10 + 0.4 * (number >= 10) for number in range(20)]
    assert times_of("in_tracked.mp4", "video") == pytest.approx(expected, abs=0.001)
    sound = times_of("in_tracked.mp4", "audio")
    assert (sound[0], sound[-1]) == (pytest.approx(0, abs=0.03), pytest.approx(2.37, abs=0.05))
    assert open_frames("in_tracked.mp4").count == 20


@with_pyav
def test_sound_is_cut_with_the_picture() -> None:
    with_sound(Path("in.mkv"), "pcm_s16le")
    cut = ["--start", "0.5s", "--end", "0:01.45", "--out", "cut.mkv"]
    assert main(["--video", "in.mkv", SHIFTED, *cut]) == 0
    assert times_of("cut.mkv", "video") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.9], abs=0.001)
    sound = times_of("cut.mkv", "audio")
    assert (sound[0], sound[-1]) == (pytest.approx(0, abs=0.03), pytest.approx(1.0, abs=0.05))


@with_pyav
def test_sound_that_the_file_does_not_take_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_sound(Path("in.mp4"), "aac")
    assert main(["--video", "in.mp4", START, "--out", "out.webm"]) == 0
    said = "out.webm (VP9); its sound (aac) is left out: webm takes none\n"
    assert said in capsys.readouterr().out
    assert not times_of("out.webm", "audio")
    assert len(list(open_frames("out.webm"))) == 20


@with_pyav
def test_a_killed_run_leaves_a_video_that_plays() -> None:
    rng = np.random.default_rng(0)
    with VideoWriter("a.mp4", 25, find_codec(".mp4")) as writer:
        for _ in range(100):
            writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
        left = Path(".a.part.mp4").read_bytes()
    Path("left.mp4").write_bytes(left)
    assert 25 <= len(list(open_frames("left.mp4"))) < 100


@pytest.mark.usefixtures("without_pyav")
def test_without_pyav_the_default_is_a_webm_that_plays(
    video: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    suffix = best_suffix()
    codec = find_codec(suffix)
    assert not codec.by_pyav
    assert main(["--video", str(video), START]) == 0
    shown = capfd.readouterr()
    assert f"video: in_tracked{suffix} ({codec.name})" in shown.out
    assert "FFMPEG" not in shown.err  # OpenCV prints nothing of its own
    assert len(list(open_frames(f"in_tracked{suffix}"))) == 12
    assert open_frames(f"in_tracked{suffix}").fps == pytest.approx(10)


@pytest.mark.usefixtures("without_pyav")
def test_without_pyav_a_named_mp4_says_what_it_is(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--video", str(video), START, "--out", "out.mp4"]) == 0
    line = (
        f"video: out.mp4 ({find_codec('.mp4').describe()}); sound, where there was any, is left out"
    )
    assert line in capsys.readouterr().out
    assert "browsers do not play; an .mp4 is H.264 with pip install" in MPEG4.describe()


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("count", [1, 5])
def test_all_endings_take_one_frame_odd_sizes_and_changes_of_size(suffix: str, count: int) -> None:
    path = Path(f"a{suffix}")
    with VideoWriter(path, 25, find_codec(suffix)) as writer:
        for number in range(count):
            size = (33, 65) if number < 3 else (20, 90)
            writer.write(np.full((*size, 3), 200, np.uint8))
    capture = cv2.VideoCapture(str(path))
    images = []
    while (found := capture.read())[0]:
        images.append(found[1])
    assert [image.shape for image in images] == count * [(32, 64, 3)]
    assert images[0].mean() == pytest.approx(200, abs=6)


def test_a_live_source_plays_at_true_speed() -> None:
    with VideoWriter("a.avi", 10, MPEG4, Original(live=True)) as writer:
        for seconds in (0.0, 0.05, 0.5):
            writer.write(np.zeros((48, 64, 3), np.uint8), seconds)
    assert len(list(open_frames("a.avi"))) == 6


def test_pixels_are_enlarged_not_made_smaller() -> None:
    assert shown_size((720, 576), Fraction(16, 15)) == (768, 576)
    assert shown_size((720, 480), Fraction(8, 9)) == (720, 540)


def test_a_shape_of_pixels_that_cannot_be_is_not_believed() -> None:
    turned = Turn(0, 1, -1, 0)
    assert as_shown(Fraction(4, 3), turned) == Fraction(3, 4)
    assert as_shown(Fraction(4, 3), None) == Fraction(4, 3)
    assert as_shown(Fraction(1000, 1), None) == as_shown(Fraction(1, 1000), turned) == 1


@with_pyav
def test_a_full_disk_keeps_the_frames_that_found_room() -> None:
    resource = pytest.importorskip("resource", reason=needs("linux", "no module resource"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    codec, rng = find_codec(".mp4"), np.random.default_rng(0)

    def write_all() -> None:
        with VideoWriter("a.mp4", 25, codec) as writer, suppress(OSError):
            for _ in range(300):
                writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))

    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"\(the video has the first \d+ frames\)") as told:
            write_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir() == ["a.mp4"]
    count = sum(image is not None for image, _ in OpenCvReader(Path("a.mp4")))
    assert count >= 50
    assert f"first {count} frames" in str(told.value)


# --- boxes


def test_boxes_as_motchallenge_count_from_one_and_leave_lost_frames_out(video: Path) -> None:
    both = ["--init", "95,75,58,46", "--no-out"]
    assert main(["--video", str(video), START, *both, "--boxes", "b.txt"]) == 0
    lines = Path("b.txt").read_text().splitlines()
    assert lines[0] == "1,1,101.0,81.0,48.0,36.0,1.0,-1,-1,-1"
    assert lines[1] == "1,2,96.0,76.0,58.0,46.0,1.0,-1,-1,-1"
    assert len(lines) == 24
    from rbsf.tools.tracking.box_forms import form_of

    row = {"frame": 0, "x": 1.0, "y": 1.0, "w": 2.0, "h": 2.0, "score": 0.1, "lost": 1}
    assert form_of(Path("b.txt")).text([row], {}, True) == ""


def test_boxes_as_coco(video: Path) -> None:
    assert main(["--video", str(video), START, "--no-out", "--boxes", "b.coco.json"]) == 0
    content = json.loads(Path("b.coco.json").read_text())
    assert content["images"][3] == {
        "id": 4,
        "file_name": "000003.jpg",
        "width": 320,
        "height": 240,
        "frame": 3,
        "time": 0.3,
    }
    assert content["categories"][0]["name"] == "target"
    first = content["annotations"][0]
    assert (first["image_id"], first["category_id"]) == (1, 1)
    assert (first["bbox"], first["area"]) == ([100, 80, 48, 36], 48 * 36)
    assert {image["id"] for image in content["images"]} == set(range(1, 13))


def test_frames_that_are_files_are_named() -> None:
    Path("frames").mkdir()
    for number, image in enumerate(moving(4)):
        cv2.imwrite(f"frames/täglich{number}.png", image[..., ::-1])
    assert main(["--video", "frames", START, "--start", "1", "--no-out", "--boxes", "b.csv"]) == 0
    rows = read_csv("b.csv")
    assert list(rows[0])[-3:] == ["lost", "state", "file"]
    assert [row["file"] for row in rows] == [f"täglich{number}.png" for number in (1, 2, 3)]


# --- spans


@pytest.mark.parametrize(
    ("text", "value"),
    [("120", 120), ("12.5s", 12.5), ("3s", 3.0), ("1:02.5", 62.5), ("1:00:03", 3603.0)],
)
def test_places(text: str, value: float) -> None:
    assert place(text) == value
    assert type(place(text)) is type(value)


@pytest.mark.parametrize("text", ["-1", "1.5", "5x", "s", "1:2:3:4", ""])
def test_what_is_no_place(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--video", "in.mp4", START, f"--start={text}"])
    assert f"{text!r} is not a frame, such as 120, or a time, such as 12.5s" in (
        capsys.readouterr().err
    )


def test_times_are_those_of_the_frames_not_of_the_rate() -> None:
    video = uneven(Path("a.mkv").absolute())  # frame 5 comes 1 s late
    flags = ["--init=20,20,20,20", "--no-out", "--boxes", "b.csv"]
    assert main(["--video", str(video), *flags, "--start", "0.2s", "--end", "1.28s"]) == 0
    assert [row["frame"] for row in read_csv("b.csv")] == ["5", "6", "7"]
    for span in (["--start", "99s"], ["--start", "6", "--end", "1s"]):
        with pytest.raises(ValueError, match=r"holds no frame .*; give an earlier --start"):
            main(["--video", str(video), *flags, "--force", *span])


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--end 1 s is before --start 2 s"):
        Span(2.0, 1.0)


def test_an_end_after_the_last_frame_is_told() -> None:
    assert Span(0, 20).beyond(12, 25.0) == "the video ends at 11, before --end 20"
    assert Span(0, 2.5).beyond(12, 5.0) == "the video ends at 2.2 s, before --end 2.5 s"
    for enough in (Span(0, 11), Span(0, 2.2), Span(4)):
        assert enough.beyond(12, 5.0) is None
    assert Span(0, 20).beyond(None, 25.0) is None  # a camera


# --- several videos


def test_several_videos_go_into_folders(video: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = write_video(tmp_path / "other" / "in.mp4", moving(6))
    flags = ["--video", str(video), START, "--video", str(twin), START, "--init", "95,75,58,46"]
    assert main([*flags, "--out", "new/", "--boxes", "new/"]) == 0
    suffix = best_suffix()
    names = ["in.csv", "in_2.csv", f"in_2_tracked{suffix}", f"in_tracked{suffix}"]
    assert sorted(os.listdir("new")) == names
    assert len(read_csv("new/in.csv")) == 12
    assert [row["target"] for row in read_csv("new/in_2.csv")] == 6 * ["1", "2"]
    assert unlike(["a", "a", "b", "a"]) == ["a", "a_2", "b", "a_3"]


def test_a_video_that_fails_ends_not_the_others(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = write_video(tmp_path / "small.mp4", [frame(10, 10)[:40, :40]] * 2)
    flags = ["--video", "none.mp4", START, "--video", str(outside), START]
    assert main([*flags, "--video", str(video), START, "--no-out", "--boxes", "new/"]) == 1
    assert len(read_csv("new/in.csv")) == 12
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 4  # each at once, and again at the end
    assert lines[0] == lines[2]
    assert "none.mp4 does not exist" in lines[0]
    assert lines[1].rpartition("error: ")[2] == lines[3].removeprefix("error: ")
    assert "small.mp4: " in lines[3]


def test_images_are_taken_at_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(6):
        cv2.imwrite(f"images/{number}.png", frame(100, 80))
    flags = ["--video", "images", "--init", "100,80,40,40", "--no-out", "--boxes", "b.csv"]
    assert main([*flags, "--fps", "10", "--start", "0.2s", "--end", "0.4s"]) == 0
    rows = read_csv("b.csv")
    assert [(row["frame"], row["time"]) for row in rows] == [
        ("2", "0.2"),
        ("3", "0.3"),
        ("4", "0.4"),
    ]


def test_a_video_keeps_its_own_rate(video: Path) -> None:
    with pytest.raises(ValueError, match=r"--fps 10: .* has .* frames a second; leave --fps out"):
        main(["--video", str(video), "--init", "20,20,30,30", "--no-out", "--fps", "10"])


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--video", "in.mp4", START, "--video", "in.mp4"], "in.mp4 has no --init"),
        ([START, "--video", "in.mp4", "--video", "in.mp4"], "the first --init has no video"),
        (
            ["--video", "in.mp4", START, "--video", "in.mp4", START, "--out", "o.mp4"],
            "--out o.mp4: of several videos give a folder, such as o.mp4/",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(video: Path, flags: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        main(flags)


FRAME = np.zeros((4, 4, 3), np.uint8)


class SlowWriter:
    """Takes frames when it is told to go on, and fails at frame `bad`."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad, self.seconds, self.go_on = bad, [], threading.Event()

    def write(self, image, seconds):
        assert self.go_on.wait(10)
        if len(self.seconds) == self.bad:
            raise OSError("cannot write a.mp4: the disk is full")
        self.seconds.append(seconds)


def test_frames_are_encoded_in_order_while_the_next_ones_are_tracked():
    writer = SlowWriter()
    recorder = Recorder(25.0, writer, None)
    with recorder.encoding:
        for number in range(MAX_AHEAD):
            recorder.add(FRAME, number / 25, {})
        assert writer.seconds == []
        writer.go_on.set()
        for number in range(MAX_AHEAD, 20):
            recorder.add(FRAME, number / 25, {})
            assert len(writer.seconds) > number - MAX_AHEAD
    assert writer.seconds == [number / 25 for number in range(20)]


def test_a_frame_that_cannot_be_written_ends_the_run_soon_after():
    writer = SlowWriter(bad=3)
    writer.go_on.set()
    recorder = Recorder(25.0, writer, None)

    def record_all() -> None:
        for number in range(100):
            recorder.add(FRAME, number / 25, {})

    with recorder.encoding, pytest.raises(OSError, match="the disk is full"):
        record_all()
    assert recorder.frames <= 3 + MAX_AHEAD + 1
