"""Loads trackers from files. Each kind of tracker is described by one `Kind`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np

from rbsf.engine.file import read_metadata
from rbsf.engine.run import Engine
from rbsf.shipped import find_weights, shipped_trackers
from rbsf.system.environment import cores
from rbsf.system.text import one_line
from rbsf.tracker.anchor_free import AnchorFree, AnchorFreeConfig, Network
from rbsf.tracker.backbones import torch_backbone, try_backbone
from rbsf.tracker.engines import check_on_cpu, choose_engine, packed_model
from rbsf.tracker.rbsf2 import PackedNetwork, torch_network, try_network
from rbsf.tracker.siamfc import Backbone, SiamFC, TrackerConfig
from rbsf.tracker.states import Result

Constants = TrackerConfig | AnchorFreeConfig


class Kind(NamedTuple):
    """A kind of tracker: its parts, and how they are made from a file."""

    shipped: str  # name of its shipped weights
    constants: type[Constants]
    tracker: type[SiamFC] | type[AnchorFree]
    packed: Callable[..., Any]  # a network in the packed engine, of a PackedModel and threads
    in_torch: Callable[..., Any]  # one in PyTorch, of a module, a device and a precision
    try_out: Callable[[Any], object]  # raises RuntimeError or ValueError for an unfit network


RESPONSES = Kind("rbsf", TrackerConfig, SiamFC, Engine, torch_backbone, try_backbone)
BOXES = Kind("rbsf2", AnchorFreeConfig, AnchorFree, PackedNetwork, torch_network, try_network)
KINDS = (BOXES, RESPONSES)


def kind_of(path: str | Path) -> Kind:
    """The kind of tracker in a file, packed or not, according to its header.

    All models but RB-SF 2 give features, which RESPONSES compares.
    """
    return BOXES if read_metadata(path).get("model") == "rbsf2" else RESPONSES


def constants_of(path: str | Path) -> type[Constants]:
    """The class of tracking constants for the network in a file."""
    return kind_of(path).constants


def load_network(
    path: str | Path,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    engine: str = "auto",
) -> Backbone | Network:
    """Load the network of a tracker, and try it on empty crops.

    `path` may be the name of shipped weights. `engine`: see `rbsf.tracker.engines.choose_engine`.
    `threads`: CPU threads of the network, and of OpenCV and PyTorch in this process; None uses all
    cores. `precision` only affects PyTorch; if the packed engine runs, a line on stderr says so.
    Raises FileNotFoundError for a missing file; ValueError for a broken file, another network's
    weights, or an engine, device or precision that is not available.
    """
    path = find_weights(path)
    if not path.is_file():
        names = ", ".join(shipped_trackers())
        raise FileNotFoundError(f"no weights file {path}; give one, or a shipped one: {names}")
    kind = kind_of(path)
    path, engine = choose_engine(path, engine)
    if threads is not None:
        cv2.setNumThreads(threads)
    if engine == "torch":
        network = _in_torch(kind, path, device, precision, threads)
    else:
        check_on_cpu(device)
        if precision != "float32":  # not an error, since float networks may run next to this one
            note = f"the packed engine ignores --precision {precision}"
            print(f"{path}: {note}", file=sys.stderr)
        network = kind.packed(packed_model(path), threads or cores())
    try:
        kind.try_out(network)
    except (RuntimeError, ValueError) as error:  # these messages name layers, not the file
        raise ValueError(f"{path} holds no tracker: {one_line(error, 150)}") from error
    return network


def _in_torch(kind: Kind, path: Path, device: str, precision: str, threads: int | None) -> Any:
    import torch

    from rbsf.tracker.weights import read_weights

    if threads is not None:
        torch.set_num_threads(threads)
    net, _, _ = read_weights(path)
    return kind.in_torch(net, device, precision)


def make_tracker(network: Backbone | Network, constants: Constants) -> SiamFC | AnchorFree:
    """A tracker of one target; `constants` are of the class that `constants_of` returns."""
    kind = next(kind for kind in KINDS if isinstance(constants, kind.constants))
    return kind.tracker(network, constants)  # type: ignore[arg-type]


def update_all(trackers: Sequence[SiamFC | AnchorFree], image: np.ndarray) -> list[Result]:
    """Update trackers that share a network, on the next frame `[H, W, 3]` uint8 RGB."""
    return type(trackers[0]).update_all(trackers, image)  # type: ignore[arg-type]


def wrapped(
    network: Backbone | Network, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:
    """`network` with `wrap` around each of its functions, for example to time them."""
    if callable(network):
        return wrap(network)
    return SimpleNamespace(learn=wrap(network.learn), answer=wrap(network.answer))
