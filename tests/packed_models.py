"""Packed trackers of random weights, for the tests of the engine."""

from __future__ import annotations

import numpy as np

from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node

# kernel, stride, padding, groups, inputs, outputs, pool
RBSF = [
    (11, 2, 0, 1, 3, 96, True),
    (5, 1, 0, 2, 96, 256, True),
    (3, 1, 0, 1, 256, 384, False),
    (3, 1, 0, 2, 384, 384, False),
    (3, 1, 0, 2, 384, 256, False),
]
SMALL = [(3, 2, 0, 1, 3, 8, True), (3, 1, 1, 2, 8, 12, False), (1, 1, 0, 1, 12, 5, False)]
POOL = {"kernel": 3, "stride": 2, "padding": 0, "ceil": False}
ENDS = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 2**31 - 2], np.int64)


def random_model(seed: int, shapes: list[tuple] = RBSF) -> PackedModel:
    """A tracker of layers of the given shapes, for images of any size."""
    rng, side = np.random.default_rng(seed), least_size(shapes)
    size = {"height": side, "width": side, "channels": shapes[0][4], "any_size": True}
    nodes = [Node("image", "input", (), size)]
    for number, shape in enumerate(shapes, 1):
        conv = random_conv(rng, f"conv{number}", nodes[-1].name, shape, of_pixels=number == 1)
        nodes.append(conv)
        if number == len(shapes):
            scale, bias = rng.normal(size=(2, shape[5])).astype(np.float32)
            scaling = {"scale": scale, "bias": bias}
            nodes.append(Node(f"{conv.name}.scaled", "affine", (conv.name,), {}, scaling))
            nodes.append(Node(f"{conv.name}.features", "channels_first", (nodes[-1].name,)))
            break
        if shape[6]:
            nodes.append(Node(f"{conv.name}.pool", "max_pool", (conv.name,), dict(POOL)))
        nodes.append(random_sign(rng, conv, nodes[-1].name))
    return PackedModel("rbsf", "tracker", tuple(nodes), {"seed": seed})


def least_size(shapes: list[tuple]) -> int:
    """Height and width of the smallest image of which these layers make one pixel."""
    size = 1
    for kernel, stride, padding, _, _, _, pool in reversed(shapes):
        size = 2 * size + 1 if pool else size
        size = max(1, (size - 1) * stride + kernel - 2 * padding)
    return size


def random_conv(
    rng: np.random.Generator, name: str, source: str, shape: tuple, of_pixels: bool = False
) -> Node:
    """A conv_u8 or conv_bits of random weights; where it pads, the value is random too."""
    kernel, stride, padding, groups, inputs, outputs, _ = shape
    attributes = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
    attributes["channels"] = inputs
    if of_pixels:
        weight = rng.integers(-63, 64, (outputs, kernel, kernel, inputs)).astype(np.int8)
        return Node(name, "conv_u8", (source,), attributes | {"bits": 8}, {"weight": weight})
    bits = rng.integers(0, 2, (outputs, kernel**2 * (inputs // groups)), np.uint8)
    border = int(rng.choice([-1, 1])) if padding else -1
    weight = np.packbits(bits, axis=1, bitorder="little")
    return Node(name, "conv_bits", (source,), attributes | {"border": border}, {"weight": weight})


def random_sign(rng: np.random.Generator, conv: Node, source: str) -> Node:
    """Bits of the sums of `conv`; half of such nodes flip some signs.

    Thresholds are within the range of the sums, at its ends, and far beyond.
    """
    a, outputs = conv.attributes, len(conv.tensors["weight"])
    products = a["kernel"] ** 2 * (a["channels"] // a["groups"])
    spread = products**0.5 * (5000 if conv.op == "conv_u8" else 1)
    lowest = [-products - 1, -products, -products + 1]
    highest = [products, products - 1, products + 1]
    ends = np.concatenate([ENDS, lowest, highest])
    extreme = rng.random(outputs) < 0.3
    threshold = np.where(extreme, rng.choice(ends, outputs), rng.normal(0, spread, outputs).round())
    tensors = {"threshold": threshold.astype(np.int32)}
    if rng.random() < 0.5:
        tensors["flip"] = rng.integers(0, 2, outputs, np.uint8)
    return Node(f"{conv.name}.sign", "sign", (source,), {}, tensors)
