"""Windows: boxes drawn with the mouse, and a run that is steered while it is shown.

Tests with a `user` simulate OpenCV's window in this process. Those with a `screen` start
`tools/track.py` on a virtual screen, with a real pointer.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, refused
from packed_models import random_model
from screen import SIZE, Screen, virtual_screen, wait_for
from test_siamfc import contrast_backbone, frame

from rbsf.datasets.video.live import NewestFrame
from rbsf.datasets.video.sources import Frames
from rbsf.datasets.video.writer import VideoWriter
from rbsf.engine.file import write_packed
from rbsf.tools.track import main
from rbsf.tools.tracking import controls, window
from rbsf.tools.tracking.controls import select_boxes
from rbsf.tools.tracking.drawing import LOST_COLOR, color_of
from rbsf.tools.tracking.window import Fit, room_on

SLIM = [
    (11, 2, 0, 1, 3, 8, True),
    (5, 1, 0, 1, 8, 8, True),
    (3, 1, 0, 1, 8, 8, False),
    (5, 1, 0, 1, 8, 8, False),
]
BOX = "--init=100,80,48,36"
DRAG = ((200, 160), (296, 232))  # around the target in the first frame, which is shown enlarged
DRAWN = (100.0, 80.0, 48.0, 36.0)
ENTER, ESCAPE, BACKSPACE = "\r", "\x1b", "\b"


class User:
    """Plays OpenCV's window; whenever it looks for a key, its user does the next of `acts`.

    An act is a key, or a function.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[str | Callable[[], object]] = []
        self.idle = 0
        self.closed = False
        self.shown: list[np.ndarray] = []
        self.on_mouse: Callable[..., None]
        monkeypatch.setattr("rbsf.tools.track.check_screen", lambda: None)
        monkeypatch.setattr(window, "screen_size", lambda: (1280, 800))
        monkeypatch.setattr(cv2, "namedWindow", lambda *args: None)
        monkeypatch.setattr(cv2, "destroyWindow", lambda name: None)
        monkeypatch.setattr(cv2, "imshow", lambda name, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "setMouseCallback", self._listen)
        monkeypatch.setattr(cv2, "waitKey", self._wait)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 0.0 if self.closed else 1.0)

    def drag(self, start: tuple[int, int], end: tuple[int, int], release: bool = True) -> None:
        self.on_mouse(cv2.EVENT_LBUTTONDOWN, *start, 0, None)
        self.on_mouse(cv2.EVENT_MOUSEMOVE, *end, 0, None)
        if release:
            self.on_mouse(cv2.EVENT_LBUTTONUP, *end, 0, None)

    def close(self) -> None:
        self.closed = True

    def _listen(self, name: str, on_mouse: Callable[..., None]) -> None:
        self.on_mouse = on_mouse

    def _wait(self, milliseconds: int) -> int:
        if not self.acts:
            self.idle += 1
            assert self.idle < 100, "the window waits for ever"
            return -1
        act = self.acts.pop(0)
        if callable(act):
            act()
            return -1
        return ord(act) if act else -1


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    return User(monkeypatch)


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A video of 12 frames, and a backbone of a few lines in the network's place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rbsf.tracker.flags.DEFAULT", "rbsf")
    monkeypatch.setattr("rbsf.tracker.loading.load_network", lambda *args: contrast_backbone)
    with VideoWriter("in.mp4", 10) as writer:
        for number in range(12):
            writer.write(frame(100 + 3 * number, 80))
    return "in.mp4"


def show(video: str, *flags: str) -> int:
    return main(["--video", video, "--show", "--no-out", "--boxes", "boxes.csv", *flags])


def rows_in(folder: Path = Path()) -> list[dict[str, str]]:
    with (folder / "boxes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def box_in(row: dict[str, str]) -> tuple[float, ...]:
    return tuple(float(row[side]) for side in "xywh")


class TestFit:
    def test_a_4k_frame_fits_the_screen_and_its_boxes_are_in_its_own_pixels(self) -> None:
        fit = Fit.of(np.zeros((2160, 3840, 3), np.uint8), room_on((1280, 800)))
        assert fit.shown == (1088, 612)
        assert fit.box(((1000, 600), (100, 50))) == (353, 176, 3176, 1942)
        assert fit.box(((-50, -9), (5000, 5000))) == (0, 0, 3840, 2160)

    def test_a_small_frame_is_enlarged(self) -> None:
        fit = Fit.of(np.zeros((240, 320, 3), np.uint8), room_on((1280, 800)))
        assert fit.shown == (640, 480)
        assert fit.box(DRAG) == DRAWN
        assert fit.box(((10, 10), (12, 90))) is None  # a click by a shaky hand
        np.testing.assert_array_equal(fit.point(((200, 160), (9, 9))), (100, 80))

    def test_a_box_at_the_edge_of_an_enlarged_frame_lies_inside(self) -> None:
        fit = Fit.of(np.zeros((48, 64, 3), np.uint8), (1360, 700))
        assert fit.box(((636, 476), (640, 480))) == (63, 47, 1, 1)

    @pytest.mark.parametrize("screen", [(1280, 800), (3840, 1080), (7680, 4320), (800, 480)])
    @pytest.mark.parametrize("shape", [(2160, 3840), (240, 320), (900, 20), (2, 5000)])
    def test_no_window_is_larger_than_the_screen(
        self, shape: tuple[int, int], screen: tuple[int, int], user: User
    ) -> None:
        window.screen_size = lambda: screen
        with window.Window(lambda: False) as opened:
            opened.load(np.zeros((*shape, 3), np.uint8))
            opened.look({}, "hint", 1)
        height, width = user.shown[0].shape[:2]
        assert width <= min(0.85 * screen[0], 1600)
        assert height <= min(0.85 * screen[1], 900)

    def test_an_unknown_screen_is_a_usual_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(window, "ASK_SIZE", "import no_tkinter")
        assert window.screen_size() == (1280, 720)

    @pytest.mark.parametrize("hint", [controls.SELECT, controls.PLAYING, controls.PAUSED])
    def test_hints_fit_into_the_narrowest_window(self, hint: str) -> None:
        assert len(hint.splitlines()) == 2
        bar = window.hint_bar(hint, window.LEAST_WIDTH)
        assert bar[:, :-20].max() == 255
        assert bar[:, -20:].max() == bar[-6:].max() == 0


def test_each_target_has_a_colour_and_none_is_that_of_lost_ones() -> None:
    colors = [np.array(color_of(number)) for number in range(1, 31)]
    assert tuple(colors[0]) == (64, 220, 64)
    assert min(np.abs(a - b).sum() for a, b in combinations(colors, 2)) > 10
    assert min(np.abs(a - b).sum() for a, b in combinations(colors[:10], 2)) > 50
    assert min(np.abs(color - LOST_COLOR).sum() for color in colors) > 140


class TestSelect:
    @pytest.mark.parametrize("end", [ENTER, " ", "\x8d"])
    def test_a_drag_ends_with_the_button_and_a_key_ends_the_choice(
        self, user: User, end: str
    ) -> None:
        user.acts = [lambda: user.drag(*DRAG), end]
        assert select_boxes(frame(100, 80)) == [DRAWN]

    @pytest.mark.parametrize("end", [ENTER, " "])
    def test_a_key_ends_a_drag_too(self, user: User, end: str) -> None:
        user.acts = [lambda: user.drag(*DRAG, release=False), end]
        assert select_boxes(frame(100, 80)) == [DRAWN]

    def test_several_boxes_an_undo_a_click_and_an_early_enter(self, user: User) -> None:
        def click() -> None:
            user.drag((9, 9), (10, 9))

        def drag_back() -> None:
            user.drag((61, 81), (21, 41))

        wrong = [lambda: user.drag((0, 0), (100, 100)), BACKSPACE, "z", "Z"]
        user.acts = [ENTER, click, " ", *wrong, lambda: user.drag(*DRAG), drag_back, "\n"]
        boxes = select_boxes(frame(100, 80))
        assert boxes == [DRAWN, (10.0, 20.0, 20.0, 20.0)]
        green, orange = user.shown[-1][200, 200], user.shown[-1][60, 21]
        assert (green[1] > green[0] + 99, orange[2] > orange[0] + 99) == (True, True)

    @pytest.mark.parametrize(
        ("end", "fault"), [(ESCAPE, "was cancelled"), ("q", "was cancelled"), ("X", "was closed")]
    )
    def test_giving_up_is_one_line(self, user: User, end: str, fault: str) -> None:
        act = user.close if end == "X" else end
        user.acts = [act]
        refused(lambda: select_boxes(frame(100, 80)), fault, "no box was drawn")
        user.closed = False
        user.acts = [lambda: user.drag(*DRAG), act]
        refused(lambda: select_boxes(frame(100, 80)), fault, "press Enter")

    def test_ctrl_c_is_heard(self, user: User) -> None:
        user.acts = [lambda: signal.raise_signal(signal.SIGINT)]
        with pytest.raises(KeyboardInterrupt):
            select_boxes(frame(100, 80))

    def test_the_boxes_are_tracked(self, user: User, video: str) -> None:
        user.acts = [lambda: user.drag(*DRAG), ENTER]
        assert main(["--video", video, "--select", "--no-out", "--boxes", "boxes.csv"]) == 0
        assert box_in(rows_in()[0]) == DRAWN


class TestShow:
    @pytest.mark.parametrize("end", ["q", ESCAPE, "X"])
    def test_the_end_keeps_everything(
        self, user: User, video: str, end: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        user.acts = ["", "", "", user.close if end == "X" else end]
        assert main(["--video", video, BOX, "--show", "--boxes", "boxes.csv"]) == (end == "X")
        assert len(rows_in()) == 4
        assert Path("in_tracked.mp4").exists()
        assert "ended early: the 4 frames up to there are kept" in capsys.readouterr().out

    def test_a_pause_costs_no_frame_and_no_speed(
        self, user: User, video: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        user.acts = ["", " ", lambda: time.sleep(1), " "]
        assert show(video, BOX) == 0
        assert len(rows_in()) == 12
        line = capsys.readouterr().out.splitlines()[-1]
        assert float(line.split(" in ")[1].split()[0]) < 1, line

    @pytest.mark.parametrize("end", ["X", "signal"])
    def test_a_pause_can_be_ended_from_outside(self, user: User, video: str, end: str) -> None:
        ends = {"X": user.close, "signal": lambda: signal.raise_signal(signal.SIGINT)}
        user.acts = ["", " ", "", ends[end]]
        assert show(video, BOX) == {"X": 1, "signal": 130}[end]
        assert len(rows_in()) == 2

    def test_after_a_pause_the_newest_frame_of_a_live_source_comes(
        self, user: User, video: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def camera() -> Iterator[np.ndarray]:
            while True:
                time.sleep(0.01)
                yield frame(100, 80)

        source = NewestFrame("camera", camera)
        frames = Frames("camera", None, None, lambda: iter(source), source)
        monkeypatch.setattr("rbsf.datasets.video.frames.open_frames", lambda name: frames)
        user.acts = ["", "", " ", lambda: time.sleep(0.3), " ", "", "q"]
        assert show(video, BOX) == 0
        times = [float(row["time"]) for row in rows_in()]
        assert len(times) == 5
        assert times[3] - times[2] > 0.25
        assert source.count.age < 0.1
        assert source.count.dropped > 9

    def test_a_new_box_counts_from_the_frame_in_which_it_is_drawn(
        self, user: User, video: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # A click does nothing. The first `b` is given up.
        click = (lambda: user.drag((5, 5), (5, 5)), ESCAPE)
        user.acts = ["", "", "b", *click, "b", lambda: user.drag(*DRAG), ""]
        assert show(video, "--init=10,10,30,30") == 0
        rows = rows_in()
        assert len(rows) == 12
        assert "target" not in rows[0]
        assert rows[2]["score"] != "1.0"
        assert (box_in(rows[3]), rows[3]["score"]) == (DRAWN, "1.0")
        assert "frame 3: target 1 has a new box\n" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["boxes.csv", "boxes.json"])
    def test_one_more_target_gives_all_rows_a_column(
        self, user: User, video: str, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("rbsf.tools.tracking.box_writer.FLUSH_SECONDS", 0)
        user.acts = ["", "", "", "a", lambda: user.drag((20, 20), (80, 80))]
        assert show(video, BOX, "--boxes", name) == 0
        rows = rows_in() if name == "boxes.csv" else json.loads(Path(name).read_text())
        rows = [{column: str(value) for column, value in row.items()} for row in rows]
        assert list(rows[0])[:4] == ["frame", "time", "target", "x"]
        numbers = [(row["frame"], row["target"]) for row in rows]
        assert numbers[:5] == [("0", "1"), ("1", "1"), ("2", "1"), ("3", "1"), ("3", "2")]
        assert len(rows) == 3 + 2 * 9
        assert box_in(rows[0]) == DRAWN
        assert box_in(rows[4]) == (10, 10, 30, 30)

    def test_of_several_targets_the_one_clicked_on_is_dropped_or_corrected(
        self, user: User, video: str
    ) -> None:
        def click() -> None:
            user.drag((45, 55), (45, 55))

        user.acts = ["d", click, "", "b", click, lambda: user.drag((30, 30), (60, 60))]
        boxes = ("--init=12,16,20,20", BOX, "--init=10,10,30,30")
        assert show(video, *boxes) == 0
        rows = rows_in()
        assert {row["target"] for row in rows} == {"2", "3"}
        assert box_in(rows[5]) == (15, 15, 15, 15)
        assert float(rows[-2]["x"]) == pytest.approx(133, abs=5)

    def test_a_target_that_follows_the_only_one_has_its_own_number(
        self, user: User, video: str
    ) -> None:
        user.acts = ["", "", "d", "b", "a", lambda: user.drag(*DRAG)]
        assert show(video, BOX) == 0
        numbers = [(row["frame"], row["target"]) for row in rows_in()]
        assert numbers[:3] == [("0", "1"), ("1", "1"), ("4", "2")]
        assert len(numbers) == 2 + 8

    def test_a_full_disk_while_the_column_is_added_keeps_the_rows(
        self, user: User, video: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, content: bytes) -> None:
            raise OSError(f"cannot write {path}: No space left on device")

        monkeypatch.setattr("rbsf.tools.tracking.box_writer.FLUSH_SECONDS", 0)
        monkeypatch.setattr("rbsf.tools.tracking.box_writer.write_atomically", full)
        user.acts = ["", "", "a", lambda: user.drag((20, 20), (80, 80))]
        with pytest.raises(OSError, match="No space left"):
            show(video, BOX)
        assert [row["frame"] for row in rows_in()] == ["0", "1"]


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    with virtual_screen() as screen:
        yield screen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is quick, and videos."""
    folder = tmp_path_factory.mktemp("shown")
    write_packed(folder / "rbsf.safetensors", random_model(0, SLIM))
    for name, count in (("short", 12), ("long", 900)):
        with VideoWriter(folder / f"{name}.mp4", 25) as writer:
            for number in range(count):
                writer.write(frame(100 + number % 40, 80))
    large = cv2.resize(frame(100, 80), (3840, 2160))
    with VideoWriter(folder / "large.mp4", 25) as writer:
        for _ in range(2):
            writer.write(large)
    return folder


class Run:
    """A run of track.py in a process of its own, in the folder `here`."""

    def __init__(self, screen: Screen, folder: Path, here: Path, *flags: str) -> None:
        weights = ("--weights", str(folder / "rbsf.safetensors"), "--threads", "1")
        outputs = ("--boxes", "boxes.csv", "--out", "out.mp4")
        command = [sys.executable, str(ROOT / "tools/track.py"), *weights, *outputs, *flags]
        pipe = subprocess.PIPE
        self.here = here
        self.process = subprocess.Popen(
            command, cwd=here, env=screen.environment, stdout=pipe, stderr=pipe, text=True
        )

    def end(self, signum: int | None = None) -> tuple[int, str]:
        """Exit code and the last line of what it says, after a signal."""
        if signum:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=60)
        assert "Traceback" not in err
        lines = [*out.splitlines(), *err.splitlines()]
        return self.process.returncode, lines[-1]

    def count(self) -> int:
        """Rows that are on the disk so far."""
        part = self.here / "boxes.csv.part"
        return len(part.read_text().splitlines()) - 1 if part.exists() else 0


Start = Callable[..., Run]


@pytest.fixture
def start(screen: Screen, folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a run on a video of `folder`; ends it with the test."""
    runs: list[Run] = []

    def start(video: str, *flags: str) -> Run:
        runs.append(Run(screen, folder, tmp_path, "--video", str(folder / video), *flags))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()


def test_a_box_is_drawn_and_its_run_closed(screen: Screen, start: Start, tmp_path: Path) -> None:
    run = start("long.mp4", "--select", "--show")
    screen.drag(*DRAG)
    screen.press("Return")
    screen.press("space")
    screen.close()
    assert run.end()[0] == 1
    rows = rows_in(tmp_path)
    assert box_in(rows[0]) == DRAWN
    assert 1 <= len(rows) < 900
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == len(rows)


@pytest.mark.slow
class TestOnScreen:
    @pytest.mark.parametrize("key", ["space", "Return", "KP_Enter"])
    def test_a_key_ends_a_drag_whose_button_is_held(
        self, screen: Screen, start: Start, tmp_path: Path, key: str
    ) -> None:
        run = start("short.mp4", "--select")
        screen.drag(*DRAG, release=False)
        screen.press(key)
        screen.release()
        assert run.end()[0] == 0
        assert box_in(rows_in(tmp_path)[0]) == DRAWN
        assert len(rows_in(tmp_path)) == 12

    def test_a_4k_frame(self, screen: Screen, start: Start, tmp_path: Path) -> None:
        run = start("large.mp4", "--select")
        width, height = screen.size()
        assert width <= SIZE[0]
        assert height <= SIZE[1]
        scale = 3840 / width
        left, top = round(1200 / scale), round(720 / scale)
        screen.drag((left, top), (round(1776 / scale), round(1044 / scale)))
        screen.press("Return")
        assert run.end()[0] == 0
        assert box_in(rows_in(tmp_path)[0]) == pytest.approx((1200, 720, 576, 324), abs=4)

    def test_the_window_of_the_choice_is_gone_while_the_run_goes_on(
        self, screen: Screen, start: Start
    ) -> None:
        run = start("long.mp4", "--select")
        screen.drag(*DRAG)
        screen.press("Return")
        wait_for(lambda: run.count() > 0)
        assert not screen.has_window()
        assert run.process.poll() is None
        assert run.end(signal.SIGINT)[0] == 130

    @pytest.mark.parametrize(
        ("act", "code", "line"),
        [
            ("Escape", 1, "error: the selection was cancelled and no box was drawn"),
            ("q", 1, "error: the selection was cancelled and no box was drawn"),
            ("X", 1, "error: the window was closed and no box was drawn"),
            ("SIGINT", 130, "interrupted"),
            ("SIGTERM", -signal.SIGTERM, "by its header"),  # nothing more is said
        ],
    )
    def test_a_choice_is_given_up(
        self, screen: Screen, start: Start, tmp_path: Path, act: str, code: int, line: str
    ) -> None:
        run = start("short.mp4", "--select")
        ended, said = run.end(do(screen, act))
        assert ended == code
        assert line in said
        assert not list(tmp_path.glob("[!.]*"))

    @pytest.mark.parametrize(
        ("act", "code"), [("q", 0), ("Escape", 0), ("X", 1), ("SIGINT", 130), ("SIGTERM", 143)]
    )
    @pytest.mark.parametrize("paused", [True, False])
    def test_a_run_is_ended(
        self, screen: Screen, start: Start, tmp_path: Path, act: str, code: int, paused: bool
    ) -> None:
        run = start("long.mp4", BOX, "--show")
        screen.window()
        if paused:
            screen.press("space")
        assert run.end(do(screen, act))[0] == code
        rows = rows_in(tmp_path)
        assert 1 <= len(rows) < 900
        video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(rows)

    def test_targets_are_changed_in_a_pause(
        self, screen: Screen, start: Start, tmp_path: Path
    ) -> None:
        run = start("long.mp4", BOX, "--show")
        screen.window()
        screen.press("space")
        time.sleep(0.3)
        before = run.count()
        screen.press("b")
        screen.drag((40, 40), (100, 100))
        screen.press("a")
        screen.drag((400, 300), (480, 380))
        screen.press("a")
        screen.drag((300, 40), (360, 100), release=False)
        screen.press("Return")
        screen.release()
        screen.press("d")
        screen.click((440, 340))
        time.sleep(1.2)
        assert run.count() == before
        screen.press("space")
        wait_for(lambda: run.count() > before)
        screen.press("q")
        assert run.end()[0] == 0
        rows = rows_in(tmp_path)
        changed = next(int(row["frame"]) for row in rows if row["target"] == "3")
        first, third = rows[changed : changed + 2]
        assert (first["frame"], first["target"], third["target"]) == (third["frame"], "1", "3")
        assert box_in(first) == (20, 20, 30, 30)
        assert box_in(third) == (150, 20, 30, 30)
        assert {row["target"] for row in rows} == {"1", "3"}
        assert all(row["target"] == "1" for row in rows[:changed])
        assert int(rows[-1]["frame"]) > changed


def do(screen: Screen, act: str) -> int | None:
    """Press a key or close the window; returns the signal to send instead."""
    screen.window()
    if act.startswith("SIG"):
        return signal.Signals[act]
    if act == "X":
        screen.close()
    else:
        screen.press(act)
    return None
