"""The page end to end: a running server, Chromium, a real pointer, keys and fingers."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from requirements import needs, skip_without
from websockets.sync.client import connect

from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.writer import VideoWriter
from rbsf.eval.metrics import overlaps
from rbsf.shipped import DEFAULT
from rbsf.system.program import ENVIRONMENT
from rbsf.tools.page.clips import CLIPS

playwright = pytest.importorskip(
    "playwright.sync_api", reason=needs("chromium", "Playwright is not installed")
)
pytestmark = pytest.mark.slow

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {360: 740, 390: 844, 768: 1024, 1280: 800}  # and heights, pixels
PATIENCE = 20_000  # milliseconds for what takes one or two seconds on an idle machine
SCENE = CLIPS[0].open()[1]
SIZE = SCENE.size
Page = Any  # of Playwright, which may be missing


class Server:
    """A running server; its temporary files are in `folder`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        command = [sys.executable, "tools/serve.py", "--port", "0", "--threads", "1", *flags]
        env = {**os.environ, **ENVIRONMENT, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        address = re.search(r"http://\S+", self.process.stdout.readline())
        assert address, self.process.stderr and self.process.stderr.read()
        self.address = address[0]
        self.port = int(re.findall(r":(\d+)/", self.address)[0])

    def files(self) -> list[str]:
        return [path.name for path in self.folder.rglob("*") if path.is_file()]

    def end(self, signum: int) -> str:
        """What it wrote to stderr until its end."""
        self.process.send_signal(signum)
        return self.process.communicate(timeout=30)[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "--max-upload", "5", "--max-length", "300")
    try:
        yield server
    finally:
        assert server.end(signal.SIGINT) == "interrupted\n"
    assert server.process.returncode == 130
    assert list(server.folder.iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        skip_without("chromium", "there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "my film.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in range(12):
            writer.write(SCENE.render(frame)[0])
    return path


Opener = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, server: Server) -> Opener:
    """Opens the page; on leaving, the console must have shown no error."""

    @contextmanager
    def visit(width: int = 1280, theme: str = "light", touch: bool = False) -> Iterator[Page]:
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]},
            color_scheme=theme,
            has_touch=touch,
            is_mobile=touch,
            permissions=["camera"],
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        faults: list[str] = []
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        try:
            page.goto(server.address)
            yield page
        finally:
            context.close()
        assert faults == []

    return visit


@pytest.fixture
def page(visit: Opener) -> Iterator[Page]:
    with visit() as page:
        wait_for_view(page)
        yield page


def until(condition: Callable[[], object], page: Page = None) -> None:
    """Wait for a condition; `page`: one that has to go on meanwhile."""
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, "this did not come in time"
        if page:
            page.wait_for_timeout(20)
        else:
            time.sleep(0.02)


def wait_for_frame(page: Page, frame: int) -> None:
    page.locator("#place").get_by_text(f"frame {frame} /").wait_for()


def wait_for_view(page: Page) -> None:
    wait_for_frame(page, 0)
    page.locator("#progress").wait_for(state="hidden")


def frame_of(page: Page) -> int:
    return int(re.findall(r"\d+", page.locator("#place").inner_text())[0])


def is_view(message: str | bytes) -> bool:
    """Whether a message of the server is a picture of a view."""
    return isinstance(message, bytes) and b'"view"' in message


def boxes_of(page: Page, tracker: str = DEFAULT) -> list[list[float]]:
    """The boxes that the picture's label tells."""
    label = page.locator(f"[data-tracker={tracker}] canvas").get_attribute("aria-label")
    found = re.findall(r"x (-?\d+), y (-?\d+), (\d+) by (\d+)", label)
    return [[float(value) for value in box] for box in found]


def overlap(page: Page, box: list[float]) -> float:
    """With the true box of the frame that is shown."""
    return float(overlaps(np.array([box]), SCENE.box(frame_of(page))[None])[0])


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """A place of the frame in the window."""
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    shown = canvas.bounding_box()
    return (
        shown["x"] + x * shown["width"] / SIZE[0],
        shown["y"] + y * shown["height"] / SIZE[1],
    )


def drag(page: Page, box: np.ndarray | list[float], backwards: bool = False) -> None:
    """Draw a box with the mouse."""
    x, y, w, h = (float(value) for value in box)
    corners = [on_screen(page, x, y), on_screen(page, x + w, y + h)]
    start, end = reversed(corners) if backwards else corners
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def wait_for_target(page: Page, count: int = 1) -> None:
    until(lambda: page.locator(".target button").count() == count, page)


def wait_for_words(page: Page, words: str, place: str = "#live") -> None:
    until(lambda: words in page.locator(place).first.text_content(), page)


def play_until(page: Page, frame: int) -> None:
    """Play until a frame has come, then pause."""
    page.locator("#play").click()
    until(lambda: frame_of(page) >= frame, page)
    page.locator("#play").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()


def test_from_opening_to_a_moving_box(visit: Opener) -> None:
    start = time.perf_counter()
    with visit() as page:
        wait_for_view(page)
        shown = time.perf_counter() - start
        assert page.locator(".figures").inner_text() == ""  # nothing is tracked yet
        drag(page, SCENE.box(0))
        wait_for_target(page)
        first = boxes_of(page)
        page.locator("#play").click()
        until(lambda: boxes_of(page) != first, page)
        moving = time.perf_counter() - start
        until(lambda: frame_of(page) >= 12, page)
        page.locator("#play").click()
        page.get_by_role("button", name="Play", exact=True).wait_for()
        assert overlap(page, boxes_of(page)[0]) > 0.5
        figures = page.locator(".figures").inner_text()
        assert re.fullmatch(r"\d+ frames/s · \d+ ms old", figures)
        assert re.fullmatch(r"tracked score 0\.\d\d", page.locator(".found").inner_text())
    print(f"\nfirst picture after {shown:.1f} s, moving box after {moving:.1f} s; {figures}")


def test_a_correction_is_undone_by_a_key(page: Page) -> None:
    drag(page, SCENE.box(0), backwards=True)
    wait_for_target(page)
    play_until(page, 4)
    frame, before = frame_of(page), boxes_of(page)
    drag(page, [300, 200, 60, 50])
    wait_for_words(page, "your box", ".found")
    (box,) = boxes_of(page)
    assert np.abs(np.array(box) - [300, 200, 60, 50]).max() < 2
    page.keyboard.press("Control+z")
    wait_for_words(page, f"Taken back, at frame {frame}.")
    assert boxes_of(page) == before
    page.mouse.move(*on_screen(page, 100, 100))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 103, 101))
    page.mouse.up()
    wait_for_words(page, "That box is 3 × 1 pixels.", "#problem")
    assert boxes_of(page) == before


def test_targets_jumps_and_steps(page: Page) -> None:
    page.locator("#suggest").click()
    wait_for_target(page)
    for _ in range(3):
        page.keyboard.press("d")
    wait_for_frame(page, 3)
    kept = boxes_of(page)
    page.locator("#add").click()
    drag(page, [200, 230, 60, 60])
    wait_for_target(page, 2)
    assert len(boxes_of(page)) == 2
    page.keyboard.press("ArrowLeft")
    wait_for_frame(page, 2)
    assert len(boxes_of(page)) == 1
    page.locator("#slider").fill("150")
    wait_for_frame(page, 150)
    assert boxes_of(page) == []
    assert "Play goes on from frame 3" in page.locator("#hint").inner_text()
    page.locator("#play").click()
    until(lambda: 5 <= frame_of(page) < 150, page)
    page.locator("#play").click()
    page.locator("#slider").fill("3")
    wait_for_frame(page, 3)
    assert boxes_of(page)[0] == kept[0]
    page.get_by_role("button", name="Drop target 2 from this frame on").click()
    wait_for_target(page, 1)
    assert boxes_of(page) == kept


def test_keys_alone_are_enough(page: Page) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "x":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    for value in SCENE.box(0):
        page.keyboard.press("Control+a")
        page.keyboard.type(f"{value:.1f}")
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_words(page, "Target 1 added.")
    page.locator("#play").focus()
    page.keyboard.press("Enter")
    until(lambda: frame_of(page) >= 3, page)
    page.keyboard.press("Enter")
    wait_for_words(page, "Paused at frame")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter((each) => "
        "!each.labels?.length && !each.ariaLabel && !each.textContent.trim()).length"
    )
    assert unnamed == 0


def test_two_trackers_side_by_side_with_response_maps(page: Page) -> None:
    page.locator("#suggest").click()
    wait_for_target(page)
    page.locator("#next").click()
    wait_for_frame(page, 1)
    page.get_by_label("SiamFC").check()
    page.locator("[data-tracker=siamfc] .found li").wait_for(timeout=2 * PATIENCE)
    assert overlap(page, boxes_of(page, "siamfc")[0]) > 0.5
    page.get_by_label("Play without waiting").check()
    plain = page.locator("[data-tracker=siamfc] canvas").screenshot()
    page.get_by_label("Response map").check()
    play_until(page, 3)
    for tracker in (DEFAULT, "siamfc"):
        (box,) = boxes_of(page, tracker)
        assert overlap(page, box) > 0.5
    assert page.locator("[data-tracker=siamfc] canvas").screenshot() != plain
    assert page.locator("#saved option").all_inner_texts() == ["RB-SF 2", "SiamFC, float"]


def test_a_finger_draws_on_a_phone(visit: Opener) -> None:
    with visit(390, "dark", touch=True) as page:
        wait_for_view(page)
        x, y, w, h = SCENE.box(0)
        start, end = on_screen(page, x, y), on_screen(page, x + w, y + h)
        finger = page.context.new_cdp_session(page)

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": place[0], "y": place[1]} for place in places]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", start)
        touch("touchMove", end)
        touch("touchCancel")
        page.wait_for_timeout(200)
        wait_for_target(page, 0)
        scrolled = page.evaluate("window.scrollY")
        touch("touchStart", start)
        touch("touchMove", ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        touch("touchMove", end)
        touch("touchEnd")
        wait_for_target(page)
        assert page.evaluate("window.scrollY") == scrolled
        (box,) = boxes_of(page)
        assert overlap(page, box) > 0.8
        page.wait_for_timeout(1000)  # the browser makes no click of a tap right after a drag
        page.locator("#play").tap()
        until(lambda: frame_of(page) >= 2, page)
        page.locator("#play").tap()


def test_it_fits_every_width_and_is_readable_in_both_themes(page: Page) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        colors = page.evaluate(
            "[['body', 'color'], ['body', 'backgroundColor'], ['.quiet', 'color']].map("
            "([place, name]) => getComputedStyle(document.querySelector(place))[name])"
        )
        ink, ground, quiet = (luminance(color) for color in colors)
        assert (ground > ink) == (theme == "light")
        for color in (ink, quiet):
            light, dark = max(color, ground), min(color, ground)
            assert (light + 0.05) / (dark + 0.05) > 4.5


def luminance(color: str) -> float:
    """Of a colour as CSS writes it; WCAG 2."""
    levels = np.array([int(value) for value in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_video_is_sent_tracked_and_saved(
    page: Page, server: Server, film: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "large.mp4").write_bytes(b"\0" * 5_000_001)
    (tmp_path / "letter.mp4").write_text("hello " * 100)
    (tmp_path / "letter.txt").write_text("hello")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 100)
    for name, words in (
        ("empty.mp4", "The file empty.mp4 is empty (0 bytes)."),
        ("large.mp4", "The file large.mp4 is larger than 5 MB"),
        ("letter.txt", "The file letter.txt is no video by its name."),
        ("letter.mp4", "The file letter.mp4 is a text, whatever its name says; choose a video."),
        ("noise.mp4", "noise.mp4"),
    ):
        page.locator("#file").set_input_files(tmp_path / name)
        wait_for_words(page, words, "#problem")
    page.locator("#file").set_input_files(film)
    wait_for_words(page, "Opened: my film.mp4.")
    assert page.locator("#problem").is_hidden()
    page.get_by_text("frame 0 / 11").wait_for()
    drag(page, SCENE.box(0))
    wait_for_target(page)
    page.get_by_label("Play without waiting").check()
    page.locator("#play").click()
    wait_for_words(page, "This is the last frame.")
    assert frame_of(page) == 11
    page.locator("#play").click()  # from the beginning, by what is kept
    until(lambda: frame_of(page) < 11, page)
    wait_for_words(page, "This is the last frame.")
    (box,) = boxes_of(page)
    assert overlap(page, box) > 0.5

    def saved(button: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=button, exact=True).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    rows = list(csv.DictReader(saved("Boxes, CSV").open()))
    assert len(rows) == 12
    assert abs(float(rows[-1]["x"]) - box[0]) <= 0.5
    assert len(saved("Boxes, MOT").read_text().splitlines()) == 12
    assert len(json.loads(saved("Boxes, COCO").read_text())["annotations"]) == 12
    assert cv2.imread(str(saved("This frame, PNG"))).shape == (SIZE[1], SIZE[0], 3)
    path = saved("Video")
    assert path.stem == "my_film_tracked"
    assert sum(1 for _ in open_frames(path)) == 12
    page.close()
    until(lambda: not server.files())


def send_slowly(page: Page, folder: Path) -> None:
    """Begin an upload that takes about 40 s."""
    (folder / "slow.mp4").write_bytes(b"\0\1" * 2_000_000)
    network = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    network.send("Network.emulateNetworkConditions", limits)
    page.locator("#file").set_input_files(folder / "slow.mp4")
    page.get_by_text("Sending slow.mp4").wait_for()


def test_an_upload_is_cancelled_and_leaves_nothing(
    page: Page, server: Server, tmp_path: Path
) -> None:
    send_slowly(page, tmp_path)
    assert page.locator("#file").is_disabled()
    page.locator("#next").click()  # other work hides it not, nor what cancels it
    wait_for_frame(page, 1)
    assert page.get_by_text("Sending slow.mp4").is_visible()
    page.locator("#play").click()  # nor does its message hide the button
    page.locator("#play").click()
    wait_for_words(page, "Paused")  # it would come over "Cancelled."
    page.locator("#cancel").click()
    wait_for_words(page, "Cancelled.")
    until(lambda: not server.files())
    page.locator("#suggest").click()
    wait_for_target(page)


def test_the_end_of_a_clip_is_no_problem(page: Page) -> None:
    page.locator("#slider").fill("198")
    wait_for_frame(page, 198)
    page.locator("#play").click()
    wait_for_words(page, "This is the last frame.")
    assert page.locator("#problem").is_hidden()


def test_problems_and_the_play_button_are_in_sight(visit: Opener) -> None:
    with visit(1280) as page:
        wait_for_view(page)
        play = page.locator("#play").bounding_box()
        assert play["y"] + play["height"] < WIDTHS[1280]
    with visit(390) as page:
        wait_for_view(page)
        for place in (page.get_by_text("Boxes, CSV"), page.locator("h1")):
            place.scroll_into_view_if_needed()
            page.locator("[data-form='.csv']").dispatch_event("click")
            wait_for_words(page, "There are no boxes yet", "#problem")
            shown = page.locator("#problem").bounding_box()
            assert 0 < shown["y"] < WIDTHS[390] - shown["height"]


def test_the_camera_is_tracked(page: Page) -> None:
    page.locator("#camera").click()
    until(lambda: frame_of(page) >= 2 and page.locator("#place").inner_text().count("/"), page)
    shown = page.locator("canvas").bounding_box()
    page.mouse.move(shown["x"] + shown["width"] * 0.3, shown["y"] + shown["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(shown["x"] + shown["width"] * 0.5, shown["y"] + shown["height"] * 0.6, steps=3)
    page.mouse.up()
    wait_for_target(page)
    wait_for_words(page, "score", ".found")
    page.get_by_role("button", name="Stop the camera").click()
    page.get_by_role("button", name="Use the camera").wait_for()
    last = frame_of(page)
    page.keyboard.press("ArrowLeft")
    wait_for_frame(page, last - 1)
    assert len(boxes_of(page)) <= 1


def test_others_wait_for_their_turn(visit: Opener, server: Server) -> None:
    with visit() as first, visit() as second:
        wait_for_view(first)
        wait_for_view(second)
        with visit() as waiting:
            waiting.locator("#waiting").get_by_text("You are number 1 in line.").wait_for()
            second.locator("#suggest").click()
            wait_for_target(second)
            second.locator("#play").click()
            second.close()
            wait_for_view(waiting)
            waiting.locator("#suggest").click()
            wait_for_target(waiting)
    until(lambda: not server.files())


def test_two_gigabytes_are_refused_at_once_and_half_an_upload_leaves_nothing(
    server: Server,
) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/live") as visit:
        viewer = json.loads(visit.recv())["viewer"]
        head = f"POST /upload?viewer={viewer}&name=a.mp4 HTTP/1.1\r\nHost: localhost\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sender:
            sender.sendall(f"{head}Content-Length: {2**31}\r\n\r\n".encode())
            assert sender.recv(100).startswith(b"HTTP/1.1 413")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sender:
            sender.sendall(f"{head}Content-Length: 4000000\r\n\r\n".encode() + b"\0" * 100_000)
            until(server.files)
        until(lambda: not server.files())
        visit.send('{"do":"clip","number":0}')
        until(lambda: is_view(visit.recv(timeout=PATIENCE / 1000)))


def test_ctrl_c_during_an_upload_leaves_one_line_and_nothing_else(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with connect(f"ws://127.0.0.1:{server.port}/live") as visit:
        viewer = json.loads(visit.recv())["viewer"]
        head = f"POST /upload?viewer={viewer}&name=a.mp4 HTTP/1.1\r\nHost: localhost\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sender:
            sender.sendall(f"{head}Content-Length: 4000000\r\n\r\n".encode() + b"\0" * 100_000)
            until(server.files)
            assert server.end(signal.SIGINT) == "interrupted\n"
    assert server.process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(server: Server) -> None:
    command = [sys.executable, "tools/serve.py", "--port", str(server.port)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: port \d+ of 127.0.0.1 is in use; .*--port 0.*\n", done.stderr)
