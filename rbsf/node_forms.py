"""The packed form of each module that networks are made of; arrays stay float64 until batch-norms are folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbsf.layers import BinaryConv2d

Made = tuple[str, dict[str, Any], dict[str, np.ndarray]]  # op, attributes, tensors


def _one(name: str, value: Any) -> int:
    """A size that is the same in both directions."""
    sizes = {value} if isinstance(value, int) else {*value}
    if len(sizes) != 1 or not all(type(n) is int for n in sizes):
        raise ValueError(f"has {name} {value}, expected one whole number")
    return int(sizes.pop())


def _window(module: Any) -> dict[str, Any]:
    if "dilation" in vars(module) and _one("dilation", module.dilation) != 1:
        raise ValueError(f"has dilation {module.dilation}, expected 1")
    names = {"kernel_size": "kernel", "stride": "stride", "padding": "padding"}
    return {ours: _one(theirs, getattr(module, theirs)) for theirs, ours in names.items()}


def _conv(module: nn.Conv2d) -> Made:
    if module.padding_mode != "zeros":
        raise ValueError(f"has padding_mode {module.padding_mode!r}, expected zeros")
    weight = to_numpy(module.weight).transpose(0, 2, 3, 1)
    return "conv", _window(module) | {"groups": module.groups}, {"weight": weight, "bias": bias_of(module)}


def bias_of(module: nn.Conv2d | nn.Linear) -> np.ndarray:
    """The bias [O] of a layer, zeros where it has none."""
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return np.zeros(outputs) if module.bias is None else to_numpy(module.bias)


def _conv_bits(module: BinaryConv2d) -> Made:
    """Its bits are for now those of ``in_scale * x + in_bias + shift``; `rbsf.fold_nodes` makes thresholds of that."""
    terms = module.terms()
    shifts, bits = distinct([to_numpy(term.shift) for term in terms])
    kernels, numbers = distinct([pack_kernels(to_numpy(term.signs)) for term in terms])
    tensors = {
        "weight": np.stack(kernels),
        "scale": np.stack([to_numpy(term.scale) for term in terms]),
        "bias": bias_of(module),
        "in_scale": np.ones(module.in_channels),
        "in_bias": np.zeros(module.in_channels),
        "shift": np.stack(shifts),
    }
    attributes = _window(module) | {"groups": module.groups, "bits": bits, "kernels": numbers}
    return "conv_bits", attributes | {"input_scale": module.input_scale}, tensors


def distinct(arrays: list[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """The different ones of `arrays`, and the number of each array among them."""
    found: dict[bytes, tuple[int, np.ndarray]] = {}
    numbers = [found.setdefault(array.tobytes(), (len(found), array))[0] for array in arrays]
    return [array for _, array in found.values()], numbers


def pack_kernels(signs: np.ndarray) -> np.ndarray:
    """Kernels [O, I/g, k, k], bits 1 where they are above 0, as uint8 [O, bytes] in the engine's order."""
    return np.packbits(signs.transpose(0, 2, 3, 1).reshape(len(signs), -1) > 0, axis=1, bitorder="little")


def _norm(module: Any) -> Made:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("has no running statistics")
    ones = torch.ones_like(module.running_var)
    weight, bias = (to_numpy(v if v is not None else d) for v, d in ((module.weight, ones), (module.bias, 0 * ones)))
    scale = weight / np.sqrt(to_numpy(module.running_var) + module.eps)
    return "affine", {}, {"scale": scale, "bias": bias - scale * to_numpy(module.running_mean)}


def _linear(module: nn.Linear) -> Made:
    return "linear", {}, {"weight": to_numpy(module.weight), "bias": bias_of(module)}


def _max_pool(module: nn.MaxPool2d) -> Made:
    if module.return_indices:
        raise ValueError("returns indices too")
    return "max_pool", _window(module) | {"ceil": bool(module.ceil_mode)}, {}


def _avg_pool(module: nn.AvgPool2d) -> Made:
    if module.divisor_override is not None:
        raise ValueError("has a divisor_override, expected none")
    return (
        "avg_pool",
        _window(module)
        | {
            "ceil": bool(module.ceil_mode),
            "include_pad": bool(module.count_include_pad),
        },
        {},
    )


def _global_pool(module: nn.AdaptiveAvgPool2d) -> Made:
    if _one("output_size", module.output_size) != 1:
        raise ValueError(f"has output_size {module.output_size}, expected 1")
    return "global_pool", {}, {}


def _flatten(module: nn.Flatten) -> Made:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ValueError(f"flattens from {module.start_dim} to {module.end_dim}, expected 1 to -1")
    return "flatten", {}, {}


FORMS: dict[type[nn.Module], Callable[[Any], Made]] = {
    BinaryConv2d: _conv_bits,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm1d: _norm,
    nn.Linear: _linear,
    nn.ReLU: lambda module: ("relu", {}, {}),
    nn.PReLU: lambda module: ("prelu", {}, {"slope": to_numpy(module.weight)}),
    nn.Hardtanh: lambda module: ("hardtanh", {"low": float(module.min_val), "high": float(module.max_val)}, {}),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: _flatten,
}


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy in float64."""
    return tensor.detach().cpu().double().numpy()
