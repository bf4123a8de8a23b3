"""Reads float SiamFC weights that were published elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rbsf.models import build
from rbsf.torch_file import first_line, read_torch
from rbsf.weights import load_tensors

EPS = 1e-6  # epsilon of the batch-norms in siamfc-pytorch
MOST_BYTES = 1 << 28  # limit for all arrays of an .npz; those of SiamFC have 9.4 MB


def _check_sizes(path: Path) -> None:
    """Raise ValueError if the arrays of an .npz take more than MOST_BYTES."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"its arrays take {size:,} bytes, {MOST_BYTES:,} at most are read")


def read_npz(path: Path) -> nn.Module:
    """The SiamFC in a NumPy archive. Raises ValueError, naming the file, for any other file."""
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files}
    except Exception as error:  # the parser may raise any error on a damaged file
        raise ValueError(
            f"{path}: not a whole .npz of plain arrays ({first_line(error)}); copy it again"
        ) from None
    net = build("siamfc")
    tensors = {}
    try:
        for number, block in enumerate(net.layers, 1):  # type: ignore[arg-type]
            weight, bias = arrays[f"conv{number}.weight"], arrays[f"conv{number}.bias"]
            tensors[f"layers.{number - 1}.conv.weight"] = weight
            if isinstance(block.norm, nn.BatchNorm2d):
                # The file's batch-norm is folded in, so ours only adds the bias.
                tensors[f"layers.{number - 1}.norm.bias"] = bias
                tensors[f"layers.{number - 1}.norm.running_var"] = torch.full_like(
                    bias, 1 - block.norm.eps
                )
                tensors[f"layers.{number - 1}.norm.running_mean"] = torch.zeros_like(bias)
                tensors[f"layers.{number - 1}.norm.weight"] = torch.ones_like(bias)
            else:
                tensors[f"layers.{number - 1}.conv.bias"] = bias
        load_tensors(net, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: no SiamFC of conv1..conv5 .weight and .bias ({first_line(error)})"
        ) from None
    return net


def read_pth(path: Path) -> nn.Module:
    """The SiamFC in a file of siamfc-pytorch; the errors are those of `read_npz`."""
    state = read_torch(
        path, "PyTorch file", "copy it again, or save the network's state_dict alone"
    )
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ValueError(
            f"{path}: no state dict of tensors;"
            " its siamfc-pytorch keys would be backbone.conv1.0.weight ..."
        )
    net = build("siamfc")
    parts = {"0": "conv", "1": "norm"}
    try:
        tensors = {}
        for key, tensor in state.items():
            number, part, rest = _siamfc_key(key)
            tensors[f"layers.{number - 1}.{parts[part]}.{rest}"] = tensor
        for number, block in enumerate(net.layers):  # type: ignore[arg-type]
            if isinstance(block.norm, nn.BatchNorm2d):
                # A bias before a batch-norm only shifts its mean; a different eps only shifts its
                # variance.
                mean, var = (
                    f"layers.{number}.norm.running_mean",
                    f"layers.{number}.norm.running_var",
                )
                tensors[mean] = tensors[mean] - tensors.pop(f"layers.{number}.conv.bias", 0)
                tensors[var] = tensors[var] + (EPS - block.norm.eps)
        load_tensors(net, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: no network of siamfc-pytorch's AlexNet layout ({first_line(error)})"
        ) from None
    return net


def _siamfc_key(key: str) -> tuple[int, str, str]:
    """Number of the convolution, part and name of a key.

    `[module.][backbone.]conv2.1.weight` is (2, "1", "weight"), `conv5.weight` (5, "0", "weight").
    """
    name = key
    for prefix in ("module.", "backbone.", "features."):
        name = name.removeprefix(prefix)
    words = name.split(".")
    if not words[0].startswith("conv") or len(words) not in (2, 3):
        raise ValueError(f"unknown key {key}")
    number = int(words[0].removeprefix("conv"))
    return (number, words[1], words[2]) if len(words) == 3 else (number, "0", words[1])
