"""Shared parts of convolutions and pools: sizes of windows, and exact sums over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rbsf.engine.node import MAX_CHANNELS, MAX_VALUES, Check, Map, Node, flag, whole

WINDOW: dict[str, Check] = {"kernel": whole(1, 31), "stride": whole(1, 16), "padding": whole(0, 16)}
GROUPS: dict[str, Check] = {"groups": whole(1, MAX_CHANNELS)}
CHANNELS: dict[str, Check] = {"channels": whole(1, MAX_CHANNELS)}
POOL: dict[str, Check] = {
    "kernel": whole(1, 255),
    "stride": whole(1, 255),
    "padding": whole(0, 127),
    "ceil": flag,
}


def window_size(size: int, a: dict[str, Any]) -> int:
    """Height or width of a convolution's or pool's output for an input of `size`, as in PyTorch."""
    kernel, stride, padding = a["kernel"], a["stride"], a["padding"]
    free = size + 2 * padding - kernel
    if not a.get("ceil"):
        return free // stride + 1
    out = -(-free // stride) + 1
    begins_outside = (out - 1) * stride >= size + padding
    return out - 1 if begins_outside else out


def check_map(x: Map) -> None:
    """Raise ValueError if `x` is a vector."""
    if len(x.shape) != 3:
        raise ValueError(f"expected a map (H, W, C), got {x.shape}")


def filters(node: Node) -> int:
    """The number of filters of a convolution or linear layer.

    Raises ValueError if it has none or too many.
    """
    weight = node.tensors.get("weight")
    if weight is None or not weight.ndim or not 1 <= len(weight) <= MAX_CHANNELS:
        found = None if weight is None else list(weight.shape)
        raise ValueError(f"weight is {found}: 1 to {MAX_CHANNELS} filters")
    return len(weight)


def convolved(node: Node, x: Map) -> tuple[int, int, int]:
    """Height, width and channels of a convolution's output.

    Raises ValueError if node and map do not fit together.
    """
    check_map(x)
    a, inputs, outputs = node.attributes, x.shape[2], filters(node)
    if inputs % a["groups"] or outputs % a["groups"]:
        raise ValueError(f"{inputs} to {outputs} channels do not split into {a['groups']} groups")
    if a.get("channels", inputs) != inputs:
        raise ValueError(f"expected {a['channels']} channels, got {inputs}")
    height, width = (window_size(size, a) for size in x.shape[:2])
    pixels = max(height, 0) * max(width, 0)
    if pixels * a["kernel"] ** 2 * inputs > MAX_VALUES:
        raise ValueError(f"from {x.shape}: its windows would take over {MAX_VALUES:,} values")
    return height, width, outputs


def pooled(node: Node, x: Map) -> tuple[int, int, int]:
    """Shape of a pool's output.

    Padding is limited so that every window contains a pixel of the map. XNOR-Net's K, a mean that
    includes padding, may have more padding than other pools.
    """
    check_map(x)
    a = node.attributes
    most = a["kernel"] - 1 if "include_pad" in a else a["kernel"] // 2
    if a["padding"] > most:
        raise ValueError(f"padding={a['padding']} is over half of kernel={a['kernel']}")
    return window_size(x.shape[0], a), window_size(x.shape[1], a), x.shape[2]


def onnx_window(node: Node) -> dict[str, Any]:
    """A pool's attributes in ONNX."""
    a = node.attributes
    return {
        "kernel_shape": [a["kernel"]] * 2,
        "strides": [a["stride"]] * 2,
        "pads": [a["padding"]] * 4,
        "ceil_mode": int(a["ceil"]),
    }


def convolve(x: np.ndarray, weight: np.ndarray, a: dict[str, Any]) -> np.ndarray:
    """Convolve maps `[N, H, W, I]`, already padded, group by group; returns `[N, H', W', O]`.

    `weight` has rows `[O, k * k * I/g]` of the same dtype.
    """
    k, stride, groups = a["kernel"], a["stride"], a["groups"]
    width = x.shape[-1] // groups
    rows = weight.reshape(groups, len(weight) // groups, -1)
    maps = []
    for image in x:
        windows = sliding_window_view(image, (k, k), (0, 1))[::stride, ::stride]
        windows = windows.transpose(0, 1, 3, 4, 2)  # [H', W', k, k, I]
        size = windows.shape[:2]
        parts = []
        for group in range(groups):
            own = windows[..., group * width : (group + 1) * width]
            parts.append(own.reshape(*size, -1) @ rows[group].T)
        maps.append(np.concatenate(parts, -1))
    return np.stack(maps)


def convolve_whole(
    x: np.ndarray, weight: np.ndarray, a: dict[str, Any], largest: int
) -> np.ndarray:
    """As `convolve`, but exact, for whole numbers; returns int32 `[N, H', W', O]`.

    `largest` is the largest possible sum. BLAS adds without rounding below 2^24 in float32, and
    below 2^53 in float64.
    """
    exact = np.float32 if largest < 1 << 24 else np.float64
    return convolve(x.astype(exact), weight.astype(exact), a).astype(np.int32)


def over_windows(x: np.ndarray, a: dict[str, Any], combine: np.ufunc, fill: float) -> np.ndarray:
    """Reduce every window of maps `[N, H, W, C]` by `combine`, one position after another.

    Positions of a window outside the map have the value `fill`.
    """
    kernel, step, padding = a["kernel"], a["stride"], a["padding"]
    around = [(0, 0)]
    for size in x.shape[1:3]:
        end = (window_size(size, a) - 1) * step + kernel - padding - size
        around.append((padding, max(end, 0)))
    height, width = (window_size(size, a) for size in x.shape[1:3])
    x = np.pad(x, (*around, (0, 0)), constant_values=fill)
    out = x[:, : step * height : step, : step * width : step][:, :height, :width].copy()
    for row, column in list(np.ndindex(kernel, kernel))[1:]:
        part = x[:, row : row + step * height : step, column : column + step * width : step]
        combine(out, part[:, :height, :width], out=out)
    return out
