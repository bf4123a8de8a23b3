"""Where each channel's bit stands in the kernels' maps, and weights brought into the same order.

A map is uint8 [N, planes, H, W, bytes]: a plane for each group of the layer that reads it.  Kernels write 8 filters of
one group at a time, a byte; so where groups of writer and reader overlap, their common channels begin on a new byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rbsf.engine.packed import Layer

MAX_PREPARED_BYTES = 64 << 20
NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Layout:
    """The order of a map's channels."""

    planes: int
    bytes: int  # of a pixel in a plane
    bits: np.ndarray  # [C] place of a channel's bit in its plane's pixel
    places: np.ndarray  # int32 [blocks, 2]: plane and byte of every 8 slots that the writer makes
    slots: np.ndarray  # [8 * blocks] channel of a slot, -1 for none
    group_blocks: list[int]  # blocks of each group of the writer


def layout(channels: int, written_in: int, read_in: int) -> Layout:
    """The layout of `channels` whose writer has `written_in` groups and whose reader `read_in`."""
    wide, narrow = channels // written_in, channels // read_in
    cuts = sorted({*range(0, channels, wide), *range(0, channels, narrow), channels})
    bits, used = np.zeros(channels, np.int64), [0] * read_in  # used: bytes of each plane
    places: list[tuple[int, int]] = []
    slots: list[int] = []
    group_blocks = [0] * written_in
    for start, end in pairwise(cuts):
        plane, blocks = start // narrow, (end - start + 7) // 8
        bits[start:end] = used[plane] * 8 + np.arange(end - start)
        places += [(plane, used[plane] + i) for i in range(blocks)]
        slots += [*range(start, end), *[-1] * (8 * blocks - (end - start))]
        group_blocks[start // wide] += blocks
        used[plane] += blocks
    return Layout(read_in, max(used), bits, np.array(places, np.int32), np.array(slots), group_blocks)


def kernel_arguments(layer: Layer, read: Layout | None, write: Layout, margin: int, output: str) -> dict[str, Any]:
    """What the C++ class Conv takes: `read` is the layout of the input (None: pixels), `margin` the padding around the
    output map, `output` one of bits, real, sums.  Raises ValueError for a layer that would take too much memory."""
    size = read.bytes if read else layer.inputs
    if len(write.slots) * layer.kernel**2 * size > MAX_PREPARED_BYTES:
        raise ValueError(f"layer {layer.name!r}: its weights would take over {MAX_PREPARED_BYTES >> 20} MB unpacked")
    used = write.slots >= 0
    weights = np.zeros((len(used), layer.kernel**2 * size), np.uint8)
    weights[used] = (_bit_rows(layer, read) if read else layer.whole.view(np.uint8))[write.slots[used]]
    thresholds = np.full(len(used), NEVER, np.int32)
    if layer.threshold is not None:
        thresholds[used] = layer.threshold[write.slots[used]]
    return {
        "pixels": read is None,
        "output": output,
        "kernel": layer.kernel,
        "stride": layer.stride,
        "pool": layer.pool,
        "bytes": size,
        "products": layer.products,
        "outputs": layer.outputs,
        "planes": write.planes,
        "out_bytes": write.bytes,
        "margin": margin,
        "group_blocks": write.group_blocks,
        "places": write.places,
        "weights": weights,
        "thresholds": thresholds,
        "scale": layer.scale if output == "real" else None,
        "bias": layer.bias if output == "real" else None,
    }


def _bit_rows(layer: Layer, read: Layout) -> np.ndarray:
    """Rows [O, k * k * bytes] of a layer's bits, in the order of the map it reads."""
    k, width = layer.kernel, layer.inputs // layer.groups
    bits = np.unpackbits(layer.weight, axis=1, count=layer.products, bitorder="little")
    bits = bits.reshape(layer.groups, layer.outputs // layer.groups, k * k, width)
    rows = np.zeros((*bits.shape[:3], read.bytes * 8), np.uint8)
    for group in range(layer.groups):
        rows[group][..., read.bits[group * width : (group + 1) * width]] = bits[group]
    return np.packbits(rows, axis=-1, bitorder="little").reshape(layer.outputs, -1)


def unpack_map(bits: np.ndarray, order: Layout, margin: int) -> np.ndarray:
    """Map uint8 [N, planes, H + 2 margin, W + 2 margin, bytes] to bits 0 or 1, uint8 [N, C, H, W]."""
    inner = bits[:, :, margin : bits.shape[2] - margin, margin : bits.shape[3] - margin]
    planes = np.unpackbits(inner, axis=-1, bitorder="little")  # [N, planes, H, W, 8 * bytes]
    plane = np.arange(len(order.bits)) * order.planes // len(order.bits)  # of each channel
    return np.ascontiguousarray(planes.transpose(0, 1, 4, 2, 3)[:, plane, order.bits])
