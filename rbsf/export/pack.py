"""Turns a trained network into a packed file: trace, fold, round, compare, write.

pack_weights      for a weights file of this project, tracker or classifier
export_network    for any network of common layers
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rbsf.engine.file import write_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.export.compare import Exported
from rbsf.export.first_layer import FIRST_BITS, pack_first, quantise_first, round_first
from rbsf.export.fold import fold
from rbsf.export.images import CROPS, REGIONS, Images, made_up_images
from rbsf.export.trace import trace
from rbsf.layers import binary_layers
from rbsf.models import TRACKERS, WHOLE
from rbsf.models.rbsf2 import RBSF2, Search
from rbsf.models.whole import STEP
from rbsf.weights import load_weights

MAX_INPUT = 4096  # largest side of a classifier's images, in pixels


def export_network(
    net: nn.Module,
    path: str | Path,
    model: str,
    input_shape: Sequence[int],
    info: dict[str, Any] | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> PackedModel:
    """Write `net`, called `model` and in eval mode, as the packed file of a classifier.

    Returns the packed network. `input_shape` is (H, W, C) of the uint8 images that it takes. `net`
    takes (image - mean) / std as `[N, C, H, W]`; mean and std are in units of pixel values, one
    number per channel or one for all. `info` may be anything that JSON can hold; tools/classify.py
    reads the names of classes from its list `classes`. `rbsf.export.check.check_exportable` says
    before training whether the export will work.

    Raises ValueError in one line if a part of `net` has no packed form or if the file would not
    compute the same as `net`, OSError if `path` cannot be written.
    """
    height, width, channels = (int(n) for n in input_shape)
    images = Images((height, width, channels), mean, std)
    return _write(export_classifier(net, model, images, info), path).packed


def pack_weights(source: str | Path, target: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """Write the network of the weights file `source` as a packed file; returns both networks.

    Raises the errors of `packed_weights` and `write_packed`, and ValueError if the two networks
    differ.
    """
    return _write(packed_weights(source, first_bits), target)


def packed_weights(source: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """The network of the weights file `source`, packed; nothing is compared.

    Its info is that of `source`, plus the source file and the program versions. `first_bits` is the
    number of bits of a weight in a tracker's first layer, see `quantise_first`. Raises the errors
    of `load_weights`, and ValueError for parts without a packed form.
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

    `info` and `origin` go into the info of the file; messages call the network `source`. Raises
    ValueError for parts without a packed form.
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
    """A 1-bit tracker's backbone, from pixels to features.

    The weights of its first layer are rounded to `first_bits` bits. Raises ValueError that names
    the layer if a layer has no packed form.
    """
    if not binary_layers(net):
        advice = "train --model rbsf or xnor"
        raise ValueError(f"no packed form: the network has no binary convolution; {advice}")
    net = deepcopy(net).eval()
    quantise_first(net, first_bits)
    traced = round_first(trace(net, CROPS, any_size=True), first_bits)
    nodes, values = fold(traced)
    nodes = _as_planes(pack_first(nodes, first_bits), "features")
    packed = _checked(model, "tracker", nodes, info)
    return Exported(net, traced.module.graph, values, packed, CROPS)


def export_float_tracker(net: nn.Module, model: str) -> Exported:
    """A tracker's backbone with real layers in float32; raises the errors of `export_tracker`."""
    net = deepcopy(net).eval()
    traced = trace(net, CROPS, any_size=True)
    nodes, values = fold(traced)
    packed = _checked(model, "tracker", _as_planes(nodes, "features"), None)
    return Exported(net, traced.module.graph, values, packed, CROPS)


def export_search(net: RBSF2, info: dict[str, Any] | None = None) -> Exported:
    """RB-SF 2, from a search region's pixels to the maps of `rbsf.models.rbsf2.Head`.

    Its template is made from a made-up crop. To track a target, the node that the info calls
    `template` gets the target's own template: whole steps `[cells, 1, 1, C]` times
    `template_scale`, see `rbsf.tracker.rbsf2`. Raises the errors of `export_tracker`.
    """
    search = Search(net, CROPS.normalised(made_up_images(CROPS.shape, 1)))
    traced = trace(search, REGIONS, any_size=True)
    nodes, values = fold(traced)
    told = (info or {}) | {"template": "head.correlation", "template_scale": STEP * STEP}
    packed = _checked("rbsf2", "tracker", _as_planes(nodes, "maps"), told)
    return Exported(search, traced.module.graph, values, packed, REGIONS)


def _as_planes(nodes: list[Node], name: str) -> list[Node]:
    """`nodes` and one more, called `name`, that puts the channels of the result first."""
    return [*nodes, Node(name, "channels_first", (nodes[-1].name,))]


def export_classifier(
    net: nn.Module, model: str, images: Images, info: dict[str, Any] | None = None
) -> Exported:
    """Any network of common layers; real layers stay float32.

    Raises the errors of `export_tracker`.
    """
    traced = trace(net, images)
    nodes, values = fold(traced)
    packed = _checked(model, "classifier", nodes, info)
    return Exported(net, traced.module.graph, values, packed, images)


def classifier_input(source: str | Path, info: dict[str, Any]) -> Images:
    """The images that a classifier takes, according to `info` of the weights file `source`.

    The info must have their size, and mean and std for pixels from 0 to 1. Raises ValueError if
    these are missing or invalid.
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
        advice = "train it by rbsf train-classifier, or call rbsf.export.pack.export_network"
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
    write_packed(path, exported.packed)
    return exported
