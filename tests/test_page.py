"""The server of the page: its protocol, its limits, what it refuses, and that no file stays."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import anyio
import cv2
import numpy as np
import pytest
from conftest import ROOT
from starlette.requests import Request
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from rbsf.datasets.synthetic.videos import make_sequence
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.sources import Frames
from rbsf.datasets.video.writer import VideoWriter
from rbsf.shipped import DEFAULT, shipped_trackers
from rbsf.tools import serve
from rbsf.tools.page import attend, clips, desk, footage, lanes, uploads
from rbsf.tools.page.clips import Clip
from rbsf.tools.page.desk import Desk
from rbsf.tools.page.footage import CameraFootage, EndOfVideo, VideoFootage, encode
from rbsf.tools.page.messages import Message, is_cancel
from rbsf.tools.page.server import make_app, open_port
from rbsf.tools.page.settings import Refused, Settings
from rbsf.tools.page.spool import Spool
from rbsf.tools.page.viewers import Viewer
from rbsf.tools.page.work import Cancelled, Work
from rbsf.tracker.loading import constants_of, load_network
from rbsf.tracker.session import follow

FRAMES = 8
SIZE = (160, 120)
LOCAL = "http://localhost"
LIVE = "ws://localhost/live"
SETTINGS = Settings(users=2, threads=1, max_upload=1, max_length=FRAMES)
BOX = [60, 40, 30, 24]
BAD_BOXES: list[tuple[list[Any], str]] = [
    ([20, 20, 1, 1], "box is 1 x 1 pixels; draw one of at least 4 x 4"),
    ([500, 20, 30, 30], "lies outside the 160x120 frame"),
    ([20, 20, -5, 30], "has no area"),
    ([158, 20, 30, 30], "box is 2 x 30 pixels"),
    ([20, 20, 30], "box is not x, y, w and h"),
    ([20, 20, 30, None], "h is no number"),
    ([20, 20, 30, float("inf")], "it is not JSON"),
    ([20, 20, 30, 10**400], "h is no number"),
    ([-1e308, 20, 1.7e308, 30], "x is no number"),
]
MALFORMED = [
    "",
    "{",
    "[]",
    "null",
    '{"do": 3}',
    '{"do": "fly"}',
    '{"do": "show"}',
    '{"do": "show", "frame": -1}',
    '{"do": "show", "frame": 1.5}',
    '{"do": "show", "frame": true}',
    '{"do": "show", "frame": 0, "asked": NaN}',
    '{"do": "draw", "frame": 99, "box": [1, 2, 30, 40]}',
    '{"do": "draw", "frame": 0, "target": 7, "box": [1, 2, 30, 40]}',
    '{"do": "drop", "frame": 0, "target": 7}',
    '{"do": "clip", "number": 77}',
    '{"do": "open"}',
    '{"do": "frame", "seconds": 0}',
    '{"do": "trackers", "names": ["../weights"], "frame": 0}',
    '{"do": "trackers", "names": [], "frame": 0}',
    '{"do": "boxes", "tracker": "rbsf", "form": ".exe"}',
    '{"do": "boxes", "tracker": "rbsf", "form": ".csv"}',
    '{"do": "boxes", "tracker": "none", "form": ".csv"}',
    '{"do": "video", "tracker": "rbsf"}',
    "[" * 100_000,
]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, and beside it other files that are none."""
    folder = tmp_path_factory.mktemp("film")
    with VideoWriter(folder / "film.mp4", 25) as writer:
        for image, _ in make_sequence(5, FRAMES, SIZE):
            writer.write(image)
    return folder / "film.mp4"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The server, whose temporary files are below `tmp_path`; it has one small clip."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = (Clip("Small", 5),)
    monkeypatch.setattr(clips, "SIZE", SIZE)
    monkeypatch.setattr(clips, "FRAMES", FRAMES)
    monkeypatch.setattr(attend, "CLIPS", small)
    monkeypatch.setattr(desk, "CLIPS", small)
    with TestClient(make_app(SETTINGS), base_url=LOCAL) as client:
        yield client


class Page:
    """What the page does with a WebSocket."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.hello = socket.receive_json()

    def send(self, picture: bytes | None = None, **message: Any) -> None:
        text = json.dumps(message)
        if picture is None:
            self.socket.send_text(text)
        else:
            self.socket.send_bytes(struct.pack(">I", len(text)) + text.encode() + picture)

    def answer(self) -> tuple[dict[str, Any], bytes]:
        while True:
            message = self.socket.receive()
            assert message["type"] == "websocket.send", message
            if message.get("text") is not None:
                header, data = json.loads(message["text"]), b""
            else:
                (length,) = struct.unpack_from(">I", message["bytes"])
                header = json.loads(message["bytes"][4 : 4 + length])
                data = message["bytes"][4 + length :]
            if header["type"] != "progress":
                return header, data

    def ask(self, picture: bytes | None = None, **message: Any) -> dict[str, Any]:
        self.send(picture, **message)
        return self.answer()[0]

    def upload(self, client: TestClient, path: Path, name: str = "") -> Any:
        query = {"viewer": self.hello["viewer"], "name": name or path.name}
        return client.post("/upload", params=query, content=path.read_bytes())


@contextlib.contextmanager
def visit(client: TestClient) -> Iterator[Page]:
    with client.websocket_connect(LIVE) as socket:
        yield Page(socket)


@pytest.fixture
def page(client: TestClient) -> Iterator[Page]:
    with visit(client) as page:
        assert page.ask(do="clip", number=0)["type"] == "view"
        yield page


def found(view: dict[str, Any]) -> list[list[float]]:
    """The boxes of the first tracker."""
    return [target["box"] for target in view["lanes"][0]["targets"]]


def refusal(page: Page) -> str:
    """Why the video that was sent is not opened."""
    answer = page.ask(do="open")
    assert answer["type"] == "refused", answer
    return str(answer["text"])


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class TestProtocol:
    def test_a_view_is_a_header_and_a_jpeg(self, page: Page) -> None:
        page.send(do="show", frame=3, asked=12.5)
        header, data = page.answer()
        assert (header["frame"], header["count"], header["fps"]) == (3, FRAMES, 25)
        assert (header["width"], header["height"]) == SIZE
        assert header["asked"] == 12.5
        assert header["seconds"] == pytest.approx(0.12)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (SIZE[1], SIZE[0], 3)

    def test_boxes_are_those_of_a_session(self, page: Page) -> None:
        view = page.ask(do="draw", frame=0, target=None, box=BOX)
        assert view["targets"] == [1]
        assert found(view) == [BOX]
        assert view["lanes"][0]["targets"][0]["drawn"]
        got = []
        for frame in range(3):
            view = page.ask(do="step", frame=frame)
            assert view["lanes"][0]["milliseconds"] > 0
            got += found(view)
        path = shipped_trackers()[DEFAULT]
        frames, _ = Clip("", 5).open()
        network = load_network(path, "cpu", threads=1)
        tracked = follow(frames.start(), [BOX], network, constants_of(path)())
        wanted = [next(tracked).results[1].box for _ in range(4)][1:]
        np.testing.assert_allclose(got, wanted, atol=0.005)

    def test_frames_that_were_tracked_are_shown_from_what_is_kept(self, page: Page) -> None:
        page.ask(do="draw", frame=0, target=None, box=BOX)
        views = [page.ask(do="step", frame=frame) for frame in range(4)]
        assert found(page.ask(do="show", frame=2)) == found(views[1])
        far = page.ask(do="show", frame=7)
        assert (found(far), far["reach"]) == ([], [4, 4])
        assert found(page.ask(do="step", frame=4)) != []

    def test_the_response_map_covers_the_search_region(self, page: Page) -> None:
        page.ask(do="draw", frame=0, target=None, box=BOX)
        assert page.ask(do="step", frame=0)["lanes"][0]["targets"][0]["map"] is None
        map = page.ask(do="step", frame=1, maps=True)["lanes"][0]["targets"][0]["map"]
        side = {"rbsf": 17, "rbsf2": 15}[DEFAULT]
        assert (map["rows"], map["columns"]) == (side, side)
        x, y, w, h = map["box"]
        assert x < 75 < x + w
        assert y < 52 < y + h

    def test_the_end_is_told(self, page: Page) -> None:
        ended = page.ask(do="step", frame=FRAMES - 1)
        assert (ended["type"], ended["count"], ended["note"]) == ("ended", FRAMES, "")

    def test_a_clip_tells_its_true_box(self, page: Page) -> None:
        _, box = list(make_sequence(5, FRAMES, SIZE))[4]
        assert page.ask(do="show", frame=4)["suggested"] == pytest.approx(list(box), abs=0.01)

    def test_only_shipped_trackers_that_run_here_are_offered(
        self, page: Page, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [tracker["name"] for tracker in page.hello["trackers"]]
        assert names == list(shipped_trackers())
        lanes.offered.cache_clear()
        monkeypatch.setattr(lanes, "find_spec", lambda name: None)
        assert "siamfc" not in lanes.offered()
        assert "rbsf" in lanes.offered()
        lanes.offered.cache_clear()


class TestTargets:
    def test_a_correction_is_a_new_start_that_can_be_undone(self, page: Page) -> None:
        page.ask(do="draw", frame=0, target=None, box=BOX)
        before = [found(page.ask(do="step", frame=frame)) for frame in range(4)]
        view = page.ask(do="draw", frame=2, target=1, box=[10, 10, 20, 20])
        assert (found(view), view["reach"], view["undo"]) == ([[10, 10, 20, 20]], [2, 2], 2)
        assert found(page.ask(do="show", frame=3)) == []
        assert found(page.ask(do="step", frame=2)) != before[2]
        back = page.ask(do="undo")
        assert (back["frame"], found(back), back["reach"]) == (2, before[1], [4, 4])
        assert found(page.ask(do="show", frame=4)) == before[3]
        assert page.ask(do="undo")["targets"] == []
        assert page.ask(do="undo")["text"] == "There is nothing to undo."

    def test_targets_are_added_and_dropped_each_in_its_frame(self, page: Page) -> None:
        page.ask(do="draw", frame=0, target=None, box=BOX)
        page.ask(do="step", frame=0)
        assert page.ask(do="draw", frame=1, target=None, box=[5, 5, 30, 30])["targets"] == [1, 2]
        assert len(found(page.ask(do="step", frame=1))) == 2
        view = page.ask(do="drop", frame=2, target=1)
        assert (view["targets"], len(found(view))) == ([2], 1)
        assert len(found(page.ask(do="show", frame=1))) == 2
        assert page.ask(do="undo")["targets"] == [1, 2]
        assert page.ask(do="draw", frame=3, target=None, box=BOX)["targets"] == [1, 2, 3]

    def test_a_second_tracker_tracks_as_far_as_the_first(
        self, page: Page, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = shipped_trackers()["rbsf"]  # under two names; it loads in no time
        monkeypatch.setattr(desk, "offered", lambda: {"rbsf": path, "siamfc": path})
        page.ask(do="draw", frame=1, target=None, box=BOX)
        for frame in (1, 2):
            page.ask(do="step", frame=frame)
        page.ask(do="draw", frame=3, target=None, box=[5, 5, 30, 30])
        page.ask(do="step", frame=3)
        for frame, count in ((1, 1), (2, 1), (3, 2), (4, 2)):
            view = page.ask(do="trackers", names=["rbsf", "siamfc"], frame=frame)
            assert [lane["tracker"] for lane in view["lanes"]] == ["rbsf", "siamfc"]
            first, second = ([each["box"] for each in lane["targets"]] for lane in view["lanes"])
            assert (first, len(first)) == (second, count)
        view = page.ask(do="step", frame=4)
        assert all(len(lane["targets"]) == 2 for lane in view["lanes"])

    def test_a_tracker_that_was_cancelled_is_not_chosen(
        self, page: Page, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = shipped_trackers()[DEFAULT]
        monkeypatch.setattr(desk, "offered", lambda: {DEFAULT: path, "siamfc": path})
        page.ask(do="draw", frame=1, target=None, box=BOX)

        def cancel(*_: object) -> None:
            raise Cancelled

        with monkeypatch.context() as patch:
            patch.setattr(Work, "tell", cancel)
            answer = page.ask(do="trackers", names=["siamfc"], frame=1)
        assert answer == {"type": "cancelled"}
        assert [lane["tracker"] for lane in page.ask(do="show", frame=1)["lanes"]] == [DEFAULT]

    def test_a_bad_box_is_refused_in_a_sentence(self, page: Page) -> None:
        for box, words in BAD_BOXES:
            answer = page.ask(do="draw", frame=0, target=None, box=box)
            assert (answer["type"], words in answer["text"]) == ("refused", True), answer
        assert page.ask(do="draw", frame=0, target=None, box=BOX)["targets"] == [1]

    def test_a_box_that_reaches_outside_is_clipped_and_that_is_said(self, page: Page) -> None:
        view = page.ask(do="draw", frame=0, target=None, box=[-10, 20, 40, 30])
        assert found(view) == [[0, 20, 30, 30]]
        assert "clipped" in view["note"]


class TestMessages:
    def test_a_malformed_one_is_answered_in_a_sentence(self, page: Page) -> None:
        for text in MALFORMED:
            page.socket.send_text(text)
            answer = page.answer()[0]
            assert (answer["type"], answer["text"][-1]) == ("refused", "."), text
        for data in (b"", b"\0", b"\0\0\0\x05{", b"\xff\xff\xff\xff{}"):
            page.socket.send_bytes(data)
            assert page.answer()[0]["type"] == "refused", data
        assert page.ask(do="show", frame=0)["type"] == "view"

    def test_a_fault_of_ours_ends_no_visit(
        self, page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Desk, "do", fail)
            assert "fault" in page.ask(do="show", frame=0)["text"]
        assert "ZeroDivisionError" in caplog.text
        assert page.ask(do="show", frame=0)["type"] == "view"

    def test_a_page_that_does_not_wait_for_answers_is_sent_away(
        self, page: Page, client: TestClient
    ) -> None:
        for _ in range(200):
            page.send(do="show", frame=5)
        kinds = (page.socket.receive()["type"] for _ in range(400))
        assert "websocket.close" in kinds
        with visit(client) as other:
            assert other.ask(do="clip", number=0)["type"] == "view"


class TestUploads:
    def test_a_video_is_opened_and_removed_with_the_next_one(
        self, client: TestClient, film: Path, tmp_path: Path
    ) -> None:
        with visit(client) as page:
            answer = page.upload(client, film)
            assert (answer.status_code, answer.json()) == (200, {"name": "film.mp4"})
            view = page.ask(do="open")
            assert (view["name"], view["count"], view["suggested"]) == ("film.mp4", FRAMES, None)
            page.ask(do="draw", frame=0, target=None, box=BOX)
            assert found(page.ask(do="step", frame=0))
            assert [path.suffix for path in left_over(tmp_path)] == [".mp4"]
            page.ask(do="clip", number=0)
            assert left_over(tmp_path) == []

    def test_nothing_stays_when_a_viewer_leaves(
        self, client: TestClient, film: Path, tmp_path: Path
    ) -> None:
        with visit(client) as page:
            page.upload(client, film)
            page.ask(do="open")
            page.upload(client, film)
            assert len(left_over(tmp_path)) == 2
        with visit(client):
            assert left_over(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "content", "status", "words"),
        [
            ("empty.mp4", b"", 400, "empty (0 bytes)"),
            ("large.mp4", b"\0" * 1_000_001, 413, "larger than 1 MB"),
            ("letter.txt", b"hello", 415, "no video by its name"),
            ("", b"hello", 415, "the file is no video by its name"),
        ],
    )
    def test_a_wrong_file_is_not_taken(
        self,
        page: Page,
        client: TestClient,
        tmp_path: Path,
        name: str,
        content: bytes,
        status: int,
        words: str,
    ) -> None:
        query = {"viewer": page.hello["viewer"], "name": name}
        answer = client.post("/upload", params=query, content=content)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]
        assert left_over(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("letter.mp4", b"hello " * 100, "The file letter.mp4 is a text"),
            ("list.mp4", b"#EXTM3U\nfile:///etc/passwd\n", "is a text"),
            ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#\0", "is a text"),
            ("list.mp4", b"ffconcat version 1.0\nfile film.mp4\n#\0", "is a text"),
            ("noise.mp4", bytes(range(256)) * 40, "noise.mp4"),
            ("zeros.mp4", b"\0" * 9000, "Video zeros.mp4"),
            ("../../etc/x.mp4", bytes(range(256)) * 40, "Video x.mp4"),
        ],
    )
    def test_a_wrong_file_is_not_opened(
        self,
        page: Page,
        client: TestClient,
        tmp_path: Path,
        name: str,
        content: bytes,
        words: str,
    ) -> None:
        query = {"viewer": page.hello["viewer"], "name": name}
        assert client.post("/upload", params=query, content=content).is_success
        text = refusal(page)
        assert words in text
        assert str(tmp_path) not in text
        assert left_over(tmp_path) == []
        assert page.ask(do="clip", number=0)["type"] == "view"

    def test_a_picture_with_the_name_of_a_video_is_refused(
        self, page: Page, client: TestClient, tmp_path: Path
    ) -> None:
        for ending in (".png", ".jpg", ".bmp"):
            data = cv2.imencode(ending, np.full((60, 80, 3), 90, np.uint8))[1].tobytes()
            (tmp_path / "picture.mp4").write_bytes(data)
            assert page.upload(client, tmp_path / "picture.mp4").is_success
            assert "is a picture" in refusal(page)

    @pytest.mark.parametrize(
        ("count", "most_side", "words"),
        [
            (1, 64, "fewer than two frames"),
            (30, 64, "takes 8 frames"),
            (3, 63, "pixels in a row"),
        ],
    )
    def test_a_video_too_short_too_long_or_too_wide_is_refused(
        self,
        page: Page,
        client: TestClient,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        most_side: int,
        words: str,
    ) -> None:
        with VideoWriter(tmp_path / "film.mp4", 25) as writer:
            for image, _ in make_sequence(5, count, (64, 48)):
                writer.write(image)
        monkeypatch.setattr(footage, "MOST_SIDE", most_side)
        assert page.upload(client, tmp_path / "film.mp4").is_success
        assert words in refusal(page)

    def test_a_long_name_is_shortened_but_for_its_ending(
        self, page: Page, client: TestClient, film: Path
    ) -> None:
        assert page.upload(client, film, "x" * 250 + ".mp4").json() == {"name": "x" * 100 + ".mp4"}
        assert page.ask(do="open")["count"] == FRAMES

    def test_what_is_there_stays_open_where_a_file_is_refused(
        self, page: Page, client: TestClient, tmp_path: Path
    ) -> None:
        page.ask(do="draw", frame=0, target=None, box=BOX)
        query = {"viewer": page.hello["viewer"], "name": "x.mp4"}
        client.post("/upload", params=query, content=b"\0" * 9000)
        assert refusal(page)
        assert found(page.ask(do="show", frame=0)) == [BOX]

    def test_an_upload_ends_when_its_viewer_leaves(self, tmp_path: Path) -> None:
        async def leave_during_an_upload() -> None:
            viewer = Viewer(SETTINGS, tmp_path)
            viewer.folder.mkdir()

            async def body() -> NoReturn:
                viewer.leave()
                await anyio.sleep_forever()
                raise AssertionError

            scope = {"type": "http", "query_string": b"name=a.mp4", "headers": []}
            await uploads.receive(Request(scope, body), viewer, SETTINGS)

        with pytest.raises(Refused, match="the upload was cancelled"):
            anyio.run(leave_during_an_upload)
        assert left_over(tmp_path) == []

    def test_a_length_that_is_too_large_is_refused_before_the_body(self, tmp_path: Path) -> None:
        async def body() -> NoReturn:
            raise AssertionError("the body was read")

        scope = {"type": "http", "query_string": b"name=a.mp4"}
        for length, status in (("2147483648", 413), ("0", 400), ("many", 400)):
            headers = [(b"content-length", length.encode())]
            request = Request({**scope, "headers": headers}, body)
            viewer = Viewer(SETTINGS, tmp_path)
            with pytest.raises(Refused) as caught:
                anyio.run(uploads.receive, request, viewer, SETTINGS)
            assert caught.value.status == status

    def test_a_body_without_a_length_is_counted(self, client: TestClient, tmp_path: Path) -> None:
        with visit(client) as page:
            query = {"viewer": page.hello["viewer"], "name": "a.mp4"}
            body = (b"\0" * 100_000 for _ in range(20))
            answer = client.post("/upload", params=query, content=body)
            assert answer.status_code == 413
            assert left_over(tmp_path) == []

    def test_who_has_no_visit_may_send_nothing(self, client: TestClient, film: Path) -> None:
        query = {"viewer": "nobody", "name": "film.mp4"}
        answer = client.post("/upload", params=query, content=film.read_bytes())
        assert (answer.status_code, "does not know" in answer.json()["error"]) == (404, True)
        assert client.get("/video/nobody").status_code == 404

    def test_ten_at_once_are_each_answered(
        self, client: TestClient, film: Path, tmp_path: Path
    ) -> None:
        with visit(client) as page, ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: page.upload(client, film), range(10)))
            assert {answer.status_code for answer in answers} <= {200, 409}
            assert page.ask(do="open")["count"] == FRAMES
            assert len(left_over(tmp_path)) == 1


class TestTurns:
    def test_others_wait_and_are_served_when_one_leaves(self, client: TestClient) -> None:
        with visit(client) as first, contextlib.ExitStack() as waiting:
            second = waiting.enter_context(visit(client))
            third = waiting.enter_context(visit(client))
            fourth = waiting.enter_context(visit(client))
            assert (first.hello["type"], second.hello["type"]) == ("hello", "hello")
            assert third.hello == {"type": "queue", "place": 1, "users": 2}
            assert fourth.hello == {"type": "queue", "place": 2, "users": 2}
            second.socket.close()
            assert third.socket.receive_json()["type"] == "hello"
            assert fourth.socket.receive_json()["place"] == 1
            third.socket.close()
            assert fourth.socket.receive_json()["type"] == "hello"
            assert fourth.ask(do="clip", number=0)["type"] == "view"

    def test_who_waits_may_not_send(self, client: TestClient, film: Path) -> None:
        with visit(client), visit(client), visit(client):
            viewers = client.app.state.viewers  # type: ignore[attr-defined]
            third = list(viewers._there)[2]
            query = {"viewer": third, "name": "film.mp4"}
            answer = client.post("/upload", params=query, content=film.read_bytes())
            assert answer.status_code == 409

    def test_an_idle_viewer_gives_way_to_one_who_waits(self) -> None:
        settings = Settings(users=1, threads=1, idle_seconds=0.05)
        with (
            TestClient(make_app(settings), base_url=LOCAL) as client,
            visit(client) as first,
            visit(client) as second,
        ):
            assert second.hello["type"] == "queue"
            assert first.socket.receive_json()["type"] == "bye"
            assert second.socket.receive_json()["type"] == "hello"


class TestGuard:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"])
    def test_names_of_this_machine_are_heard(self, client: TestClient, host: str) -> None:
        headers = {"host": host, "origin": f"http://{host}"}
        assert client.get("/", headers=headers).status_code == 200
        with client.websocket_connect(LIVE, headers=headers) as socket:
            assert socket.receive_json()["type"] == "hello"

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::1"])
    def test_other_names_are_not(self, client: TestClient, host: str) -> None:
        assert client.get("/", headers={"host": host}).status_code == 403
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(LIVE, headers={"host": host}),
        ):
            pass

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://localhost:81", "http://[x"]
    )
    def test_pages_of_other_sites_are_not(self, client: TestClient, origin: str) -> None:
        headers = {"origin": origin}
        assert client.post("/upload", headers=headers).status_code == 403
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(LIVE, headers=headers),
        ):
            pass

    def test_a_server_for_others_goes_by_any_name(self) -> None:
        with TestClient(make_app(SETTINGS, local=False), base_url="http://box.lan") as client:
            assert client.get("/").status_code == 200
            with client.websocket_connect(
                "ws://box.lan/live", headers={"origin": "http://box.lan"}
            ):
                pass

    def test_all_answers_have_the_headers(self, client: TestClient) -> None:
        for path in ("/", "/static/main.js", "/nothing", "/video/x"):
            answer = client.get(path)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get("/static/../server.py").status_code == 404
        assert client.get("/nothing").json() == {"error": "Not Found"}

    def test_the_page_asks_no_other_site(self) -> None:
        for path in (ROOT / "tools/page/static").iterdir():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, path
            assert "https://" not in text, path


class TestSaving:
    @pytest.fixture
    def tracked(self, page: Page) -> Page:
        page.ask(do="draw", frame=1, target=None, box=BOX)
        for frame in (1, 2):
            page.ask(do="step", frame=frame)
        return page

    def test_boxes_in_three_forms(self, tracked: Page) -> None:
        def saved(form: str) -> tuple[str, str]:
            tracked.send(do="boxes", tracker=DEFAULT, form=form)
            header, data = tracked.answer()
            return header["name"], data.decode()

        name, text = saved(".csv")
        lines = text.splitlines()
        assert name == "Small_boxes.csv"
        assert lines[0] == "frame,time,x,y,w,h,score,lost,state"
        assert lines[1] == "1,0.04,60.0,40.0,30.0,24.0,1.0,0,tracked"
        assert len(lines) == 4
        name, text = saved(".txt")
        assert text.splitlines()[0] == "2,1,61.0,41.0,30.0,24.0,1.0,-1,-1,-1"
        name, text = saved(".coco.json")
        assert name == "Small_boxes.coco.json"
        assert json.loads(text)["images"][0]["width"] == SIZE[0]

    def test_a_picture_has_the_box(self, tracked: Page) -> None:
        tracked.send(do="picture", tracker=DEFAULT, frame=1)
        header, data = tracked.answer()
        assert header["name"] == "Small_000001.png"
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image[50, 60].tolist() == [64, 220, 64]

    def test_a_video_has_all_frames(
        self, tracked: Page, client: TestClient, tmp_path: Path
    ) -> None:
        answer = tracked.ask(do="video", tracker=DEFAULT)
        assert answer["type"] == "video"
        got = client.get(f"/video/{tracked.hello['viewer']}")
        assert answer["name"] in got.headers["content-disposition"]
        path = tmp_path / answer["name"]
        path.write_bytes(got.content)
        assert sum(1 for _ in open_frames(path)) == FRAMES

    def test_a_video_takes_the_place_of_the_one_before(
        self, tracked: Page, client: TestClient, film: Path, tmp_path: Path
    ) -> None:
        tracked.ask(do="video", tracker=DEFAULT)
        tracked.upload(client, film)
        tracked.ask(do="open")
        tracked.ask(do="draw", frame=0, target=None, box=BOX)
        name = tracked.ask(do="video", tracker=DEFAULT)["name"]
        assert {path.name for path in left_over(tmp_path) if "tracked" in path.name} == {name}


class TestFootage:
    @staticmethod
    def frames(count: int, told: int | None) -> Frames:
        images = [np.full((4, 6, 3), number, np.uint8) for number in range(count)]
        return Frames("made", 10.0, told, lambda: ((image, None) for image in images))

    @pytest.mark.parametrize("told", [None, 3, 5, 9])
    def test_frames_come_in_any_order_whatever_the_header_tells(
        self, tmp_path: Path, told: int | None
    ) -> None:
        work = Work()
        footage = VideoFootage(self.frames(5, told), 100, Spool(tmp_path, 10**6), work)
        for number in (3, 1, 4, 0, 0):
            assert footage.image(number, work)[0, 0, 0] == number
            assert footage.about[number].seconds == pytest.approx(number / 10)
        with pytest.raises(EndOfVideo):
            footage.image(5, work)
        assert footage.count == 5
        assert footage.image(4, work)[0, 0, 0] == 4

    def test_a_jump_behind_the_last_frame_shows_that(self, client: TestClient) -> None:
        with visit(client) as page:
            assert page.ask(do="clip", number=0)["count"] == FRAMES
            assert page.ask(do="show", frame=1000)["frame"] == FRAMES - 1

    def test_so_does_one_in_a_video_shorter_than_its_header_tells(self, tmp_path: Path) -> None:
        own = Desk(SETTINGS, tmp_path, Work())
        own._take(VideoFootage(self.frames(5, 9), 100, own.spool(), own.work))
        data = own.do(Message("show", {"frame": 8}))
        assert isinstance(data, bytes)
        assert b'"frame": 4, "count": 5' in data
        own.close()

    def test_no_more_frames_than_allowed(self, tmp_path: Path) -> None:
        footage = VideoFootage(self.frames(9, 5), 5, Spool(tmp_path, 10**6), Work())
        with pytest.raises(EndOfVideo):
            footage.image(5, Work())
        assert "first 5 frames" in footage.note

    def test_a_video_of_just_as_many_frames_as_allowed_has_no_note(self, tmp_path: Path) -> None:
        footage = VideoFootage(self.frames(5, 5), 5, Spool(tmp_path, 10**6), Work())
        with pytest.raises(EndOfVideo):
            footage.image(5, Work())
        assert footage.note == ""

    def test_work_that_is_cancelled_ends(self, tmp_path: Path) -> None:
        work = Work()
        footage = VideoFootage(self.frames(9, 9), 9, Spool(tmp_path, 10**6), work)
        work.cancel()
        with pytest.raises(Cancelled):
            footage.image(5, work)
        work.begin()
        footage.image(5, work)
        work.leave()
        work.begin()
        with pytest.raises(Cancelled):
            footage.image(6, work)

    def test_a_full_spool_keeps_what_it_has(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 10)
        assert [spool.put(0, b"12345"), spool.put(1, b"123456"), spool.put(2, b"12345")] == [
            True,
            False,
            True,
        ]
        assert (spool.get(0), spool.get(1), spool.get(2)) == (b"12345", None, b"12345")

    def test_a_camera_sends_what_is_tracked(self, client: TestClient) -> None:
        pictures = [encode(image) for image, _ in make_sequence(5, 4, SIZE)]
        with visit(client) as page:
            assert page.ask(do="camera")["type"] == "done"
            assert "none has come" in page.ask(do="show", frame=0)["text"]
            assert page.ask(do="trackers", names=[DEFAULT], frame=0)["type"] == "done"
            first = page.ask(pictures[0], do="frame", seconds=0.0)
            assert (first["frame"], first["count"], first["live"]) == (0, 1, True)
            page.ask(do="draw", frame=0, target=None, box=BOX)
            for number, picture in enumerate(pictures[1:], 1):
                view = page.ask(picture, do="frame", seconds=number / 10)
                assert (view["frame"], len(found(view))) == (number, 1)
            assert page.ask(do="show", frame=1)["seconds"] == pytest.approx(0.1)
            large = encode(np.zeros((9000, 16, 3), np.uint8))
            for wrong in (b"", b"\xff\xd8junk", b"hello", pictures[0][:200], large):
                assert page.ask(wrong, do="frame", seconds=1.0)["type"] == "refused"
            assert page.ask(do="video", tracker=DEFAULT)["type"] == "video"

    def test_a_recording_ends_at_its_limit(self, tmp_path: Path) -> None:
        footage = CameraFootage(1, Spool(tmp_path, 10**6))
        picture = encode(np.zeros((8, 8, 3), np.uint8))
        footage.append(picture, 0.0)
        with pytest.raises(Refused, match="longest"):
            footage.append(picture, 0.1)


class TestProgram:
    def test_a_port_in_use_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 is in use; .*--port"):
                open_port("127.0.0.1", port)

    def test_an_address_that_is_not_here_is_one_line(self) -> None:
        with pytest.raises(ValueError, match=r"cannot listen to port 0 of 203\.0\.113\.7"):
            open_port("203.0.113.7", 0)

    @pytest.mark.parametrize("flags", [["--port", "x"], ["--port", "70000"], ["--max-length", "0"]])
    def test_bad_flags_are_named(
        self, flags: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            serve.parse_args(flags)
        assert flags[0] in capsys.readouterr().err

    def test_a_length_in_seconds_is_one_of_frames(self) -> None:
        args = serve.parse_args(["--max-length", "60s"])
        assert Settings(max_length=args.max_length).most_frames(30) == 1800
        assert Settings(max_length=args.max_length).length_in_words == "60 seconds"


@pytest.mark.parametrize(
    ("data", "cancels"),
    [
        ('{"do":"cancel"}', True),
        (' {"do" : "cancel", "why": 1}', True),
        ('{"do":"frame"}', False),
        ('{"do":', False),
        (b"cancel", False),
        ('{"do":"cancel","why":"' + 200 * "x" + '"}', False),
    ],
)
def test_what_cancels(data: str | bytes, cancels: bool) -> None:
    assert is_cancel(data) is cancels
