"""OpenCV's own trackers."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from rbsf.eval.trackers.spec import TrackerSpec, check_files, split_files
from rbsf.system.text import one_line
from rbsf.tracker.states import Result, State

PREFIX = "opencv:"

# OpenCV's trackers, each with the parameters that name its model files. KCF and CSRT are only in
# opencv-contrib-python below 5.
OPENCV: dict[str, tuple[str, ...]] = {
    "MIL": (),
    "KCF": (),
    "CSRT": (),
    "Nano": ("backbone", "neckhead"),
    "Vit": ("net",),
}


def _make_opencv(name: str, files: tuple[Path, ...]) -> Any:
    create = getattr(cv2, f"Tracker{name}_create")
    if not OPENCV[name]:
        return create()
    params = getattr(cv2, f"Tracker{name}_Params")()
    for key, file in zip(OPENCV[name], files, strict=True):
        setattr(params, key, str(file))
    return create(params)


class OpenCVTracker:
    """One of OpenCV's trackers; where it says that the target is lost, its last box stays."""

    def __init__(self, name: str, files: tuple[Path, ...] = ()) -> None:
        self._make = partial(_make_opencv, name, files)
        tracker = self._make()  # a model that cannot be read fails here
        if files:  # models in the wrong order fail when they are first used
            tracker.init(np.zeros((64, 64, 3), np.uint8), (16, 16, 32, 32))

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start on a box, which OpenCV takes in whole pixels."""
        self._tracker = self._make()
        self._box = np.asarray(box, dtype=np.float64)
        x, y, w, h = (round(float(v)) for v in box)
        self._tracker.init(_bgr(image), (x, y, max(w, 1), max(h, 1)))

    def update(self, image: np.ndarray) -> Result:
        """Return the box in whole pixels."""
        found, box = self._tracker.update(_bgr(image))
        if found:
            self._box = np.asarray(box, dtype=np.float64)
        state = State.TRACKED if found else State.LOST
        return Result(self._box.copy(), float(found), state)


def seed_opencv(number: int) -> None:
    """Seed the random numbers of OpenCV's MIL.

    It draws from OpenCV's generator and from C's `rand`, which cannot be seeded from here on
    Windows.
    """
    cv2.setRNGSeed(number)
    if os.name != "nt":
        ctypes.CDLL(None).srand(number)


def _bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


@dataclass(frozen=True)
class OpenCVSpec(TrackerSpec):
    """`opencv:MIL`, or `opencv:Nano:FILE,FILE` for one that has model files."""

    tracker: str = "MIL"  # key of `OPENCV`

    FORMS: ClassVar[tuple[str, ...]] = tuple(f"{PREFIX}{name}" for name in OPENCV)

    @classmethod
    def read(cls, what: str, label: str) -> OpenCVSpec | None:
        """See `Kind`."""
        if not what.startswith(PREFIX):
            return None
        name, _, names = what.removeprefix(PREFIX).partition(":")
        if name not in OPENCV:
            raise ValueError(
                f"--tracker {what!r}: OpenCV's trackers known here are {', '.join(OPENCV)}"
            )
        files, wanted = split_files(names), OPENCV[name]
        if len(files) != len(wanted):
            models = ",".join(f"{key}.onnx" for key in wanted)
            example = f"{PREFIX}{name}:{models}".rstrip(":")
            raise ValueError(
                f"--tracker {what!r}: opencv:{name} takes {len(wanted)} model files: {example}"
            )
        check_files(files, what)
        return cls(label or name, files, tracker=name)

    @property
    def name(self) -> str:
        """See `TrackerSpec`."""
        return f"opencv-{self.tracker}"

    def load(self, threads: int) -> OpenCVTracker:
        """See `TrackerSpec`."""
        return _build_opencv(self.tracker, self.files)


def _build_opencv(name: str, files: tuple[Path, ...]) -> OpenCVTracker:
    try:
        return OpenCVTracker(name, files)
    except AttributeError:
        raise ValueError(
            f"opencv:{name} is not in OpenCV {cv2.__version__};"
            " KCF and CSRT come with opencv-contrib-python below 5:"
            f" run it in a second environment and show its boxes here with --results {name}=FOLDER"
        ) from None
    except (cv2.error, RuntimeError) as error:
        message = str(getattr(error, "err", error))  # `err` leaves out the place in OpenCV's source
        given = ", ".join(map(str, files))
        reason = one_line(message, 300)
        order = ",".join(OPENCV[name]).upper()
        raise ValueError(f"opencv:{name} cannot use {given} as {order} ({reason})") from None
