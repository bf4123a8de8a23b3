"""Checks before training whether a network can be exported; the network is not run."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from rbsf.export.images import Images
from rbsf.export.pack import export_classifier, packed_form


def check_exportable(network: nn.Module, input_shape: Sequence[int]) -> None:
    """Raise ValueError if `export_network` would refuse the layers of `network`.

    `input_shape` is (H, W, C) of the uint8 images that the packed file should take. The network may
    be untrained and in training mode; it is not changed. The message is one line: the layer, the
    line of your code that calls it, and what to use instead. The export itself checks later that
    the trained network and its packed file compute the same.
    """
    height, width, channels = (int(n) for n in input_shape)
    export_classifier(_copy(network), "network", Images((height, width, channels)))


def check_packable(network: nn.Module, model: str, info: dict[str, Any]) -> None:
    """Raise ValueError if `pack_weights` would refuse one of our own networks, called `model`.

    `info` is what its weights file will say about its images. The network is not changed.
    """
    packed_form(_copy(network), model, info, {}, f"the untrained {model}")


def _copy(network: nn.Module) -> nn.Module:
    return deepcopy(network).cpu().eval()
