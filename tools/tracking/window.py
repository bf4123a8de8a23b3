"""A window that shows frames scaled to the screen, with a hint, and reports keys and drags."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rbsf.tools.tracking.drawing import BLACK, WHITE, draw
from rbsf.tracker.states import Result

Box = tuple[float, float, float, float]  # x, y, w, h in pixels of the frame, 0-based
Point = tuple[int, int]  # x, y in pixels of the window
Drag = tuple[Point, Point]  # where the mouse button was pressed, and where it is or was released
Size = tuple[int, int]  # width, height in pixels

WINDOW = "track (q ends)"
USUAL_SCREEN = (1280, 720)  # if the screen's size is not known
LARGEST = (1600, 900)  # largest size of a window, even on two screens side by side
SHARE = 0.85  # share of the screen for the window; the desktop has its own bars
LEAST_WIDTH = 640  # smaller frames are enlarged, so that the hint has room
LINE_HEIGHT = 22  # height of a line of the hint
BAR = 2 * LINE_HEIGHT + 10  # height of the bar with the hint
LEAST_DRAG = 3  # pixels of the window; smaller drags count as clicks

ESCAPE, SPACE = "\x1b", " "
CONFIRM = ("\r", "\n", "\x8d", SPACE)  # Enter, as systems and the number pad report it
UNDO = ("z", "\b", "\x7f")
NO_KEY = 255

ASK_SIZE = """
import tkinter
root = tkinter.Tk()
print(root.winfo_screenwidth(), root.winfo_screenheight())
"""


def screen_size() -> Size:
    """Width and height of the screen in pixels; USUAL_SCREEN if Python lacks tkinter.

    A separate process asks, because tkinter and OpenCV do not always work in the same one.
    """
    command = [sys.executable, "-c", ASK_SIZE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        width, height = (int(word) for word in done.stdout.split())
    except (subprocess.TimeoutExpired, ValueError):
        return USUAL_SCREEN
    return width, height


def room_on(screen: Size) -> Size:
    """Width and height that the picture of a frame may have on a screen."""
    width, height = (min(round(SHARE * s), most) for s, most in zip(screen, LARGEST, strict=True))
    return width, max(height - BAR, 1)


@dataclass(frozen=True)
class Fit:
    """How a frame is scaled: width and height of the frame, and of its picture in the window."""

    frame: Size
    shown: Size

    @classmethod
    def of(cls, image: np.ndarray, room: Size) -> Fit:
        """The fit of an `[H, W, 3]` image into a room; narrow frames are enlarged."""
        height, width = image.shape[:2]
        scale = min(room[0] / width, room[1] / height, max(1.0, LEAST_WIDTH / width))
        shown = (max(round(scale * width), 1), max(round(scale * height), 1))
        return cls((width, height), shown)

    @property
    def factors(self) -> np.ndarray:
        """Pixels of the window for one of the frame, for each of x, y, w, h."""
        x, y = (shown / frame for shown, frame in zip(self.shown, self.frame, strict=True))
        return np.array([x, y, x, y])

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """The picture of a frame."""
        return cv2.resize(image, self.shown)

    def box(self, drag: Drag) -> Box | None:
        """The box of a drag in whole pixels of the frame; None for a click."""
        corners = np.clip(drag, 0, self.shown)
        if (np.ptp(corners, axis=0) < LEAST_DRAG).any():
            return None
        corners = np.round(corners / self.factors[:2])
        x, y = np.minimum(corners.min(axis=0), np.array(self.frame) - 1)
        w, h = np.maximum(np.ptp(corners, axis=0), 1)
        return float(x), float(y), float(w), float(h)

    def point(self, drag: Drag) -> np.ndarray:
        """Where a drag or a click began, x and y in pixels of the frame."""
        return np.array(drag[0]) / self.factors[:2]


def hint_bar(hint: str, width: int) -> np.ndarray:
    """A black bar with a hint of two lines in white, `[BAR, width, 3]` uint8."""
    bar = np.zeros((BAR, width, 3), np.uint8)
    for number, line in enumerate(hint.splitlines(), 1):
        place = (8, number * LINE_HEIGHT)
        cv2.putText(bar, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return bar


class Window:
    """A window with one frame at a time, a hint below it, and the mouse; a context manager.

    `should_stop` returns True when a signal ends the program.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.closed = False  # the user closed it
        self._room = room_on(screen_size())
        self._held: Drag | None = None  # while the mouse button is down
        self._drags: list[Drag] = []  # ended, but not taken yet

    def __enter__(self) -> Window:
        cv2.namedWindow(WINDOW, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(WINDOW, self._on_mouse)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(cv2.error):  # the user may have closed it
            cv2.destroyWindow(WINDOW)
            cv2.waitKey(1)  # makes it disappear

    @property
    def ended(self) -> bool:
        """Whether the user has closed it, or a signal ends the program."""
        return self.closed or self.should_stop()

    def load(self, image: np.ndarray) -> None:
        """Take a frame, `[H, W, 3]` uint8 RGB."""
        self.fit = Fit.of(image, self._room)
        self._picture = self.fit.scaled(image)

    def look(self, results: dict[int, Result], hint: str, milliseconds: int) -> str:
        """Show the frame with the results of its targets, and wait for a key.

        Returns the key in lower case, or "" for none.
        """
        if self.closed:
            return ""
        shown = self._compose(results, hint)
        cv2.imshow(WINDOW, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(milliseconds) & 0xFF
        self.closed = not _is_open()
        return "" if key == NO_KEY else chr(key).lower()

    def take_drags(self, end: bool = False) -> list[Drag]:
        """The drags that have ended since the last call; `end` also ends the current one."""
        if end:
            self._end_drag()
        taken, self._drags = self._drags, []
        return taken

    def _compose(self, results: dict[int, Result], hint: str) -> np.ndarray:
        scaled = {n: replace(r, box=r.box * self.fit.factors) for n, r in results.items()}
        picture = draw(self._picture, scaled)
        if self._held:
            cv2.rectangle(picture, *self._held, BLACK, 3)
            cv2.rectangle(picture, *self._held, WHITE, 1)
        width = picture.shape[1]
        side = max(min(LEAST_WIDTH, self._room[0]) - width, 0)  # beside a narrow picture
        picture = cv2.copyMakeBorder(picture, 0, 0, 0, side, cv2.BORDER_CONSTANT)
        return np.vstack([picture, hint_bar(hint, width + side)])

    def _on_mouse(self, event: int, x: int, y: int, *_: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN:
            self._held = ((x, y), (x, y))
        elif self._held:
            self._held = (self._held[0], (x, y))
            if event == cv2.EVENT_LBUTTONUP:
                self._end_drag()

    def _end_drag(self) -> None:
        if self._held:
            self._drags.append(self._held)
            self._held = None


def _is_open() -> bool:
    try:
        return cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # some systems report a missing window in this way
        return False
