"""global_pool: the mean of each channel, float32 (1, 1, C); pixels are added one after another."""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.op import NUMBERS, Op
from rbsf.engine.ops._windows import check_map
from rbsf.engine.ops.avg_pool import mean_kernel


def _result(node: Node, x: Map) -> Map:
    check_map(x)
    return Map((1, 1, x.shape[2]), "real")


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    pixels = x.reshape(len(x), -1, x.shape[-1])
    out = pixels[:, 0].copy()
    for number in range(1, pixels.shape[1]):
        out += pixels[:, number]
    mean = out / np.float32(pixels.shape[1])
    return mean[:, None, None]


def _kernel(node: Node, maps: list[Map], target: Target) -> Kernel:
    height, width, _ = maps[0].shape
    window = {"kernel": max(height, width), "stride": 1, "padding": 0}
    return mean_kernel(window, np.full((1, 1), height * width, np.float32), target)


OP = Op(
    takes=(NUMBERS,), result=_result, reference=_reference, kernel=_kernel, onnx="GlobalAveragePool"
)
