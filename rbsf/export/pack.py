"""From a trained network to a packed file: trace, fold, round, compare, write.

pack_weights      a weights file of this project, tracker or classifier
export_network    any network of common layers
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
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
    """What images a network takes: uint8 [N, *shape], given to it as (image - mean) / std, in steps
    of the pixel.
    """

    shape: tuple[int, int, int]  # (H, W, C)
    mean: Sequence[float] = (0.0,)  # for each channel, or for all
    std: Sequence[float] = (1.0,)


EXEMPLAR_SIZE = 127  # pixels of a template's crop
CROPS = Images((EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3))  # of a tracker, which takes larger ones too
REGIONS = Images((255, 255, 3))  # of a tracker with a head


@dataclass(frozen=True)
class Exported:
    """A packed network, and what it was made from: the network rounded as it is."""

    net: nn.Module
    graph: fx.Graph  # its trace
    values: dict[str, str]  # the value of it that each node gives
    packed: PackedModel
    images: Images

    def compare(self, images: np.ndarray | None = None) -> Agreement:
        """How both agree on `images` uint8 [N, H, W, C], or on made-up ones; see
        `rbsf.export.compare`.
        """
        images = made_up_images(self.packed.input_shape) if images is None else images
        return compare(
            self.net,
            self.graph,
            self.values,
            self.packed,
            images,
            self.images.mean,
            self.images.std,
        )


def export_network(
    net: nn.Module, path: str | Path, model: str, input_shape: Sequence[int], info: dict[str, Any] | None = None,
    mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
) -> PackedModel:  # fmt: skip
    """Write `net`, called `model` and in eval mode, as a packed file that classifies; returns what
    was written.

    `input_shape`: (H, W, C) of the uint8 images that it takes; `net` takes (image - mean) / std as
    [N, C, H, W], with mean and std in steps of the pixel, one for each channel or for all; `info`
    is anything JSON holds.  ValueError in one line for what has no packed form and for a file that
    would not compute what `net` does, OSError where `path` cannot be written.
    """
    height, width, channels = (int(n) for n in input_shape)
    images = Images((height, width, channels), mean, std)
    return _write(export_classifier(net, model, images, info), path).packed


def pack_weights(source: str | Path, target: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """Write the network of the weights file `source` as a packed file; returns both.

    Errors: as `packed_weights` and `write_packed` have them, and ValueError where both differ.
    """
    return _write(packed_weights(source, first_bits), target)


def packed_weights(source: str | Path, first_bits: int = FIRST_BITS) -> Exported:
    """The network of the weights file `source`, packed; nothing is compared.

    Its info is that of `source`, and what it was made from and with.  `first_bits`: of a weight of
    a tracker's first layer, see `quantise_first`.  ValueError and OSError as `load_weights` has
    them, and for what has no packed form.
    """
    net, model, info = load_weights(source)
    origin = {
        "source": Path(source).name,
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
        "export": {"torch": torch.__version__, "numpy": np.__version__},
    }
    if model in TRACKERS:
        return export_tracker(
            net, model, info | {"architecture": type(net).__name__} | origin, first_bits
        )
    if model in WHOLE:
        assert isinstance(net, RBSF2)  # for the type checker
        return export_search(net, info | {"options": net.model_options} | origin)
    images = classifier_input(source, info)
    return export_classifier(net, model, images, info | {"options": net.model_options} | origin)


def export_tracker(
    net: nn.Module, model: str, info: dict[str, Any] | None = None, first_bits: int = FIRST_BITS
) -> Exported:
    """A 1-bit tracker's backbone, pixels to features, its first layer rounded to `first_bits` a
    weight.

    ValueError, naming the layer, for what has no packed form.
    """
    if not binary_layers(net):
        raise ValueError(
            "no packed form: the network has no binary convolution; train --model rbsf or xnor"
        )
    net = deepcopy(net).eval()
    quantise_first(net, first_bits)
    traced = round_first(trace(net, CROPS.shape, any_size=True), first_bits)
    nodes, values = fold(traced)
    return _of_tracker(net, model, traced.module.graph, pack_first(nodes, first_bits), values, info)


def export_float_tracker(net: nn.Module, model: str) -> Exported:
    """A tracker's backbone with its real layers in float32; ValueError as `export_tracker`."""
    net = deepcopy(net).eval()
    traced = trace(net, CROPS.shape, any_size=True)
    return _of_tracker(net, model, traced.module.graph, *fold(traced), None)


def _of_tracker(
    net: nn.Module,
    model: str,
    graph: fx.Graph,
    nodes: list[Node],
    values: dict[str, str],
    info: dict[str, Any] | None,
) -> Exported:
    nodes = [*nodes, Node("features", "channels_first", (nodes[-1].name,))]
    return Exported(net, graph, values, _checked(model, "tracker", nodes, info), CROPS)


def export_search(net: RBSF2, info: dict[str, Any] | None = None) -> Exported:
    """RB-SF 2, a search region's pixels to `rbsf.models.rbsf2.Head`'s maps; ValueError as
    `export_tracker`.

    Its template is that of a made-up crop.  To track, node `template` of the info gets the target's
    own, see `rbsf.tracker.rbsf2`: whole steps [cells, 1, 1, C] times `template_scale`.
    """
    crop = made_up_images((EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3), 1)
    search = Search(net, normalised(crop, (0.0,), (1.0,)))
    traced = trace(search, REGIONS.shape, any_size=True)
    nodes, values = fold(traced)
    nodes = [*nodes, Node("maps", "channels_first", (nodes[-1].name,))]
    told = {"template": "head.correlation", "template_scale": STEP * STEP}
    packed = _checked("rbsf2", "tracker", nodes, (info or {}) | told)
    return Exported(search, traced.module.graph, values, packed, REGIONS)


def export_classifier(
    net: nn.Module, model: str, images: Images, info: dict[str, Any] | None = None
) -> Exported:
    """Any network of common layers, whose real ones stay float32; ValueError as `export_tracker`."""
    traced = trace(net, images.shape, images.mean, images.std)
    nodes, values = fold(traced)
    return Exported(
        net, traced.module.graph, values, _checked(model, "classifier", nodes, info), images
    )


def classifier_input(source: str | Path, info: dict[str, Any]) -> Images:
    """What images a classifier takes, as `info` of the weights file `source` says: size, mean and
    std (of 0 to 1).
    """
    try:
        size, mean, std = (info["input"][key] for key in ("size", "mean", "std"))
        if not len(mean) == len(std) or not all(value > 0 for value in std):
            raise ValueError
        shape = (int(size), int(size), len(mean))
        return Images(shape, [255 * float(v) for v in mean], [255 * float(v) for v in std])
    except (KeyError, TypeError, ValueError):
        advice = "train it by tools/train_classifier.py, or call rbsf.export.pack.export_network"
        raise ValueError(
            f"{source}: its info has no input (size, mean, std) of the images; {advice}"
        ) from None


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
