"""Loads trackers from files.

RB-SF and SiamFC find the target with a response map, RB-SF 2 with a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rbsf.system.environment import cores
from rbsf.tracker import backbones, siamfc
from rbsf.tracker.anchor_free import AnchorFree, AnchorFreeConfig, Network
from rbsf.tracker.backbones import is_rbsf2
from rbsf.tracker.siamfc import Backbone, SiamFC, TrackerConfig
from rbsf.tracker.states import Result

if TYPE_CHECKING:
    from collections.abc import Callable

Constants = TrackerConfig | AnchorFreeConfig


def constants_of(path: str | Path) -> type[Constants]:
    """The class of tracking constants for the network in a file."""
    return AnchorFreeConfig if is_rbsf2(path) else TrackerConfig


def load_network(
    path: str | Path,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    engine: str = "auto",
) -> Backbone | Network:
    """Load the network of a file.

    Parameters and errors are those of `rbsf.tracker.backbones.load_backbone`.
    """
    if not is_rbsf2(path):
        return backbones.load_backbone(path, device, precision, threads, engine)
    path, engine = backbones.choose_engine(path, engine)
    if precision != "float32":
        raise ValueError(
            f"--precision {precision}: RB-SF 2 counts in whole numbers, which need float32;"
            " leave it out"
        )
    if threads is not None:
        cv2.setNumThreads(threads)
    if engine == "packed":
        return _packed(path, device, threads)
    return _in_torch(path, device, threads)


def _packed(path: Path, device: str, threads: int | None) -> Network:
    from rbsf.tracker.rbsf2 import PackedNetwork

    backbones.check_on_cpu(device)
    if backbones.is_packed(path):
        return PackedNetwork(path, threads or cores())
    from rbsf.export.pack import packed_weights

    return PackedNetwork(packed_weights(path).packed, threads or cores())


def _in_torch(path: Path, device: str, threads: int | None) -> Network:
    import torch

    from rbsf.tracker.rbsf2 import TorchNetwork
    from rbsf.train.device import choose_device
    from rbsf.weights import load_weights

    if threads is not None:
        torch.set_num_threads(threads)
    return TorchNetwork(load_weights(path)[0].to(choose_device(device)))


def make_tracker(
    network: Backbone | Network, constants: Constants, name: str = ""
) -> SiamFC | AnchorFree:
    """A tracker of one target; `constants` are of the class that `constants_of` returns."""
    named = {"name": name} if name else {}
    if isinstance(constants, AnchorFreeConfig):
        return AnchorFree(network, constants, **named)  # type: ignore[arg-type]
    return SiamFC(network, constants, **named)  # type: ignore[arg-type]


def update_all(trackers: Sequence[SiamFC | AnchorFree], image: np.ndarray) -> list[Result]:
    """Update all trackers, which share a network.

    SiamFC's crops go through the network together. RB-SF 2 needs one pass for each target, because
    its template is part of the network; one pass for several would take as long.
    """
    if all(isinstance(tracker, SiamFC) for tracker in trackers):
        return siamfc.update_all(trackers, image)  # type: ignore[arg-type]
    return [tracker.update(image) for tracker in trackers]


def wrapped(
    network: Backbone | Network, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:
    """`network` with `wrap` around each of its functions, for example to time them."""
    if callable(network):
        return wrap(network)
    return SimpleNamespace(learn=wrap(network.learn), answer=wrap(network.answer))
