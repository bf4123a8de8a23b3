"""tools/track.py, mostly in this process with the backbone of test_siamfc.

Tests that need a separate process start one.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from packed_models import random_model
from requirements import needs, skip_without
from test_siamfc import BACKGROUND, contrast_backbone, frame
from test_videos import misleading, serve, uneven

import rbsf.system.program
from rbsf.datasets.video.encoders import best_suffix
from rbsf.datasets.video.frames import Frames, open_frames
from rbsf.datasets.video.writer import VideoWriter
from rbsf.engine.file import write_packed
from rbsf.shipped import DEFAULT
from rbsf.system.lock import locked
from rbsf.tools.track import main, parse_args
from rbsf.tools.tracking.box_writer import BoxWriter, Row
from rbsf.tools.tracking.jobs import source_name

REPO = Path(__file__).resolve().parents[1]
START = "--init=100,80,48,36"


def moving(count: int) -> Iterator[np.ndarray]:
    return (frame(100 + 3 * i, 80 + 2 * i) for i in range(count))


def write_video(
    path: Path, images: Iterator[np.ndarray] | list[np.ndarray], fps: float = 10
) -> Path:
    with VideoWriter(path, fps) as writer:
        for image in images:
            writer.write(image)
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the backbone of a few lines in the place of RB-SF's network, which is the default."""
    monkeypatch.setattr("rbsf.tracker.flags.DEFAULT", "rbsf")
    monkeypatch.setattr("rbsf.tracker.loading.load_network", lambda *args: contrast_backbone)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", moving(12))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rbsf.models import build
    from rbsf.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(build("rbsf"), "rbsf", path)
    return path


def track(video: object, *flags: str) -> int:
    return main(["--video", str(video), *flags])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("fast")
class TestOutputs:
    def test_a_run_leaves_a_video_boxes_and_a_summary(
        self, video: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--video", str(video), START, "--boxes", "boxes.csv"]) == 0
        rows = read_csv(Path("boxes.csv"))
        assert list(rows[0]) == ["frame", "time", "x", "y", "w", "h", "score", "lost", "state"]
        assert [row["frame"] for row in rows] == [str(i) for i in range(12)]
        assert list(rows[0].values()) == [
            "0",
            "0.0",
            "100.0",
            "80.0",
            "48.0",
            "36.0",
            "1.0",
            "0",
            "tracked",
        ]
        assert rows[11]["time"] == "1.1"
        assert float(rows[11]["x"]) == pytest.approx(133, abs=4)
        assert float(rows[11]["y"]) == pytest.approx(102, abs=4)
        shown = capsys.readouterr()
        assert "12 frames in" in shown.out
        for word in ("fps", "decode", "network", "rest", "in_tracked.mp4", "boxes.csv"):
            assert word in shown.out
        assert "12/12" in shown.err  # the progress bar

    def test_annotated_video_has_the_boxes_drawn_in(self, video: Path) -> None:
        main(["--video", str(video), START, "--out", "deep/out.mp4"])
        before, after = list(open_frames(str(video))), list(open_frames("deep/out.mp4"))
        assert len(after) == 12
        assert after[0].shape == (240, 320, 3)
        assert open_frames("deep/out.mp4").fps == pytest.approx(10)
        edge = after[0][80:116, 100].astype(int)  # left side of the box, green
        assert (edge[:, 1] - edge[:, 0]).mean() > 60
        far = np.abs(after[0][:, 200:].astype(int) - before[0][:, 200:]).mean()
        assert far < 4

    def test_boxes_are_json_by_their_ending(self, video: Path) -> None:
        main(["--video", str(video), START, "--no-out", "--boxes", "boxes.json"])
        rows = json.loads(Path("boxes.json").read_text())
        box = {"x": 100, "y": 80, "w": 48, "h": 36}
        assert rows[0] == {"frame": 0, "time": 0, **box, "score": 1, "lost": 0, "state": "tracked"}
        assert len(rows) == 12
        assert not list(Path().glob("*_tracked.mp4"))

    def test_several_targets_get_a_column(self, video: Path) -> None:
        track(video, START, "--init", "95,75,58,46", "--no-out", "--boxes", "boxes.csv")
        rows = read_csv(Path("boxes.csv"))
        assert [row["target"] for row in rows[:4]] == ["1", "2", "1", "2"]
        assert [row["frame"] for row in rows[:4]] == ["0", "0", "1", "1"]
        assert float(rows[-1]["x"]) == pytest.approx(128, abs=5)

    @pytest.mark.parametrize("source", ["frames", "frames/*.png"])
    def test_folders_and_patterns_may_mix_gray_rgba_and_sizes(self, source: str) -> None:
        Path("frames").mkdir()
        images = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in moving(4)]
        images[1] = cv2.cvtColor(images[1], cv2.COLOR_BGR2GRAY)
        images[2] = cv2.cvtColor(images[2], cv2.COLOR_BGR2BGRA)
        images[3] = cv2.resize(images[3], None, fx=2, fy=2)
        for i, image in enumerate(images):
            cv2.imwrite(f"frames/{i}.png", image)
        assert main(["--video", source, START, "--boxes", "boxes.csv"]) == 0
        assert float(read_csv(Path("boxes.csv"))[3]["x"]) == pytest.approx(218, abs=8)
        assert len(list(open_frames("frames_tracked.mp4"))) == 4

    def test_loss_is_said_once_and_so_is_the_return(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = [BACKGROUND if 3 <= i < 28 else frame(100, 80) for i in range(50)]
        track(write_video(Path("gap.mp4"), images), START, "--no-out", "--boxes", "boxes.csv")
        lost = [row["lost"] for row in read_csv(Path("boxes.csv"))]
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("frame ")]
        assert len(lines) == 2
        assert "target probably lost" in lines[0]
        assert 3 <= int(lines[0].split()[1].rstrip(":")) < 28
        assert "target found again" in lines[1]
        assert 28 <= int(lines[1].split()[1].rstrip(":")) < 50
        gone, back = (int(line.split()[1].rstrip(":")) for line in lines)
        assert "".join(lost) == gone * "0" + (back - gone) * "1" + (50 - back) * "0"

    def test_box_partly_outside_is_clipped_and_said(
        self, video: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(["--video", str(video), "--init", "-8,80,48,36", "--no-out", "--boxes", "boxes.csv"])
        assert "clipped to 0,80,40,36" in capsys.readouterr().out
        assert read_csv(Path("boxes.csv"))[0]["w"] == "40.0"

    def test_start_and_end_choose_frames(self, video: Path) -> None:
        first = "--init=115,90,48,36"  # the target's box in frame 5
        part = ("--start", "5", "--end", "8")
        assert track(video, first, *part, "--boxes", "boxes.csv") == 0
        rows = read_csv(Path("boxes.csv"))
        expected = [("5", "0.5"), ("6", "0.6"), ("7", "0.7"), ("8", "0.8")]
        assert [(row["frame"], row["time"]) for row in rows] == expected
        assert (rows[0]["x"], float(rows[3]["x"])) == ("115.0", pytest.approx(124, abs=4))
        assert len(list(open_frames("in_tracked.mp4"))) == 4
        for flags, fault in (
            (["--start", "12"], "in.mp4 holds no frame 12"),
            (["--start", "3", "--end", "2"], "--end 2"),
        ):
            with pytest.raises(ValueError, match=fault):
                main(["--video", str(video), START, *flags])

    @pytest.mark.parametrize(("name", "said", "shown"), [("a.mkv", 50, 40), ("a.mp4", 40, 20)])
    def test_a_header_of_more_frames_is_a_note(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: int, shown: int
    ) -> None:
        video = misleading(tmp_path / name, said)
        assert track(video, "--init=40,30,40,30", "--no-out") == 0
        note = f"the video ended after {shown} frames; by its header {said} were expected\n"
        assert note in capsys.readouterr().out
        assert track(video, "--init=40,30,40,30", "--no-out", "--end", "9") == 0
        assert "header" not in capsys.readouterr().out

    def test_boxes_have_the_times_of_uneven_frames(self, tmp_path: Path) -> None:
        video = uneven(tmp_path / "a.mkv")
        track(video, "--init=20,20,20,20", "--start", "4", "--no-out", "--boxes", "boxes.csv")
        assert [row["time"] for row in read_csv(Path("boxes.csv"))[:3]] == ["0.16", "1.2", "1.24"]

    def test_a_pipe_is_tracked(self, tmp_path: Path) -> None:
        pipe = serve(write_video(tmp_path / "in.avi", moving(6)), tmp_path / "pipe.avi")
        assert main(["--video", str(pipe), START, "--boxes", "boxes.csv"]) == 0
        assert len(read_csv(Path("boxes.csv"))) == 6
        assert Path("pipe_tracked.mp4").exists()

    def test_a_default_name_that_is_taken_counts_up(
        self, video: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = ["in_tracked.mp4", "in_tracked_2.mp4", "in_tracked_3.mp4"]
        for name in names[:2]:
            assert track(video, START) == 0
            assert f"video: {name} (" in capsys.readouterr().out
        with locked("in_tracked_3.mp4"):  # of a process that writes at the same time
            assert track(video, START) == 0
        assert Path("in_tracked_4.mp4").exists()
        assert track(video, START, "--force") == 0
        assert sorted(os.listdir()) == ["in.mp4", *names[:2], "in_tracked_4.mp4"]

    @pytest.mark.parametrize("flags", [["--no-out", "--boxes", "b.csv"], ["--out", "o.mp4"]])
    def test_a_named_file_is_replaced_by_force_alone(
        self, video: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = Path(flags[-1])
        path.touch()  # an empty file has nothing to lose
        assert track(video, START, *flags) == 0
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(
                "rbsf.tracker.loading.load_network", lambda *args: pytest.fail("it is too late")
            )
            with pytest.raises(ValueError, match=rf"{path} is there already; .* --force"):
                track(video, START, *flags)
        assert path.read_bytes() == before
        assert track(video, START, *flags, "--force", "--end", "3") == 0
        assert path.read_bytes() != before


@pytest.mark.usefixtures("fast")
class TestBadInput:
    @pytest.mark.parametrize(
        ("init", "fault"),
        [
            ("400,10,20,20", "outside the 320x240 frame"),
            ("10,10,0,20", "no area"),
            ("10,10,20,-4", "no area"),
            ("10,10,20", "not four numbers"),
            ("a,b,c,d", "not four numbers"),
            ("", "not four numbers"),
            ("10,nan,20,20", "not finite"),
            ("10,10,inf,20", "not finite"),
        ],
    )
    def test_box(self, video: Path, init: str, fault: str) -> None:
        with pytest.raises(ValueError, match=fault):
            main(["--video", str(video), f"--init={init}"])
        assert not Path("in_tracked.mp4").exists()

    def test_missing_empty_and_headless_video(self, video: Path) -> None:
        Path("empty.mp4").touch()
        Path("cut.mp4").write_bytes(video.read_bytes()[:5000])  # an .mp4 has its index at the end
        for name in ("none.mp4", "empty.mp4", "cut.mp4"):
            with pytest.raises((ValueError, FileNotFoundError), match=name):
                main(["--video", name, START])

    def test_video_that_breaks_off_keeps_what_came_before(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole = write_video(Path("whole.avi"), moving(20)).read_bytes()
        Path("broken.avi").write_bytes(whole[: len(whole) * 6 // 10])
        with pytest.raises(ValueError, match=r"broken.avi"):
            main(["--video", "broken.avi", START, "--boxes", "boxes.csv"])
        count = len(read_csv(Path("boxes.csv")))
        assert 5 < count < 15
        assert len(list(open_frames("broken_tracked.mp4"))) == count
        assert f"ended early: the {count} frames up to there are kept" in capsys.readouterr().out

    def test_broken_image_keeps_what_came_before(self) -> None:
        Path("frames").mkdir()
        for i, image in enumerate(moving(5)):
            cv2.imwrite(f"frames/{i}.png", image)
        Path("frames/3.png").write_bytes(b"\x89PNG")
        with pytest.raises(ValueError, match=r"3.png"):
            main(["--video", "frames", START, "--boxes", "boxes.csv"])
        assert len(read_csv(Path("boxes.csv"))) == 3

    @pytest.mark.parametrize("flag", ["--out", "--boxes"])
    def test_unwritable_output_is_found_before_tracking(
        self, video: Path, monkeypatch: pytest.MonkeyPatch, flag: str
    ) -> None:
        monkeypatch.setattr(
            "rbsf.tracker.loading.load_network", lambda *args: pytest.fail("tracking has begun")
        )
        Path("file").touch()
        suffix = {"--out": "mp4", "--boxes": "csv"}[flag]
        with pytest.raises(ValueError, match=r"cannot write file/x"):
            main(["--video", str(video), START, flag, f"file/x.{suffix}"])

    def test_a_folder_is_for_one_video_too(self, video: Path) -> None:
        for _ in range(2):
            assert track(video, START, "--out", "new/", "--boxes", "new/", "--end", "3") == 0
        names = sorted(path.name for path in Path("new").iterdir())
        suffix = best_suffix()
        videos = [f"in_tracked{suffix}", f"in_tracked_2{suffix}"]
        assert names == sorted(["in.csv", "in_2.csv", *videos])

    def test_unknown_endings_and_the_input_as_output_are_refused(self, video: Path) -> None:
        for flags, fault in [
            (["--boxes", "boxes.xml"], r"ends in \.csv, \.json, \.txt \(MOT\) or \.coco\.json"),
            (["--out", "out.gif"], "out.gif"),
            (["--out", "in.mp4"], "is one of the videos to track"),
        ]:
            with pytest.raises(ValueError, match=fault):
                main(["--video", str(video), START, *flags])

    def test_no_video_of_several_is_an_output_of_another(self, video: Path) -> None:
        second = f"in_tracked{best_suffix()}"
        Path(second).write_bytes(video.read_bytes())
        words = ["--video", str(video), START, "--video", second, START]
        with pytest.raises(ValueError, match=f"{second} is one of the videos to track"):
            main([*words, "--out", "./", "--force"])

    @pytest.mark.usefixtures("hangup")
    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_keeps_what_was_computed(
        self, video: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
    ) -> None:
        calls = iter(range(100))

        def interrupted(crops: np.ndarray) -> np.ndarray:
            if next(calls) == 7:  # after the exemplar and its copies, a call is a frame
                signal.raise_signal(signum)
            return contrast_backbone(crops)

        before = signal.getsignal(signum)
        monkeypatch.setattr("rbsf.tracker.flags.DEFAULT", "rbsf")
        monkeypatch.setattr("rbsf.tracker.loading.load_network", lambda *args: interrupted)
        assert main(["--video", str(video), START, "--boxes", "boxes.csv"]) == 128 + signum
        assert len(read_csv(Path("boxes.csv"))) == 7  # the current frame is finished
        assert len(list(open_frames("in_tracked.mp4"))) == 7
        assert signal.getsignal(signum) is before

    @pytest.mark.parametrize("suffix", ["csv", "json"])
    def test_full_disk_prints_the_boxes(
        self,
        video: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        suffix: str,
    ) -> None:
        if not Path("/dev/full").exists():
            skip_without("linux", "no /dev/full to stand for a full disk")
        Path(f"boxes.{suffix}.part").symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"boxes.{suffix}: No space left .* printed instead"):
            main(["--video", str(video), START, "--boxes", f"boxes.{suffix}"])
        out = capsys.readouterr().out
        assert {"csv": "0,0.0,100.0,80.0,48.0,36.0,1.0,0,tracked\n", "json": '"x": 100.0,'}[
            suffix
        ] in out
        assert Path("in_tracked.mp4").exists()
        assert not list(Path().glob("boxes*"))


def rows_of(frame: int) -> list[Row]:
    return [{"frame": frame, "x": 1.5}]


class TestBoxWriter:
    def test_csv_rows_are_on_disk_while_the_run_goes_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The times are: made, frame 0, frame 1, its writing, frame 2, its writing.
        clock = iter([0.0, 0.4, 1.1, 1.1, 1.5, 1.6])
        monkeypatch.setattr("rbsf.tools.tracking.recording.time.monotonic", lambda: next(clock))
        Path("b.csv").write_text("old")
        Path("b.csv.part").write_text("of a run that was killed")
        with BoxWriter(Path("b.csv")) as boxes:
            for number in range(3):
                boxes.add(rows_of(number))
            assert Path("b.csv.part").read_text() == "frame,x\n0,1.5\n1,1.5\n"
            assert Path("b.csv").read_text() == "old"
        assert Path("b.csv").read_text() == "frame,x\n0,1.5\n1,1.5\n2,1.5\n"
        assert not Path("b.csv.part").exists()

    def test_an_error_keeps_the_rows(self) -> None:
        def fails() -> None:
            with BoxWriter(Path("b.csv")) as boxes:
                boxes.add(rows_of(0))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fails()
        assert Path("b.csv").read_text() == "frame,x\n0,1.5\n"

    def test_a_disk_that_fills_up_leaves_whole_rows(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("rbsf.tools.tracking.box_writer.FLUSH_SECONDS", 0)
        resource = pytest.importorskip("resource", reason=needs("linux", "no module resource"))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Python's default
        boxes = BoxWriter(Path("b.csv"))
        try:
            boxes.add(rows_of(0))
            # There is room for a part of the next row.
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
            with pytest.raises(OSError, match=r"cannot write b.csv: .*printed instead"):
                boxes.add(rows_of(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, old)
        assert "1,1.5\n" in capsys.readouterr().out
        with boxes:
            pass
        assert Path("b.csv").read_text() == "frame,x\n0,1.5\n"


@pytest.mark.parametrize("flag", ["--boxes b.csv", "--boxes b.json", "--out out.mp4"])
def test_an_output_that_another_process_writes_is_refused(video: Path, flag: str) -> None:
    name = flag.split()[1]
    Path(name).write_text("old")
    who = rf"{name} is in use by process {os.getpid()} on .* since .*; wait for its end, or choose"
    with locked(name), pytest.raises(ValueError, match=who):
        main(["--video", str(video), START, *flag.split(), "--force"])
    assert Path(name).read_text() == "old"
    assert sorted(os.listdir()) == sorted([name, video.name])


def test_what_a_killed_run_left_of_its_video_stays(video: Path) -> None:
    left = Path(".in_tracked.part.mp4")
    left.write_text("of a run that was killed")
    assert main(["--video", str(video), START]) == 0
    assert sorted(os.listdir()) == [str(left), "in.mp4", "in_tracked_2.mp4"]
    assert left.read_text() == "of a run that was killed"


@pytest.mark.parametrize(
    ("flags", "left"),
    [(["--boxes", "b.csv"], "b.csv.part"), (["--out", "o.mp4"], ".o.part.mp4")],
)
def test_what_a_killed_run_left_is_replaced_by_force_alone(
    video: Path, flags: list[str], left: str
) -> None:
    Path(left).write_text("of a run that was killed")
    with pytest.raises(ValueError, match=f"{left} is of a run that was killed, or is still going"):
        main(["--video", str(video), START, *flags])
    assert Path(left).read_text() == "of a run that was killed"
    assert main(["--video", str(video), START, *flags, "--force"]) == 0
    assert not Path(left).exists()


def test_a_second_ctrl_c_leaves_the_part_of_the_video(tmp_path: Path) -> None:
    """The first one ends the run; the second may come while the file is finished."""

    def write_and_interrupt() -> None:
        with VideoWriter(tmp_path / "a.mp4", 25) as writer:
            for _ in range(60):
                writer.write(frame(100, 80))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt()
    frames = list(open_frames(str(tmp_path / ".a.part.mp4")))
    assert len(frames) > 20


def test_select_needs_a_screen(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform != "linux":
        skip_without("linux", "elsewhere there is a screen without DISPLAY")
    with pytest.raises(ValueError, match="no window can be opened here"):
        main(["--video", str(video), "--select"])


def test_weights_default_to_the_repository_from_any_folder() -> None:
    args = parse_args(["--video", "x", "--init", "-1,-2,3,4", "--init", "1,2,3,4"])
    assert args.weights == REPO / "weights" / f"{DEFAULT}.safetensors"
    assert args.init == ["-1,-2,3,4", "1,2,3,4"]


def test_constants_choose_the_network_that_they_are_for(tmp_path: Path) -> None:
    def chosen(constants: str, *flags: str) -> str:
        given = ["--video", "x", "--init", "1,2,3,4", "--constants", constants]
        return parse_args([*given, *flags]).weights.stem

    common, damaged, own = (tmp_path / f"{name}.yaml" for name in ("common", "damaged", "own"))
    own.write_text("size_rate: 0.5\n")
    common.write_text("lost_score: 0.1\n")
    damaged.write_text("speed: 3\n")
    assert chosen("fast") == chosen("siamfc") == "rbsf"
    assert chosen(str(common)) == chosen(str(damaged)) == chosen(str(own)) == DEFAULT
    assert chosen("fast", "--weights", "rbsf2") == "rbsf2"


@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("3", "camera3"),
        ("a/cat/*.jpg", "cat"),
        ("a/cat/%04d.jpg", "cat"),
        ("http://a/b/cat.mp4?x", "cat"),
        ("rtsp://a", "stream"),
    ],
)
def test_a_video_is_named_after_its_source(video: str, name: str) -> None:
    assert source_name(video) == name


def test_bad_weights_are_named(video: Path, weights: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch hacked",)

    Path("half.safetensors").write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with zipfile.ZipFile("code.pth", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Code(), protocol=2))
        file.writestr("archive/version", "3")
    np.savez("other.npz", conv9=np.zeros(3))
    for name in ("none.safetensors", "half.safetensors", "code.pth", "other.npz"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            main(["--video", str(video), START, "--weights", name])
    assert not Path("hacked").exists()


def test_network_that_is_no_backbone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rbsf.tracker.loading import load_network

    Path("lenet.pth").touch()
    for net in (
        torch.nn.Linear(4, 4),
        torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
    ):
        monkeypatch.setattr(
            "rbsf.tracker.weights.read_weights", lambda path, net=net: (net, "lenet", {})
        )
        with pytest.raises(ValueError, match=r"lenet.pth holds no tracker"):
            load_network("lenet.pth")


def run_tool(*flags: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "tools/track.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def test_help_loads_no_large_library() -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        f"    runpy.run_path({str(REPO / 'tools/track.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'cv2', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True)


def test_program_runs_from_any_folder_with_a_real_network(tmp_path: Path, weights: Path) -> None:
    write_video(tmp_path / "in.mp4", moving(3))
    flags = ["--weights", str(weights), "--threads", "1", "--precision", "bfloat16"]
    done = run_tool("--video", "in.mp4", START, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(open_frames(str(tmp_path / "in_tracked.mp4")))) == 3
    bad = run_tool("--video", "none.mp4", START, cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("error: none.mp4 ")
    assert bad.stderr.count("\n") == 1


def test_the_instruction_set_is_said(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slim = [
        (11, 2, 0, 1, 3, 8, True),
        (5, 1, 0, 1, 8, 8, True),
        (3, 1, 0, 1, 8, 8, False),
        (5, 1, 0, 1, 8, 8, False),
    ]
    write_packed(Path("rbsf.safetensors"), random_model(0, slim))
    monkeypatch.setenv("RBSF_ISA", "numpy")
    flags = ["--end", "1", "--threads", "1", "--weights", "rbsf.safetensors"]
    assert track(video, START, *flags) == 0
    line = "network: rbsf.safetensors, packed engine, instruction set numpy, 1 thread\n"
    assert line in capsys.readouterr().out
    monkeypatch.setenv("RBSF_ISA", "mmx")
    with pytest.raises(ValueError, match="RBSF_ISA='mmx': this machine has auto, "):
        main(["--video", str(video), START])


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_to_a_process_keeps_what_was_computed(
    tmp_path: Path, weights: Path, signum: signal.Signals, code: int
) -> None:
    write_video(tmp_path / "in.mp4", [frame(100, 80)] * 200)
    command = [sys.executable, str(REPO / "tools/track.py"), "--video", "in.mp4", START]
    command += ["--boxes", "boxes.csv", "--weights", str(weights), "--threads", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    seen, part = b"", tmp_path / "boxes.csv.part"  # written once a second
    while b" 3/200" not in seen or not part.exists() or len(part.read_text().splitlines()) < 3:
        seen += process.stderr.read(1)
    process.send_signal(signum)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in rest
    if signum == signal.SIGKILL:
        assert 1 < len(read_csv(tmp_path / "boxes.csv.part")) < 200
        return
    assert rest.endswith(b"interrupted\n")
    assert 3 <= len(read_csv(tmp_path / "boxes.csv")) < 200
    frames = list(open_frames(str(tmp_path / "in_tracked.mp4")))
    assert len(frames) == len(read_csv(tmp_path / "boxes.csv"))


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("no\n  good"), "error: no good\n", 1),
        (FileNotFoundError("no file x"), "error: no file x\n", 1),
        (KeyboardInterrupt(), "interrupted\n", 130),
        (ImportError("libGL.so.1: cannot open shared object file"), "opencv-python-headless", 1),
        (ModuleNotFoundError("No module named 'tqdm'"), "pip install -e", 1),
    ],
)
def test_one_line_per_error(
    error: BaseException, line: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        rbsf.system.program.run(fails)
    assert stop.value.code == code
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1


def test_camera_boxes_are_timed_by_the_clock(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> Iterator[tuple[np.ndarray, None]]:
        for image in moving(3):
            time.sleep(0.05)
            yield image, None

    monkeypatch.setattr(
        "rbsf.datasets.video.frames.open_frames",
        lambda source: Frames("camera 0", None, None, slow),
    )
    assert main(["--video", "0", START, "--boxes", "boxes.csv"]) == 0
    assert float(read_csv(Path("boxes.csv"))[2]["time"]) >= 0.1
    assert Path("camera0_tracked.mp4").exists()
