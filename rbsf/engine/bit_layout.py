"""The place of each channel's bit in the kernels' maps, and weights in the same order.

A map of bits is uint8 `[N, planes, H + 2 margin, W + 2 margin, bytes]`. It has a plane, with
padding around it, for each group of the convolution that reads it. Kernels write 8 filters of one
group, a byte, at a time. So the channels that a group of the writer and a group of the reader have
in common begin on a new byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from rbsf.engine.node import Node, Shape

MAX_PREPARED_BYTES = 64 << 20  # limit for the weights of a convolution in the kernels' order
NEVER = np.iinfo(np.int32).max  # a threshold that no sum reaches


@dataclass(frozen=True, eq=False)
class Layout:
    """The order of a map's channels."""

    planes: int
    bytes: int  # bytes of a pixel in a plane
    bits: np.ndarray  # [C]: the place of each channel's bit in its plane's pixel
    places: np.ndarray  # int32 [blocks, 2]: plane and byte of every 8 slots that the writer makes
    slots: np.ndarray  # [8 * blocks]: the channel of each slot, -1 for none
    group_blocks: list[int]  # how many blocks each group of the writer has

    def bits_of(self, own: slice) -> slice | np.ndarray:
        """The places of the bits of a plane's channels; a slice, which is faster, if in order."""
        bits, width = self.bits[own], own.stop - own.start
        return slice(width) if bits[-1] == width - 1 else bits


@dataclass(frozen=True, eq=False)
class Packed:
    """How the bits of an edge are stored: their order, and the padding around them."""

    layout: Layout
    margin: int  # pixels of padding on each side
    border: int  # value of the padding, -1 or 1
    inverted: np.ndarray  # bool [C]: channels with flipped bits, also in the padding

    def shape(self, x: Shape) -> Shape:
        """Shape of the array for one image with the map `x`, (H, W, C)."""
        around = 2 * self.margin
        return self.layout.planes, x[0] + around, x[1] + around, self.layout.bytes

    def array(self, count: int, x: Shape) -> np.ndarray:
        """A new array for `count` images; its padding is set, and kernels only write inside it."""
        array = np.empty((count, *self.shape(x)), np.uint8)
        array[:] = self.pack(np.full((1, 1, 1, x[2]), self.border > 0))
        return array

    def pack(self, bits: np.ndarray) -> np.ndarray:
        """Pack bits 0 or 1 `[N, H, W, C]` into uint8 `[N, planes, H, W, bytes]`, without margin."""
        order = self.layout
        width = bits.shape[3] // order.planes
        spread = np.zeros((*bits.shape[:3], order.planes, 8 * order.bytes), np.uint8)
        turned = bits ^ self.inverted
        for plane in range(order.planes):
            own = slice(plane * width, (plane + 1) * width)
            spread[..., plane, order.bits_of(own)] = turned[..., own]
        return np.packbits(spread, axis=-1, bitorder="little").transpose(0, 3, 1, 2, 4)

    def inside(self, array: np.ndarray) -> np.ndarray:
        """The part of the array that is not padding."""
        m = self.margin
        return array[:, :, m : array.shape[2] - m, m : array.shape[3] - m]

    def unpack(self, array: np.ndarray) -> np.ndarray:
        """The array's bits 0 or 1, uint8 `[N, H, W, C]`."""
        order = self.layout
        channels = len(order.bits)
        plane = np.arange(channels) * order.planes // channels  # the plane of each channel
        spread = np.unpackbits(self.inside(array), axis=-1, bitorder="little")
        spread = spread.transpose(0, 2, 3, 1, 4)  # [N, H, W, planes, 8 * bytes]
        return np.ascontiguousarray(spread[..., plane, order.bits]) ^ self.inverted


@lru_cache(maxsize=256)
def layout(channels: int, written_in: int, read_in: int) -> Layout:
    """The layout of `channels`; the writer has `written_in` groups, the reader `read_in`."""
    wide, narrow = channels // written_in, channels // read_in
    cuts = sorted({*range(0, channels, wide), *range(0, channels, narrow), channels})
    bits = np.zeros(channels, np.int64)
    used = [0] * read_in  # bytes of each plane so far
    places: list[tuple[int, int]] = []
    slots: list[int] = []
    group_blocks = [0] * written_in
    for start, end in pairwise(cuts):
        plane, blocks = start // narrow, (end - start + 7) // 8
        bits[start:end] = used[plane] * 8 + np.arange(end - start)
        places += [(plane, used[plane] + i) for i in range(blocks)]
        spare = 8 * blocks - (end - start)
        slots += [*range(start, end), *[-1] * spare]
        group_blocks[start // wide] += blocks
        used[plane] += blocks
    places_array = np.array(places, np.int32)
    return Layout(read_in, max(used), bits, places_array, np.array(slots), group_blocks)


def kernel_arguments(
    node: Node,
    rows: np.ndarray,
    pixels: bool,
    write: Packed | None,
    output: str,
    thresholds: np.ndarray | None = None,
    pool: bool = False,
    scale: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> dict[str, Any]:
    """The arguments of the C++ class Conv for a convolution.

    `rows` uint8 `[O, k * k * bytes of a pixel]` are its weights in the order of the map it reads.
    `write` is the form of the bits that it writes, None if it writes numbers. `output` is one of
    bits, real, sums, sums16, sums8; `thresholds` are int32 `[O]`. Raises ValueError for weights
    that would take too much memory.
    """
    outputs, kernel, groups = len(rows), node.attributes["kernel"], node.attributes["groups"]
    order = write.layout if write else layout(outputs, groups, groups)
    if len(order.slots) * rows.shape[1] > MAX_PREPARED_BYTES:
        fault = f"its weights would take over {MAX_PREPARED_BYTES >> 20} MB unpacked"
        raise ValueError(f"node {node.name!r}: {fault}")
    used = order.slots >= 0
    weights = np.zeros((len(used), rows.shape[1]), np.uint8)
    weights[used] = rows[order.slots[used]]
    limits = np.full(len(used), NEVER, np.int32)
    if thresholds is not None:
        limits[used] = thresholds[order.slots[used]]
    return {
        "pixels": pixels,
        "output": output,
        "kernel": kernel,
        "stride": node.attributes["stride"],
        "pool": pool,
        "bytes": rows.shape[1] // kernel**2,
        "products": products(node),
        "outputs": outputs,
        "planes": order.planes,
        "out_bytes": order.bytes,
        "margin": write.margin if write else 0,
        "group_blocks": order.group_blocks,
        "places": order.places,
        "weights": weights,
        "thresholds": limits,
        "scale": scale,
        "bias": bias,
    }


def products(node: Node) -> int:
    """How many products are summed for one output value of a convolution."""
    a = node.attributes
    return a["kernel"] ** 2 * (a["channels"] // a["groups"])


def bit_rows(node: Node, read: Packed) -> np.ndarray:
    """The weights of a conv_bits as rows `[O, k * k * bytes]`, in the order of the map it reads."""
    k, groups, channels = (node.attributes[key] for key in ("kernel", "groups", "channels"))
    width, weight = channels // groups, node.tensors["weight"]
    bits = np.unpackbits(weight, axis=1, count=products(node), bitorder="little")
    bits = bits.reshape(groups, len(weight) // groups, k * k, width)
    rows = np.zeros((*bits.shape[:3], read.layout.bytes * 8), np.uint8)
    for group in range(groups):
        own = slice(group * width, (group + 1) * width)
        rows[group][..., read.layout.bits_of(own)] = bits[group] ^ read.inverted[own]
    return np.packbits(rows, axis=-1, bitorder="little").reshape(len(weight), -1)
