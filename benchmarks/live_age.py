"""Measure how old frames are when a tracker is slower than its live source.

    python benchmarks/live_age.py --sequence OTB/David --tracker weights/siamfc.safetensors

A server on this machine sends the sequence over and over, as a live stream of JPEG images at --fps
frames a second. Each image carries its number in a stripe of black and white blocks at its top, so
the true age of a frame is known: from the moment it was sent until its box is found. A row per
minute shows the ages without the time of the update itself.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import positive_int, run

BITS = 20  # of a frame's number
BLOCK = 16  # pixels of a bit in width and height
BOUNDARY = b"frame"  # as in the header that begins the stream


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sequence", type=Path, required=True, metavar="DIR", help="a sequence with its boxes")
    add("--tracker", required=True, metavar="WHAT", help="as eval/run_benchmarks.py names it")
    add("--fps", type=positive_int, default=25, metavar="N", help="default: %(default)s")
    add("--minutes", type=positive_int, default=10, metavar="N", help="default: %(default)s")
    return parser.parse_args(argv)


class Source:
    """Frames of a sequence as JPEG, with their numbers drawn in, and when each was sent."""

    def __init__(self, images: list[np.ndarray], fps: int) -> None:
        least = BITS * BLOCK
        self.scale = max(1.0, least / images[0].shape[1])
        self.images = [cv2.resize(each, None, fx=self.scale, fy=self.scale) for each in images]
        self.fps = fps
        self.sent: dict[int, float] = {}

    def jpeg(self, number: int) -> bytes:
        """The picture of a frame that is sent now."""
        image = self.images[number % len(self.images)].copy()
        bits = [(number >> bit) & 1 for bit in range(BITS)]
        stripe = np.repeat(np.array(bits, np.uint8) * 255, BLOCK)
        image[:BLOCK, : len(stripe)] = stripe[None, :, None]
        self.sent[number] = time.monotonic()
        return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def number_of(image: np.ndarray) -> int:
    """The number that is drawn in a frame."""
    middle = slice(BLOCK // 2, BITS * BLOCK, BLOCK)
    return int(sum(int(lit > 127) << bit for bit, lit in enumerate(image[BLOCK // 2, middle, 0])))


def serve(source: Source) -> ThreadingHTTPServer:
    """Serve the stream to whoever asks, from frame 0 on at the source's rate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            begin, number = time.monotonic(), 0
            while True:
                data = source.jpeg(number)
                head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                try:
                    self.wfile.write(head % (BOUNDARY, len(data)) + data + b"\r\n")
                except OSError:  # the reader is done
                    return
                number += 1
                time.sleep(max(0.0, begin + number / source.fps - time.monotonic()))

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def measure(
    address: str, source: Source, update: Callable[[np.ndarray], object], minutes: int
) -> list[tuple[float, float, float]]:
    """Rows of (seconds since the start, seconds of the update, age of the frame before it)."""
    from rbsf.datasets.video.frames import open_frames

    rows: list[tuple[float, float, float]] = []
    begin = time.monotonic()
    for image in open_frames(address):
        taken = time.monotonic()
        age = taken - source.sent[number_of(image)]
        update(image)
        rows.append((taken - begin, time.monotonic() - taken, age))
        if taken - begin > 60 * minutes:
            break
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run server and tracker, and print a row per minute."""
    from rbsf.datasets.video.sequences import load_sequences
    from rbsf.eval.trackers import parse_tracker

    args = parse_args(argv)
    (sequence,) = load_sequences(args.sequence)
    source = Source(list(sequence), args.fps)
    tracker = parse_tracker(args.tracker).build()
    tracker.init(source.images[0], np.array(sequence.boxes[0]) * source.scale)
    server = serve(source)
    address = f"http://127.0.0.1:{server.server_port}/live.mjpg"
    rows = np.array(measure(address, source, tracker.update, args.minutes))
    server.shutdown()
    print("minute  frames  update, median s  age beyond it: median, largest s")
    for minute in range(args.minutes):
        part = rows[(rows[:, 0] >= 60 * minute) & (rows[:, 0] < 60 * (minute + 1))]
        update, age = np.median(part[:, 1]), part[:, 2]
        print(f"{minute:6}  {len(part):6}  {update:16.3f}  {np.median(age):13.3f} {age.max():.3f}")


if __name__ == "__main__":
    run(main)
