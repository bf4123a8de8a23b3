"""Packed networks of random nodes, for the tests of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from rbsf.engine.nodes import NetworkModel, Node, Shape, check_nodes

WINDOWS = ("kernel", "stride", "padding")


class Maker:
    """Adds nodes one after another; the maps' shapes are known, so that every node fits."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes = [Node("image", "input", (), dict(zip(("height", "width", "channels"), shape, strict=True)))]
        self.shapes: dict[str, Shape] = {"image": shape}

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def add(self, op: str, *inputs: str, tensors: dict[str, np.ndarray] | None = None, **attributes: Any) -> str:
        node = Node(f"{op}.{len(self.nodes)}", op, inputs or (self.nodes[-1].name,), attributes, tensors or {})
        self.nodes.append(node)
        self.shapes = check_nodes(self.nodes)
        return node.name

    @property
    def shape(self) -> Shape:
        return self.shapes[self.nodes[-1].name]

    def affine(self) -> str:
        channels = self.shape[-1]
        return self.add("affine", tensors={"scale": self.normal(channels) / 50, "bias": self.normal(channels)})

    def conv(self, outputs: int, kernel: int, stride: int, padding: int, groups: int) -> str:
        tensors = {
            "weight": self.normal(outputs, kernel, kernel, self.shape[2] // groups),
            "bias": self.normal(outputs),
        }
        return self.add("conv", tensors=tensors, kernel=kernel, stride=stride, padding=padding, groups=groups)

    def conv_bits(
        self, outputs: int, kernel: int, stride: int, padding: int, groups: int, bases: int = 1, kernels: int = 1,
        mapped: bool = False,
    ) -> str:  # fmt: skip
        """`bases` x `kernels` terms; thresholds within the values and, some, at the ends; some bits are flipped."""
        inputs = self.shape[2]
        products = kernel**2 * (inputs // groups)
        bits = self.rng.integers(0, 2, (kernels, outputs, products), np.uint8)
        ends = np.float32([np.inf, -np.inf, 0.0, -0.0])
        some = self.rng.random((bases, inputs)) < 0.2
        tensors = {
            "threshold": np.where(some, self.rng.choice(ends, (bases, inputs)), self.normal(bases, inputs)),
            "flip": self.rng.integers(0, 2, (bases, inputs), np.uint8),
            "weight": np.packbits(bits, axis=-1, bitorder="little"),
            "scale": self.normal(bases * kernels, outputs) / np.float32(products**0.5),
            "bias": self.normal(outputs),
        }
        if mapped:
            tensors |= {"map_scale": self.normal(inputs), "map_bias": self.normal(inputs)}
        numbers = [(base, number) for base in range(bases) for number in range(kernels)]
        terms = dict(zip(("bits", "kernels"), ([*part] for part in zip(*numbers, strict=True)), strict=True))
        return self.add(
            "conv_bits", tensors=tensors, kernel=kernel, stride=stride, padding=padding, groups=groups, **terms
        )

    def head(self, classes: int) -> NetworkModel:
        """Mean, flatten, linear; the whole network."""
        self.add("global_pool")
        self.add("flatten")
        tensors = {"weight": self.normal(classes, self.shape[0]), "bias": self.normal(classes)}
        self.add("linear", tensors=tensors)
        return NetworkModel("random", tuple(self.nodes), {"made": "random"})


def small_network(seed: int = 0) -> NetworkModel:
    """A stem, a binary convolution with a shortcut, a pool, another, with a 1x1 shortcut, a head."""
    make = Maker(seed, (12, 10, 3))
    make.affine()
    stem = make.conv(16, 3, 1, 1, 1)
    conv = make.conv_bits(16, 3, 1, 1, 1)
    add = make.add("add", conv, stem)
    conv = make.conv_bits(24, 3, 2, 1, 1)
    make.add("avg_pool", add, kernel=2, stride=2, padding=0, ceil=True, include_pad=True)
    shortcut = make.conv(24, 1, 1, 0, 1)
    make.add("add", conv, shortcut)
    return make.head(5)
