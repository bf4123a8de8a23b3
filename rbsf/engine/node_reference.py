"""What the nodes of a packed network compute, in plain NumPy: the oracle of the kernels, and what runs without them.

Maps are float32 [N, H, W, C], vectors [N, C].  Everything but the sums of real convolutions and linear layers, which
BLAS adds up in an order of its own, is defined to the bit: bits are exact, and every product and sum of a scale, a
bias, a shortcut or a pool is rounded to float32 by itself, in the order in which it stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rbsf.engine import reference
from rbsf.engine.nodes import NetworkModel, Node, window_size


def forward(model: NetworkModel, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of all nodes, by name, for images uint8 [N, H, W, C]."""
    maps = {model.nodes[0].name: images}
    for node in model.nodes[1:]:
        maps[node.name] = compute(node, [maps[name] for name in node.inputs])
    return maps


def compute(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """The output of one node, a new array or a view; inputs are its maps, or the uint8 images."""
    return OPS[node.op](node, *(np.asarray(x, np.float32) for x in inputs))


def take_bits(node: Node, x: np.ndarray) -> np.ndarray:
    """The bits that a conv_bits takes of map `x`, uint8 [B, N, H, W, I]."""
    threshold, flip = node.tensors["threshold"], node.tensors["flip"]
    return np.stack([(x >= t).astype(np.uint8) ^ f for t, f in zip(threshold, flip, strict=True)])


def conv_bits(node: Node, x: np.ndarray) -> np.ndarray:
    """See `rbsf.engine.nodes`."""
    bits, out = take_bits(node, x), None
    terms = zip(node.attributes["bits"], node.attributes["kernels"], node.tensors["scale"], strict=True)
    for base, kernel, scale in terms:
        sums = reference.conv_bits(bits[base], node.kernel(kernel, x.shape[-1])).astype(np.float32)
        out = sums * scale if out is None else out + sums * scale
    assert out is not None  # the node is checked: it has a term
    return (out * input_scale(node, x) if "map_scale" in node.tensors else out) + node.tensors["bias"]


def input_scale(node: Node, x: np.ndarray) -> np.ndarray:
    """XNOR-Net's map K, [N, H', W', 1]."""
    magnitude = np.abs(x * node.tensors["map_scale"] + node.tensors["map_bias"]).mean(-1, keepdims=True)
    return _pooled(magnitude, node.attributes, np.add, 0.0) / np.float32(node.attributes["kernel"] ** 2)


def conv(node: Node, x: np.ndarray) -> np.ndarray:
    """Real convolution, image by image and group by group."""
    a, weight = node.attributes, node.tensors["weight"]
    k, step, pad, groups = (a[key] for key in ("kernel", "stride", "padding", "groups"))
    width, rows = x.shape[-1] // groups, weight.reshape(groups, len(weight) // groups, -1)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    maps = []
    for image in x:
        windows = sliding_window_view(image, (k, k), (0, 1))[::step, ::step].transpose(0, 1, 3, 4, 2)
        size = windows.shape[:2]
        parts = [windows[..., g * width : (g + 1) * width].reshape(*size, -1) @ rows[g].T for g in range(groups)]
        maps.append(np.concatenate(parts, -1))
    return np.stack(maps) + node.tensors["bias"]


def _pooled(x: np.ndarray, a: dict[str, Any], combine: np.ufunc, fill: float) -> np.ndarray:
    """`combine` over every window, position after position; what a window has beyond the map is `fill`."""
    kernel, step, pad = a["kernel"], a["stride"], a["padding"]
    height, width = (window_size(size, a) for size in x.shape[1:3])
    ends = ((height - 1) * step + kernel - pad - x.shape[1], (width - 1) * step + kernel - pad - x.shape[2])
    x = np.pad(x, ((0, 0), *((pad, max(end, 0)) for end in ends), (0, 0)), constant_values=fill)
    out = None
    for row in range(kernel):
        for column in range(kernel):
            part = x[:, row : row + step * height : step, column : column + step * width : step]
            part = part[:, :height, :width]
            out = part.copy() if out is None else combine(out, part, out=out)
    assert out is not None
    return out


def max_pool(node: Node, x: np.ndarray) -> np.ndarray:
    """The largest of each window."""
    return _pooled(x, node.attributes, np.maximum, -np.inf)


def avg_pool(node: Node, x: np.ndarray) -> np.ndarray:
    """The mean of each window."""
    return _pooled(x, node.attributes, np.add, 0.0) / window_areas(x.shape[1:3], node.attributes)[:, :, None]


def window_areas(shape: tuple[int, ...], a: dict[str, Any]) -> np.ndarray:
    """What the sum of each window is divided by, float32 [H', W'], for a map of `shape` (H, W, ...)."""
    return np.outer(*(_window_counts(size, a) for size in shape[:2])).astype(np.float32)


def _window_counts(size: int, a: dict[str, Any]) -> np.ndarray:
    start = np.arange(window_size(size, a)) * a["stride"] - a["padding"]
    end = np.minimum(start + a["kernel"], size + a["padding"])
    return end - start if a["include_pad"] else np.minimum(end, size) - np.maximum(start, 0)


def global_pool(x: np.ndarray) -> np.ndarray:
    """The mean of each channel, [N, 1, 1, C], pixel after pixel added up."""
    pixels = x.reshape(len(x), -1, x.shape[-1])
    out = pixels[:, 0].copy()
    for number in range(1, pixels.shape[1]):
        out += pixels[:, number]
    return (out / np.float32(pixels.shape[1]))[:, None, None]


def affine(node: Node, x: np.ndarray) -> np.ndarray:
    """scale * x + bias."""
    return x * node.tensors["scale"] + node.tensors["bias"]


def _hardtanh(node: Node, x: np.ndarray) -> np.ndarray:
    return np.clip(x, np.float32(node.attributes["low"]), np.float32(node.attributes["high"]))


OPS: dict[str, Callable[..., np.ndarray]] = {
    "affine": affine,
    "conv": conv,
    "conv_bits": conv_bits,
    "linear": lambda node, x: x @ node.tensors["weight"].T + node.tensors["bias"],
    "relu": lambda node, x: np.maximum(x, np.float32(0)),
    "prelu": lambda node, x: np.where(x >= 0, x, x * node.tensors["slope"]),
    "hardtanh": _hardtanh,
    "add": lambda node, x, y: x + y,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "global_pool": lambda node, x: global_pool(x),
    "flatten": lambda node, x: x if x.ndim == 2 else x.transpose(0, 3, 1, 2).reshape(len(x), -1),
}
