"""Streams that are files: read in order and once, and a break is reported."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from requirements import case, needs

from rbsf.datasets.video import pyav_reader
from rbsf.datasets.video.frames import open_frames
from rbsf.datasets.video.sources import is_live

with_pyav = pytest.mark.skipif(
    not pyav_reader.is_installed(), reason=needs("pyav", "PyAV is not installed")
)


@pytest.fixture
def broken_server() -> Iterator[str]:
    """The address of a server that promises a video and sends half of it."""
    data = (case("20-videos-left-out") / "b.ts").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/b.ts"
    server.shutdown()


@with_pyav
def test_a_stream_that_breaks_off_says_so_after_its_frames(broken_server):
    frames = iter(open_frames(broken_server))
    assert next(frames).shape == (120, 160, 3)
    with pytest.raises(ValueError, match=r"broke off after [0-9]+ frames"):
        list(frames)


@pytest.mark.parametrize(
    ("address", "live"),
    [
        ("rtsp://cam/1", True),
        ("udp://0.0.0.0:5000", True),
        ("http://cam/video.mjpg?size=2", True),
        ("https://host/cat.mp4", False),
        ("file:///cat.mp4", False),
    ],
)
def test_what_is_live_is_known_by_its_address(address, live):
    assert is_live(address) == live
