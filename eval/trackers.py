"""The trackers that a benchmark can run: our networks, OpenCV's, users' own, and a fixed box."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from rbsf.eval.own_tracker import OwnTracker
from rbsf.shipped import shipped_trackers
from rbsf.system.program import install_advice
from rbsf.system.text import one_line
from rbsf.tracker.anchor_free import AS_PUBLISHED, AnchorFree, AnchorFreeConfig
from rbsf.tracker.backbones import choose_engine
from rbsf.tracker.flags import with_redetect
from rbsf.tracker.loading import Constants, constants_of, load_network, make_tracker
from rbsf.tracker.siamfc import TRACKER_VERSION, TrackerConfig
from rbsf.tracker.states import Result, State

SHIPPED = shipped_trackers()


class Tracker(Protocol):
    """What a benchmark runs: `rbsf.tracker.siamfc.SiamFC`, or a class with the same two methods."""

    def init(self, image: np.ndarray, box: np.ndarray) -> object:
        """Learn the target in `box` (x,y,w,h pixels, 0-based) of the first frame.

        `image`: `[H, W, 3]` uint8 RGB.
        """

    def update(self, image: np.ndarray) -> Result:
        """Find the target in the next frame, `[H, W, 3]` uint8 RGB."""


class StaticTracker:
    """A box that never moves. Every tracker should score higher."""

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Keep the box."""
        self._box = np.asarray(box, dtype=np.float64)

    def update(self, image: np.ndarray) -> Result:
        """Return the kept box."""
        return Result(self._box.copy(), 1.0)


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
    """One of OpenCV's trackers; while it reports the target as lost, its last box is kept."""

    def __init__(self, name: str, files: tuple[Path, ...] = ()) -> None:
        self._make = partial(_make_opencv, name, files)
        self._make()  # a model that cannot be read fails here

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
class TrackerSpec:
    """Which tracker to run, small enough to be sent to a worker process."""

    label: str  # name in tables
    opencv: str | None = None  # key of `OPENCV`
    files: tuple[Path, ...] = ()  # weights, models or a user's code; none for the fixed box
    precision: str = "float32"
    device: str = "cpu"
    config: Constants = field(default_factory=TrackerConfig)
    engine: str = "torch"  # what runs a network: "torch" or "packed"
    own: str = ""  # class in a user's code
    constants: str = ""  # name of `config`; empty for a tracker's own
    pair: bool = False  # whether the files are ONNX graphs, backbone and head, for ONNX Runtime

    @property
    def is_network(self) -> bool:
        """Whether it is one of our networks."""
        return bool(self.files) and self.opencv is None and not self.own and not self.pair

    @property
    def arithmetic(self) -> str | None:
        """What a network computes in: "packed", or PyTorch's precision; None for other trackers."""
        if not self.is_network:
            return None
        return self.precision if self.engine == "torch" else "packed"

    def key(self) -> str:
        """Name of the results, which ends in a digest of all that the boxes depend on.

        These are the files, the constants, the versions of OpenCV and of the tracking code, and the
        kind of device that PyTorch runs on. Other files that a user's code reads are not included.
        Raises ValueError for a device that is missing.
        """
        if self.opencv is None and not self.files:
            return "static"
        digest = self._digest()
        if self.opencv is not None:
            return f"opencv-{self.opencv}-{digest}"
        if self.own:
            return f"{self.own}-{digest}"
        if self.pair:
            return f"{self.files[0].stem}-{digest}"
        name = re.sub(r"[^\w.+-]", "_", self.files[0].stem)
        suffix = "" if self.arithmetic == "float32" else f"-{self.arithmetic}"
        return f"{name}-{digest}{suffix}"

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        digest.update(cv2.__version__.encode())  # OpenCV also decodes and crops for our networks
        if self.is_network:
            device = _device_kind(self.device) if self.engine == "torch" else "cpu"
            digest.update(f"{self.config} {TRACKER_VERSION} {device}".encode())
        elif self.pair:
            digest.update(f"{AS_PUBLISHED} {AnchorFreeConfig()} {TRACKER_VERSION}".encode())
        return digest.hexdigest()[:8]

    def size(self) -> int | None:
        """Bytes of the weights or models; None for a tracker without."""
        if not self.files or self.own:
            return None
        return sum(file.stat().st_size for file in self.files)

    def build(self, threads: int = 1) -> Tracker:
        """Load the tracker, to run with `threads` CPU threads.

        Raises ValueError or OSError for a file that cannot be used.
        """
        cv2.setNumThreads(threads)
        if self.opencv is not None:
            return _build_opencv(self.opencv, self.files)
        if self.own:
            return OwnTracker(self.files[0], self.own)
        if self.pair:
            return _build_pair(self.files, threads, self.label)
        if not self.files:
            return StaticTracker()
        network = load_network(self.files[0], self.device, self.precision, threads, self.engine)
        return make_tracker(network, self.config, self.label)


def _device_kind(device: str) -> str:
    from rbsf.train.device import choose_device  # loads PyTorch, which packed networks do not need

    return choose_device(device).type


def _build_opencv(name: str, files: tuple[Path, ...]) -> Tracker:
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
        raise ValueError(f"opencv:{name} cannot use {given} ({reason})") from None


def _build_pair(files: tuple[Path, ...], threads: int, label: str) -> Tracker:
    from rbsf.tracker.onnx_pair import open_pair

    backbone, head = files
    network = open_pair(backbone, head, threads)
    return AnchorFree(network, network.constants, label)


def constants_for(text: str) -> type[Constants]:
    """The class that `--constants` must have for the tracker `[LABEL=]WHAT`."""
    _, what = _split_label(text)
    return constants_of(SHIPPED.get(what, Path(what)))


def parse_tracker(
    text: str,
    precision: str = "float32",
    device: str = "cpu",
    config: Constants | None = None,
    engine: str = "auto",
    redetect: str | None = None,
    constants: str = "",
) -> TrackerSpec:
    """Read `[LABEL=]WHAT`.

    WHAT is a key of `SHIPPED`, `static`, a weights file, `opencv:MIL`, `opencv:Nano:FILE,FILE`,
    `onnx:BACKBONE,HEAD` (`rbsf.tracker.onnx_pair`), or `FILE.py:CLASS` (`OwnTracker`). `engine`:
    see `rbsf.tracker.backbones.choose_engine`. `redetect`: see `StateConfig`; it only changes our
    own networks. `constants`: name of `config`. Raises ValueError for an unknown name or if the
    engine is not available, and FileNotFoundError for a missing file.
    """
    label, what = _split_label(text)
    if what == "static":
        return TrackerSpec(label or what)
    if what.startswith("opencv:"):
        return _parse_opencv(what, label)
    if what.startswith("onnx:"):
        return _parse_pair(what, label)
    if own := re.fullmatch(r"(.+\.py):(\w+)", what):
        return _parse_own(Path(own[1]), own[2], label)
    spec = _parse_network(what, label, precision, device, config, engine)
    names = [constants, f"redetect {redetect}" if redetect else ""]
    named = ", ".join(name for name in names if name)
    return replace(spec, config=with_redetect(spec.config, redetect), constants=named)


def _split_label(text: str) -> tuple[str, str]:
    """The label, empty if there is none, and what it stands for."""
    label, equals, what = text.partition("=")
    if not equals or Path(text).is_file():  # such as lr=0.1/last.safetensors
        return "", text
    if not label:
        raise ValueError(f"--tracker {text!r}: the label before = is empty")
    return label, what


def _parse_network(
    what: str,
    label: str,
    precision: str,
    device: str,
    config: Constants | None,
    engine: str,
) -> TrackerSpec:
    path = SHIPPED.get(what, Path(what))
    if not path.is_file():
        opencv = [f"opencv:{name}" for name in OPENCV]
        known = ", ".join([*SHIPPED, "static", *opencv, "onnx:BACKBONE,HEAD", "FILE.py:CLASS"])
        raise FileNotFoundError(f"--tracker {what!r}: no such weights file; give one, or {known}")
    label = label or path.stem
    path, engine = choose_engine(path, engine)
    kind = constants_of(path)
    if config not in (None, TrackerConfig()) and not isinstance(config, kind):
        raise ValueError(f"--tracker {what!r}: --constants are of another tracker; leave them out")
    constants = config if isinstance(config, kind) else kind()
    return TrackerSpec(label, None, (path,), precision, device, constants, engine)


def _parse_pair(what: str, label: str) -> TrackerSpec:
    files = _split_files(what.removeprefix("onnx:"))
    if len(files) != 2:
        raise ValueError(f"--tracker {what!r}: give two files, onnx:BACKBONE.onnx,HEAD.onnx")
    if find_spec("onnxruntime") is None:
        raise ValueError(f"--tracker {what!r}: needs ONNX Runtime; {install_advice('onnx')}")
    _check_files(files, what)
    return TrackerSpec(label or files[0].stem, files=files, pair=True)


def _parse_own(path: Path, name: str, label: str) -> TrackerSpec:
    if not path.is_file():
        raise FileNotFoundError(f"--tracker {path}:{name}: there is no {path}")
    return TrackerSpec(label or name, files=(path,), own=name)


def _parse_opencv(what: str, label: str) -> TrackerSpec:
    name, _, names = what.removeprefix("opencv:").partition(":")
    if name not in OPENCV:
        raise ValueError(
            f"--tracker {what!r}: OpenCV's trackers known here are {', '.join(OPENCV)}"
        )
    files = _split_files(names)
    wanted = OPENCV[name]
    if len(files) != len(wanted):
        example = f"opencv:{name}"
        if wanted:
            example += ":" + ",".join(f"{key}.onnx" for key in wanted)
        raise ValueError(
            f"--tracker {what!r}: opencv:{name} takes {len(wanted)} model files: {example}"
        )
    _check_files(files, what)
    return TrackerSpec(label or name, name, files)


def _split_files(names: str) -> tuple[Path, ...]:
    """The files of a list with commas."""
    return tuple(Path(name) for name in names.split(",") if name)


def _check_files(files: tuple[Path, ...], what: str) -> None:
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"--tracker {what!r}: no model file {file}")
