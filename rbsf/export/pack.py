"""From a trained network to a packed file: trace, fold, round, compare, write.

pack_weights      a weights file of this project, tracker or classifier
export_network    any network of common layers
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from rbsf.engine.file import write_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.export.compare import Agreement, compare, made_up_images, normalised
from rbsf.export.first_layer import FIRST_BITS, pack_first, quantise_first, round_first
from rbsf.export.fold import fold
from rbsf.export.trace import trace
from rbsf.layers import binary_layers
from rbsf.models import TRACKERS, WHOLE
from rbsf.models.rbsf2 import RBSF2, Search
from rbsf.models.whole import STEP
from rbsf.weights import load_weights


@dataclass(frozen=True)
class Images:
    """The images that a packed network takes, uint8 `[N, *shape]`.

    The network itself takes (image - mean) / std; both are in steps of the pixel.
    """

    shape: tuple[int, int, int]  # (H, W, C)
    mean: Sequence[float] = (0.0,)  # one for each channel, or one for all
    std: Sequence[float] = (1.0,)


EXEMPLAR_SIZE = 127  # side of a template's crop in pixels
CROPS = Images((EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3))  # what a tracker takes; larger ones fit too
MAX_INPUT = 4096  # pixels of a side of a classifier's images
REGIONS = Images((255, 255, 3))  # what a tracker with a head takes


@dataclass(frozen=True)
class Exported:
    """A packed network, and the PyTorch network that it was made from, rounded as it is."""

    net: nn.Module
    graph: fx.Graph  # the trace of `net`
    values: dict[str, str]  # the value of `graph` that each node gives
    packed: PackedModel
    images: Images

    def compare(self, images: np.ndarray | None = None) -> Agreement:
        """How both agree on `images`, uint8 `[N, H, W, C]`, or on made-up ones."""
        images = made_up_images(self.packed.input_shape) if images is None else images
        mean, std = self.images.mean, self.images.std
        return compare(self.net, self.graph, self.values, self.packed, images, mean, std)


def export_network(
    net: nn.Module,
    path: str | Path,
    model: str,
    input_shape: Sequence[int],
    info: dict[str, Any] | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> PackedModel:
    """Write `net`, called `model` and in eval mode, as a packed file that classifies.

    Returns what was written. `input_shape` is (H, W, C) of the uint8 images that it takes. `net`
    takes (image - mean) / std as `[N, C, H, W]`; mean and std are in steps of the pixel, one for
    each channel or for all. `info` is anything JSON holds; tools/classify.py names classes
    by its list `classes`. `rbsf.export.check.check_exportable` tells before a training whether this
    works.

    Raises ValueError in one line for what has no packed form and for a file that would not compute
    what `net` does, OSError where `path` cannot be written.
    """
    height, width, channels = (int(n) for n in input_shape)
    images = Images((height, width, channels), mean, std)
    return _write(export_classifier(net, model, images, info), path).packed


def pack_weights(source: str | Path, target: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """Write the network of the weights file `source` as a packed file; returns both.

    Raises what `packed_weights` and `write_packed` raise, and ValueError where both differ.
    """
    return _write(packed_weights(source, first_bits), target)


def packed_weights(source: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """The network of the weights file `source`, packed; nothing is compared.

    Its info is that of `source`, and what it was made from and with. `first_bits` are the bits of a
    weight of a tracker's first layer, see `quantise_first`. Raises what `load_weights` raises, and
    ValueError for what has no packed form.
    """
    net, model, info = load_weights(source)
    origin: dict[str, Any] = {
        "source": Path(source).name,
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        "export": {"torch": torch.__version__, "numpy": np.__version__},
    }
    return packed_form(net, model, info, origin, source, first_bits)


def packed_form(
    net: nn.Module,
    model: str,
    info: dict[str, Any],
    origin: dict[str, Any],
    source: str | Path,
    first_bits: int = FIRST_BITS,
) -> Exported:
    """One of our own networks, packed; nothing is compared.

    `info` and `origin` go into the info of the file, `source` is what messages call the network.
    Raises ValueError for what has no packed form.
    """
    if model in TRACKERS:
        info = info | {"architecture": type(net).__name__} | origin
        return export_tracker(net, model, info, first_bits)
    told = info | {"options": net.model_options} | origin
    if model in WHOLE:
        assert isinstance(net, RBSF2)  # for the type checker
        return export_search(net, told)
    return export_classifier(net, model, classifier_input(source, info), told)


def export_tracker(
    net: nn.Module, model: str, info: dict[str, Any] | None = None, first_bits: int = FIRST_BITS
) -> Exported:
    """A 1-bit tracker's backbone, pixels to features.

    Its first layer is rounded to `first_bits` a weight. Raises ValueError, naming the layer, for
    what has no packed form.
    """
    if not binary_layers(net):
        advice = "train --model rbsf or xnor"
        raise ValueError(f"no packed form: the network has no binary convolution; {advice}")
    net = deepcopy(net).eval()
    quantise_first(net, first_bits)
    traced = round_first(trace(net, CROPS.shape, any_size=True), first_bits)
    nodes, values = fold(traced)
    nodes = _as_planes(pack_first(nodes, first_bits), "features")
    packed = _checked(model, "tracker", nodes, info)
    return Exported(net, traced.module.graph, values, packed, CROPS)


def export_float_tracker(net: nn.Module, model: str) -> Exported:
    """A tracker's backbone with its real layers in float32; raises what `export_tracker` raises."""
    net = deepcopy(net).eval()
    traced = trace(net, CROPS.shape, any_size=True)
    nodes, values = fold(traced)
    packed = _checked(model, "tracker", _as_planes(nodes, "features"), None)
    return Exported(net, traced.module.graph, values, packed, CROPS)


def export_search(net: RBSF2, info: dict[str, Any] | None = None) -> Exported:
    """RB-SF 2, a search region's pixels to `rbsf.models.rbsf2.Head`'s maps.

    Its template is that of a made-up crop. To track, node `template` of the info gets the target's
    own, see `rbsf.tracker.rbsf2`: whole steps `[cells, 1, 1, C]` times `template_scale`. Raises
    what `export_tracker` raises.
    """
    crop = made_up_images((EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3), 1)
    search = Search(net, normalised(crop, (0.0,), (1.0,)))
    traced = trace(search, REGIONS.shape, any_size=True)
    nodes, values = fold(traced)
    told = (info or {}) | {"template": "head.correlation", "template_scale": STEP * STEP}
    packed = _checked("rbsf2", "tracker", _as_planes(nodes, "maps"), told)
    return Exported(search, traced.module.graph, values, packed, REGIONS)


def _as_planes(nodes: list[Node], name: str) -> list[Node]:
    """`nodes` and one more, `name`, that gives the result with its channels first."""
    return [*nodes, Node(name, "channels_first", (nodes[-1].name,))]


def export_classifier(
    net: nn.Module, model: str, images: Images, info: dict[str, Any] | None = None
) -> Exported:
    """Any network of common layers, whose real ones stay float32.

    Raises what `export_tracker` raises.
    """
    traced = trace(net, images.shape, images.mean, images.std)
    nodes, values = fold(traced)
    packed = _checked(model, "classifier", nodes, info)
    return Exported(net, traced.module.graph, values, packed, images)


def classifier_input(source: str | Path, info: dict[str, Any]) -> Images:
    """The images that a classifier takes, as `info` of the weights file `source` says.

    The info has their size, and mean and std of pixels from 0 to 1. Raises ValueError where it has
    none of these, or others.
    """
    try:
        size, mean, std = (info["input"][key] for key in ("size", "mean", "std"))
        finite = all(isfinite(value) for value in (*mean, *std))
        if len(mean) != len(std) or any(not value > 0 for value in std) or not finite:
            raise ValueError
        if not 0 < size <= MAX_INPUT:
            raise ValueError
        shape = (int(size), int(size), len(mean))
        return Images(shape, [255 * float(v) for v in mean], [255 * float(v) for v in std])
    except (KeyError, OverflowError, TypeError, ValueError):
        fault = "its info has no input (size, mean, std) of the images"
        advice = "train it by tools/train_classifier.py, or call rbsf.export.pack.export_network"
        raise ValueError(f"{source}: {fault}; {advice}") from None


def _checked(model: str, task: str, nodes: list[Node], info: dict[str, Any] | None) -> PackedModel:
    try:
        return PackedModel(model, task, tuple(nodes), info or {})
    except ValueError as error:
        raise ValueError(f"no packed form: {error}") from None


def _write(exported: Exported, path: str | Path) -> Exported:
    try:
        exported.compare().check()
    except ValueError as error:
        raise ValueError(f"{path} was not written: {error}") from None
    packed = exported.packed
    write_packed(path, packed.model, packed.task, packed.nodes, packed.info)
    return exported
