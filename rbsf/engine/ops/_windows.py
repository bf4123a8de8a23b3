"""What convolutions and pools share: sizes of windows, and exact sums over them."""

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


def window_size(size: int, attributes: dict[str, Any]) -> int:
    """Height or width of the output of a convolution or a pool for that of the input, as PyTorch
    counts it.
    """
    kernel, stride, padding = (attributes[key] for key in ("kernel", "stride", "padding"))
    free = size + 2 * padding - kernel
    if not attributes.get("ceil"):
        return free // stride + 1
    out = -(-free // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out  # the last window begins inside


def check_map(x: Map) -> None:
    """Raises ValueError for a vector."""
    if len(x.shape) != 3:
        raise ValueError(f"takes a map (H, W, C), {x.shape} comes")


def filters(node: Node) -> int:
    """How many filters the weight of a convolution or linear layer has; ValueError for none or too
    many.
    """
    weight = node.tensors.get("weight")
    if weight is None or not weight.ndim or not 1 <= len(weight) <= MAX_CHANNELS:
        raise ValueError(
            f"weight is {None if weight is None else list(weight.shape)}: 1 to {MAX_CHANNELS} filters"
        )
    return len(weight)


def convolved(node: Node, x: Map) -> tuple[int, int, int]:
    """Height, width and channels of a convolution's output; ValueError for what does not fit."""
    check_map(x)
    a, outputs = node.attributes, filters(node)
    if x.shape[2] % a["groups"] or outputs % a["groups"]:
        raise ValueError(
            f"{x.shape[2]} to {outputs} channels do not split into {a['groups']} groups"
        )
    if a.get("channels", x.shape[2]) != x.shape[2]:
        raise ValueError(f"takes {a['channels']} channels, {x.shape[2]} come")
    height, width = (window_size(size, a) for size in x.shape[:2])
    if max(height, 0) * max(width, 0) * a["kernel"] ** 2 * x.shape[2] > MAX_VALUES:
        raise ValueError(f"from {x.shape}: its windows would take over {MAX_VALUES:,} values")
    return height, width, outputs


def pooled(node: Node, x: Map) -> tuple[int, int, int]:
    """Shape of a pool's output.  Every window has a pixel; those of XNOR-Net's K, a mean, may have
    few.
    """
    check_map(x)
    a = node.attributes
    if a["padding"] > (a["kernel"] - 1 if "include_pad" in a else a["kernel"] // 2):
        raise ValueError(f"padding={a['padding']} is over half of kernel={a['kernel']}")
    return window_size(x.shape[0], a), window_size(x.shape[1], a), x.shape[2]


def onnx_window(node: Node) -> dict[str, Any]:
    """A pool's attributes in ONNX."""
    kernel, stride, padding, ceil = (
        node.attributes[key] for key in ("kernel", "stride", "padding", "ceil")
    )
    window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
    return window | {"ceil_mode": int(ceil)}


def convolve(x: np.ndarray, weight: np.ndarray, a: dict[str, Any]) -> np.ndarray:
    """Maps [N, H, W, I], padded already, with rows of weights [O, k * k * I/g] of the same dtype,
    group by group.
    """
    k, stride, groups = a["kernel"], a["stride"], a["groups"]
    width, rows = x.shape[-1] // groups, weight.reshape(groups, len(weight) // groups, -1)
    maps = []
    for image in x:
        windows = sliding_window_view(image, (k, k), (0, 1))[::stride, ::stride].transpose(
            0, 1, 3, 4, 2
        )
        size = windows.shape[:2]
        parts = [
            windows[..., g * width : (g + 1) * width].reshape(*size, -1) @ rows[g].T
            for g in range(groups)
        ]
        maps.append(np.concatenate(parts, -1))
    return np.stack(maps)


def convolve_whole(
    x: np.ndarray, weight: np.ndarray, a: dict[str, Any], largest: int
) -> np.ndarray:
    """As `convolve`, of whole numbers, exactly: BLAS adds those below 2^24 in float32, below 2^53
    in float64, without rounding.  `largest`: that a sum may reach.  int32 [N, H', W', O].
    """
    exact = np.float32 if largest < 1 << 24 else np.float64
    return convolve(x.astype(exact), weight.astype(exact), a).astype(np.int32)


def over_windows(x: np.ndarray, a: dict[str, Any], combine: np.ufunc, fill: float) -> np.ndarray:
    """`combine` over every window, position after position; what a window has beyond the map is
    `fill`.
    """
    kernel, step, pad = a["kernel"], a["stride"], a["padding"]
    height, width = (window_size(size, a) for size in x.shape[1:3])
    ends = (
        (height - 1) * step + kernel - pad - x.shape[1],
        (width - 1) * step + kernel - pad - x.shape[2],
    )
    x = np.pad(x, ((0, 0), *((pad, max(end, 0)) for end in ends), (0, 0)), constant_values=fill)
    parts = [
        x[:, row : row + step * height : step, column : column + step * width : step][
            :, :height, :width
        ]
        for row in range(kernel)
        for column in range(kernel)
    ]
    out = parts[0].copy()
    for part in parts[1:]:
        combine(out, part, out=out)
    return out
