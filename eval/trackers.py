"""The trackers that a benchmark can run: our networks, OpenCV's, those of users, and a box that
never moves.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from rbsf.eval.own_tracker import OwnTracker
from rbsf.shipped import find_weights
from rbsf.tracker.anchor_free import AnchorFree, AnchorFreeConfig
from rbsf.tracker.backbones import choose_engine, is_rbsf2
from rbsf.tracker.loading import Constants, load_network, make_tracker
from rbsf.tracker.siamfc import TRACKER_VERSION, Result, TrackerConfig

SHIPPED = {name: find_weights(name) for name in ("rbsf", "siamfc")}


class Tracker(Protocol):
    """What can be run: `rbsf.tracker.siamfc.SiamFC` and anything with its two methods."""

    def init(self, image: np.ndarray, box: np.ndarray) -> object:
        """Learn the target in `box` (x,y,w,h) of the first frame, H x W x 3 uint8 RGB."""

    def update(self, image: np.ndarray) -> Result:
        """Find it in the next frame."""


class StaticTracker:
    """Says that the target never moves: the floor under every benchmark."""

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Keep the box."""
        self._box = np.asarray(box, dtype=np.float64)

    def update(self, image: np.ndarray) -> Result:
        """Return the kept box."""
        return Result(self._box.copy(), 1.0, False)


def _with_models(name: str, *fields: str) -> Callable[..., object]:
    """Maker of an OpenCV tracker that needs a model file for each of `fields` of its parameters."""

    def make(*files: str) -> object:
        params = getattr(cv2, f"Tracker{name}_Params")()
        for key, file in zip(fields, files, strict=True):
            setattr(params, key, file)
        return getattr(cv2, f"Tracker{name}_create")(params)

    make.files = fields  # type: ignore[attr-defined]
    return make


def _plain(name: str) -> Callable[..., object]:
    def make() -> object:
        return getattr(cv2, f"Tracker{name}_create")()

    make.files = ()  # type: ignore[attr-defined]
    return make


# KCF and CSRT are in opencv-contrib-python below 5 alone.
OPENCV = {
    "MIL": _plain("MIL"),
    "KCF": _plain("KCF"),
    "CSRT": _plain("CSRT"),
    "Nano": _with_models("Nano", "backbone", "neckhead"),
    "Vit": _with_models("Vit", "net"),
}


class OpenCVTracker:
    """One of OpenCV's trackers; where it says that the target is lost, its last box stays."""

    def __init__(self, name: str, files: tuple[Path, ...] = ()) -> None:
        self._make = lambda: OPENCV[name](*map(str, files))
        self._make()  # a model that cannot be read fails here

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start on a box, which OpenCV takes in whole pixels."""
        self._tracker, self._box = self._make(), np.asarray(box, dtype=np.float64)
        x, y, w, h = (round(float(v)) for v in box)
        self._tracker.init(_bgr(image), (x, y, max(w, 1), max(h, 1)))  # type: ignore[attr-defined]

    def update(self, image: np.ndarray) -> Result:
        """Return the box in whole pixels."""
        found, box = self._tracker.update(_bgr(image))  # type: ignore[attr-defined]
        if found:
            self._box = np.asarray(box, dtype=np.float64)
        return Result(self._box.copy(), float(found), not found)


def seed_opencv(number: int) -> None:
    """OpenCV's MIL samples, with its own generator and with C's `rand`, which is out of reach on
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

    label: str  # in tables
    opencv: str | None = None  # key of `OPENCV`
    files: tuple[
        Path, ...
    ] = ()  # weights, OpenCV's models or a user's code; none and no `opencv`: static
    precision: str = "float32"
    device: str = "cpu"
    config: Constants = field(default_factory=TrackerConfig)
    engine: str = "torch"  # or "packed": what runs a network
    own: str = ""  # class in a user's code
    pair: bool = False  # of ONNX graphs, backbone and head, in ONNX Runtime

    @property
    def is_network(self) -> bool:
        """Is it one of our networks?"""
        return bool(self.files) and self.opencv is None and not self.own and not self.pair

    @property
    def arithmetic(self) -> str | None:
        """What a network computes in: "packed", or PyTorch's precision; None for other trackers."""
        return (self.precision if self.engine == "torch" else "packed") if self.is_network else None

    def key(self) -> str:
        """Name of its results: with a digest of all that its boxes depend on, so that no other's
        are reused: files, constants, OpenCV's version, that of the tracking code, and the kind of
        device that PyTorch runs on. What a user's code reads beside its own file is not in it.

        Raises ValueError for a device that is not to be had.
        """
        if self.opencv is None and not self.files:
            return "static"
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        digest.update(cv2.__version__.encode())  # which also decodes and cuts for our networks
        if self.opencv is not None:
            return f"opencv-{self.opencv}-{digest.hexdigest()[:8]}"
        if self.own:
            return f"{self.own}-{digest.hexdigest()[:8]}"
        if self.pair:
            digest.update(f"{self.config} {TRACKER_VERSION}".encode())
            return f"{self.files[0].stem}-{digest.hexdigest()[:8]}"
        kind = _device_kind(self.device) if self.engine == "torch" else "cpu"
        digest.update(f"{self.config} {TRACKER_VERSION} {kind}".encode())
        name = re.sub(r"[^\w.+-]", "_", self.files[0].stem)
        return f"{name}-{digest.hexdigest()[:8]}" + (
            "" if self.arithmetic == "float32" else f"-{self.arithmetic}"
        )

    def size(self) -> int | None:
        """Bytes of its weights or models; None where it has none."""
        return (
            sum(file.stat().st_size for file in self.files) if self.files and not self.own else None
        )

    def build(self, threads: int = 1) -> Tracker:
        """Load it, to run with so many CPU threads. Raises ValueError or OSError for a file that
        cannot be used.
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
    from rbsf.train.device import choose_device  # loads PyTorch, which packed networks need not

    return choose_device(device).type


def _build_opencv(name: str, files: tuple[Path, ...]) -> Tracker:
    try:
        return OpenCVTracker(name, files)
    except AttributeError:
        raise ValueError(
            f"opencv:{name} is not in OpenCV {cv2.__version__}; KCF and CSRT come with opencv-contrib-python below 5: "
            f"run it in a second environment and show its boxes here with --results {name}=FOLDER"
        ) from None
    except (cv2.error, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "err", error)).split())[
            :300
        ]  # without the place in OpenCV's source
        raise ValueError(
            f"opencv:{name} cannot use {', '.join(map(str, files))} ({reason})"
        ) from None


def _build_pair(files: tuple[Path, ...], threads: int, label: str) -> Tracker:
    from rbsf.tracker.onnx_pair import open_pair

    backbone, head = files
    return AnchorFree(open_pair(backbone, head, threads), name=label)


def parse_tracker(
    text: str,
    precision: str = "float32",
    device: str = "cpu",
    config: TrackerConfig | None = None,
    engine: str = "auto",
) -> TrackerSpec:
    """Read `[LABEL=]WHAT`: of `SHIPPED`, `static`, a weights file, `opencv:MIL`,
    `opencv:Nano:FILE,FILE`, `onnx:BACKBONE,HEAD` (`rbsf.tracker.onnx_pair`), or
    `FILE.py:CLASS` (`OwnTracker`).

    `engine`: see `rbsf.tracker.backbones.choose_engine`. Raises ValueError for an unknown name,
    listing the known, and where the engine cannot be had; FileNotFoundError for a missing file.
    """
    labelled = "=" in text and not Path(text).is_file()  # such as lr=0.1/last.safetensors
    label, what = text.split("=", 1) if labelled else ("", text)
    if labelled and not label:
        raise ValueError(f"--tracker {text!r}: the label before = is empty")
    if what == "static":
        return TrackerSpec(label or what)
    if what.startswith("opencv:"):
        return _parse_opencv(what, label)
    if what.startswith("onnx:"):
        return _parse_pair(what, label)
    if own := re.fullmatch(r"(.+\.py):(\w+)", what):
        return _parse_own(Path(own[1]), own[2], label)
    path = SHIPPED.get(what, Path(what))
    if not path.is_file():
        known = ", ".join(
            [
                *SHIPPED,
                "static",
                *(f"opencv:{name}" for name in OPENCV),
                "onnx:BACKBONE,HEAD",
                "FILE.py:CLASS",
            ]
        )
        raise FileNotFoundError(f"--tracker {what!r}: no such weights file; give one, or {known}")
    label = label or path.stem
    path, engine = choose_engine(path, engine)
    constants: Constants = config or TrackerConfig()
    if is_rbsf2(path):
        if config not in (None, TrackerConfig()):
            raise ValueError(
                f"--tracker {what!r}: --constants are of other trackers than RB-SF 2; leave them out"
            )
        constants = AnchorFreeConfig()
    return TrackerSpec(label, None, (path,), precision, device, constants, engine)


def _parse_pair(what: str, label: str) -> TrackerSpec:
    files = tuple(Path(file) for file in what.removeprefix("onnx:").split(",") if file)
    if len(files) != 2:
        raise ValueError(f"--tracker {what!r}: give two files, onnx:BACKBONE.onnx,HEAD.onnx")
    if find_spec("onnxruntime") is None:
        raise ValueError(
            f'--tracker {what!r}: needs ONNX Runtime; in the clone type: pip install -e ".[onnx]"'
        )
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"--tracker {what!r}: no model file {file}")
    return TrackerSpec(label or files[0].stem, files=files, config=AnchorFreeConfig(), pair=True)


def _parse_own(path: Path, name: str, label: str) -> TrackerSpec:
    if not path.is_file():
        raise FileNotFoundError(f"--tracker {path}:{name}: there is no {path}")
    return TrackerSpec(label or name, files=(path,), own=name)


def _parse_opencv(what: str, label: str) -> TrackerSpec:
    _, name, *rest = what.split(":", 2)
    if name not in OPENCV:
        raise ValueError(
            f"--tracker {what!r}: OpenCV's trackers known here are {', '.join(OPENCV)}"
        )
    wanted = OPENCV[name].files  # type: ignore[attr-defined]
    files = tuple(Path(file) for file in ",".join(rest).split(",") if file)
    if len(files) != len(wanted):
        example = f"opencv:{name}" + (
            ":" + ",".join(f"{key}.onnx" for key in wanted) if wanted else ""
        )
        raise ValueError(
            f"--tracker {what!r}: opencv:{name} takes {len(wanted)} model files: {example}"
        )
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"--tracker {what!r}: no model file {file}")
    return TrackerSpec(label or name, name, files)
