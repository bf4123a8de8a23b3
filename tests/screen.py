"""A screen without a monitor (Xvfb), its pointer and its keys (xdotool), for tests of windows."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from requirements import skip_without

from rbsf.tools.tracking.window import LEAST_WIDTH, WINDOW

SIZE = (1280, 800)
PATIENCE = 60.0  # seconds for what takes one or two on an idle machine


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "this did not come in time"
        time.sleep(0.02)


@contextmanager
def virtual_screen() -> Iterator[Screen]:
    """A screen of SIZE on a display that is free."""
    for program in ("Xvfb", "xdotool"):
        if not shutil.which(program):
            skip_without("screen", f"no {program}")
    reading, writing = os.pipe()
    size = f"{SIZE[0]}x{SIZE[1]}x24"
    # Without -noreset it starts anew when its last client has gone, and loses one that comes then.
    options = ["-screen", "0", size, "-nolisten", "tcp", "-noreset"]
    command = ["Xvfb", "-displayfd", str(writing), *options]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            yield Screen(":" + said.readline().strip())
    finally:
        server.terminate()
        server.wait()


class Screen:
    """The pointer and the keys of a display; places are pixels in the window of `track`."""

    def __init__(self, display: str) -> None:
        self.environment = {**os.environ, "DISPLAY": display}

    def window(self) -> str:
        """The number of the window, which is waited for until it shows a frame."""
        wait_for(lambda: self._find() and self._size_of(self._find())[0] >= LEAST_WIDTH)
        return self._find()

    def has_window(self) -> bool:
        return bool(self._find())

    def size(self) -> tuple[int, int]:
        """Width and height of the window."""
        return self._size_of(self.window())

    def press(self, key: str) -> None:
        self._tool("windowfocus", self.window())  # no window manager does it
        self._tool("key", key)
        time.sleep(0.15)  # a program looks at one key at a time

    def drag(self, start: tuple[int, int], end: tuple[int, int], release: bool = True) -> None:
        window = self.window()
        middle = ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2)
        self._move(window, start)
        self._tool("mousedown", "1")
        self._move(window, middle)
        self._move(window, end)
        if release:
            self.release()
        time.sleep(0.15)

    def release(self) -> None:
        self._tool("mouseup", "1")

    def click(self, place: tuple[int, int]) -> None:
        self.drag(place, place)

    def close(self) -> None:
        """What a click on the window's X sends."""
        send_close(self.environment["DISPLAY"], int(self.window()))

    def _move(self, window: str, place: tuple[int, int]) -> None:
        self._tool("mousemove", "--window", window, *map(str, place))

    def _find(self) -> str:
        found = self._tool("search", "--onlyvisible", "--name", f"^{re.escape(WINDOW)}$")
        return found.split()[0] if found else ""

    def _size_of(self, window: str) -> tuple[int, int]:
        said = self._tool("getwindowgeometry", "--shell", window)
        values = dict(line.split("=") for line in said.splitlines())
        return int(values.get("WIDTH", 0)), int(values.get("HEIGHT", 0))

    def _tool(self, *words: str) -> str:
        command = ["xdotool", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout


class _ClientMessage(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 24),  # XEvent is a union with longer ones
    )


def send_close(display: str, window: int) -> None:
    """Ask a window to close, as a window manager does; there is none on the virtual screen."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    opened = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    protocols = x11.XInternAtom(opened, b"WM_PROTOCOLS", 0)
    delete = x11.XInternAtom(opened, b"WM_DELETE_WINDOW", 0)
    event = _ClientMessage(type=33, window=window, message_type=protocols, format=32)
    event.data[0] = delete
    x11.XSendEvent(opened, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    x11.XCloseDisplay(opened)
