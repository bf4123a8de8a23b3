"""Packed networks of random operations, for the tests of the engine.

For each operation, `EXAMPLES` has a function that adds it to a network, on existing maps or on new
ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from rbsf.engine.graph import PackedModel, infer_maps
from rbsf.engine.node import Map, Node
from rbsf.engine.ops.conv_u8 import pack_whole
from rbsf.export.terms import Terms, nodes_of

Shape = tuple[int, ...]
START_SIZES = ((5, 15), (5, 15), (1, 5))  # heights, widths and channels, ends excluded
LARGEST_SIDE = 24  # of maps after enlarging


class Maker:
    """Adds one node after another, and knows the maps' shapes, so that every node fits."""

    def __init__(self, seed: int, shape: Shape, any_size: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        sizes = dict(zip(("height", "width", "channels"), shape, strict=True))
        self.nodes = [Node("image", "input", (), sizes | {"any_size": any_size})]
        self.image = Map(shape, "pixels")
        self.maps: dict[str, Map] = {"image": self.image}

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def among(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def put(self, *nodes: Node) -> str:
        self.maps = infer_maps([*self.nodes, *nodes], check_values=True)
        self.nodes += nodes
        return self.nodes[-1].name

    def add(
        self, op: str, *inputs: str, tensors: dict[str, np.ndarray] | None = None, **attributes: Any
    ) -> str:
        name = f"{op}.{len(self.nodes)}"
        return self.put(Node(name, op, inputs or (self.last,), attributes, tensors or {}))

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    @property
    def shape(self) -> Shape:
        return self.maps[self.last].shape

    def model(self) -> PackedModel:
        """The network, which gives the last node's map."""
        return PackedModel("random", "classifier", tuple(self.nodes), {"made": "random"})

    # ---- maps to work on

    def some(self, *kinds: str) -> str:
        """The name of a map `[H, W, C]` of one of these kinds. It is made where there is none."""
        fit = [name for name, m in self.maps.items() if m.kind in kinds and len(m.shape) == 3]
        if fit:
            return self.among(*fit[-4:])
        makers = {"bits": sign, "whole": conv_bits, "real": affine}
        return makers[kinds[0]](self)

    def channels(self, name: str) -> int:
        return self.maps[name].shape[-1]

    # ---- the operations that tests ask for with their numbers

    def affine(self, source: str = "") -> str:
        channels = self.channels(source or self.last)
        tensors = {"scale": self.normal(channels) / 50, "bias": self.normal(channels)}
        return self.add("affine", source or self.last, tensors=tensors)

    def conv(
        self, outputs: int, kernel: int, stride: int, padding: int, groups: int, source: str = ""
    ) -> str:
        width = self.channels(source or self.last) // groups
        tensors = {
            "weight": self.normal(outputs, kernel, kernel, width),
            "bias": self.normal(outputs),
        }
        window = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
        return self.add("conv", source or self.last, tensors=tensors, **window)

    def thresholds(self, name: str) -> dict[str, np.ndarray]:
        """Thresholds for signs of a map, sometimes with flips.

        Most lie within the map's values, and some at their ends.
        """
        m, channels = self.maps[name], self.channels(name)
        if m.kind == "real":
            ends, within = np.float32([np.inf, -np.inf, 0.0, -0.0]), self.normal(channels)
        else:
            ends = np.int32([-(2**31), 2**31 - 1, m.largest, -m.largest, m.largest + 1, 0])
            mean, spread = (50, 100) if m.kind == "pixels" else (0, max(m.largest, 1) ** 0.5)
            within = self.rng.normal(mean, spread, channels).astype(np.int32)
        at_end = self.rng.random(channels) < 0.2
        found = {"threshold": np.where(at_end, self.rng.choice(ends, channels), within)}
        if self.rng.random() < 0.5:
            found["flip"] = self.rng.integers(0, 2, channels, np.uint8)
        return found

    def weight_bits(self, outputs: int, products: int) -> np.ndarray:
        bits = self.rng.integers(0, 2, (outputs, products), np.uint8)
        return np.packbits(bits, axis=1, bitorder="little")

    def binary(
        self,
        outputs: int,
        kernel: int,
        stride: int,
        padding: int,
        groups: int,
        bases: int = 1,
        kernels: int = 1,
        mapped: bool = False,
        border: int = -1,
    ) -> str:
        """Add a binary convolution of the last map, which is real, in `bases` x `kernels` terms."""
        inputs = self.shape[2]
        products = kernel**2 * (inputs // groups)
        numbers = [(base, number) for base in range(bases) for number in range(kernels)]
        bits, which = zip(*numbers, strict=True)
        terms = Terms(
            [self.thresholds(self.last) for _ in range(bases)],
            [self.weight_bits(outputs, products) for _ in range(kernels)],
            bits,
            which,
            self.normal(len(numbers), outputs) / np.float32(products**0.5),
            self.normal(outputs),
            {"scale": self.normal(inputs), "bias": self.normal(inputs)} if mapped else None,
        )
        geometry = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
        geometry |= {"channels": inputs, "border": border}
        return self.put(*nodes_of(f"binary.{len(self.nodes)}", self.last, geometry, terms))

    def head(self, classes: int) -> PackedModel:
        """Add the mean, flatten and linear; the whole network."""
        self.add("global_pool")
        self.add("flatten")
        tensors = {"weight": self.normal(classes, self.shape[0]), "bias": self.normal(classes)}
        self.add("linear", tensors=tensors)
        return self.model()


# ---- one function an operation


def affine(make: Maker) -> str:
    name = make.some("real", "whole", "pixels")
    size = 1 / 50 if make.maps[name].kind == "pixels" else max(make.maps[name].largest, 1) ** -0.5
    tensors = {
        "scale": make.normal(make.channels(name)) * np.float32(size),
        "bias": make.normal(make.channels(name)),
    }
    for key in make.among((), (), ("scale",), ("bias",)):
        del tensors[key]
    if make.rng.random() < 0.2:  # one number for all channels
        tensors = {key: array[:1] for key, array in tensors.items()}
    return make.add("affine", name, tensors=tensors)


def sign(make: Maker) -> str:
    name = make.some("real", "whole", "pixels")
    return make.add("sign", name, tensors=make.thresholds(name))


def _window(make: Maker, name: str) -> dict[str, int]:
    side, channels = min(make.maps[name].shape[:2]), make.channels(name)
    kernel = make.among(*range(1, min(side, 4) + 1))
    groups = make.among(*[g for g in (1, 1, 2, 3) if channels % g == 0])
    stride, padding = make.among(1, 1, 2, 3), make.among(0, 1, 2)
    return {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}


def conv_bits(make: Maker) -> str:
    name = make.some("bits")
    window, channels = _window(make, name), make.channels(name)
    groups = window["groups"]
    outputs = groups * int(make.rng.integers(1, 40 // groups))
    weight = make.weight_bits(outputs, window["kernel"] ** 2 * channels // groups)
    more = {"channels": channels, "border": make.among(-1, 1)}
    return make.add("conv_bits", name, tensors={"weight": weight}, **window, **more)


def conv_u8(make: Maker) -> str:
    kernel, channels = make.among(1, 2, 3), make.image.shape[2]
    bits, outputs = make.among(2, 3, 5, 7, 8), int(make.rng.integers(1, 40))
    largest = 63 if bits == 8 else 2 ** (bits - 1) - 1
    shape = (outputs, kernel, kernel, channels)
    weight = make.rng.integers(-largest, largest + 1, shape).astype(np.int8)
    stride = make.among(1, 2)
    geometry = {"kernel": kernel, "stride": stride, "padding": 0, "groups": 1, "channels": channels}
    tensors = {"weight": weight if bits == 8 else pack_whole(weight, bits)}
    return make.add("conv_u8", "image", tensors=tensors, **geometry, bits=bits)


def conv(make: Maker) -> str:
    name = make.some("real", "whole", "pixels")
    window = _window(make, name)
    outputs = window["groups"] * int(make.rng.integers(1, 40 // window["groups"]))
    return make.conv(outputs, **window, source=name)


def linear(make: Maker) -> str:
    name = make.add("flatten", make.some("real", "whole"))
    tensors = {"weight": make.normal(5, make.shape[0]), "bias": make.normal(5)}
    return make.add("linear", name, tensors=tensors)


def prelu(make: Maker) -> str:
    name = make.some("real")
    slope = make.normal(make.among(1, make.channels(name)))
    return make.add("prelu", name, tensors={"slope": slope})


def hardtanh(make: Maker) -> str:
    return make.add("hardtanh", make.some("real"), low=-1.0, high=1.5)


def _pool(make: Maker) -> dict[str, Any]:
    kernel = make.among(1, 2, 3)
    return {
        "kernel": kernel,
        "stride": make.among(1, 2, 3),
        "padding": make.among(0, kernel // 2),
        "ceil": make.among(True, False),
    }


def max_pool(make: Maker) -> str:
    name = make.some("whole", "real", "bits")
    if make.rng.random() < 0.5:  # a pool that the planner fuses
        kernel = min(3, *make.maps[name].shape[:2])
        return make.add("max_pool", name, kernel=kernel, stride=2, padding=0, ceil=False)
    return make.add("max_pool", name, **_pool(make))


def avg_pool(make: Maker) -> str:
    return make.add(
        "avg_pool", make.some("real", "whole"), **_pool(make), include_pad=make.among(True, False)
    )


def _like(make: Maker, name: str, *kinds: str) -> str:
    """Another map of the same shape, or the same one."""
    shape = make.maps[name].shape
    fit = [n for n, m in make.maps.items() if m.shape == shape and m.kind in kinds]
    return make.among(*fit)


def add(make: Maker) -> str:
    name = make.some("whole", "real")
    return make.add("add", name, _like(make, name, "whole", "real"))


def mul(make: Maker) -> str:
    name = make.some("real", "whole")
    other = make.among(global_pool, abs_mean, None)
    second = other(make, name) if other else _like(make, name, "real", "whole")
    return make.add("mul", name, second)


def global_pool(make: Maker, name: str = "") -> str:
    return make.add("global_pool", name or make.some("real", "whole"))


def abs_mean(make: Maker, name: str = "") -> str:
    return make.add("abs_mean", name or make.some("real", "whole"))


def concat(make: Maker) -> str:
    name = make.some("bits", "whole", "real")
    kind, size = make.maps[name].kind, make.maps[name].shape[:2]
    alike = {n: m for n, m in make.maps.items() if m.kind == kind and m.shape[:2] == size}
    others = [n for n, m in alike.items() if len(m.shape) == 3]
    return make.add("concat", name, make.among(*others))


def upsample(make: Maker) -> str:
    name = make.some("bits", "whole", "real")
    if max(make.maps[name].shape[:2]) * 3 > LARGEST_SIDE:
        name = make.add("max_pool", name, kernel=3, stride=4, padding=1, ceil=True)
    return make.add("upsample", name, factor=make.among(2, 3))


def round_(make: Maker) -> str:
    return make.add("round", make.some("real", "whole"), limit=make.among(3, 127, 1023))


EXAMPLES: dict[str, Callable[[Maker], str]] = {
    "abs_mean": abs_mean,
    "add": add,
    "affine": affine,
    "avg_pool": avg_pool,
    "channels_first": lambda make: make.add("channels_first", make.some("real")),
    "concat": concat,
    "conv": conv,
    "conv_bits": conv_bits,
    "conv_u8": conv_u8,
    "flatten": lambda make: make.add("flatten", make.some("real", "whole")),
    "global_pool": global_pool,
    "hardtanh": hardtanh,
    "input": lambda make: make.add(
        "affine", "image", tensors={"scale": make.normal(make.image.shape[2])}
    ),
    "linear": linear,
    "max_pool": max_pool,
    "mul": mul,
    "prelu": prelu,
    "relu": lambda make: make.add("relu", make.some("real")),
    "round": round_,
    "sigmoid": lambda make: make.add("sigmoid", make.some("real")),
    "sign": sign,
    "upsample": upsample,
}


def with_operation(op: str, seed: int) -> PackedModel:
    """A small network with the operation `op`, whose output is real."""
    make = _start(seed)
    EXAMPLES[op](make)
    return _finished(make)


TOO_SMALL = re.compile("is over half of kernel|its output would be")


def random_network(seed: int) -> PackedModel:
    """A network of 3 to 12 random operations or rows that the planner fuses."""
    make = _start(seed)
    for _ in range(make.rng.integers(3, 13)):
        try:
            make.among(*BLOCKS)(make)
        except ValueError as error:  # a map is too small: that node is left out
            if not TOO_SMALL.search(str(error)):
                raise
    return _finished(make)


def _start(seed: int) -> Maker:
    rng = np.random.default_rng(seed)
    height, width, channels = (int(rng.integers(low, high)) for low, high in START_SIZES)
    make = Maker(seed, (height, width, channels))
    affine(make)
    for start in (conv_u8, sign, conv_bits):
        if rng.random() < 0.5:
            start(make)
    return make


def _finished(make: Maker) -> PackedModel:
    """The network with a real map at its end."""
    if make.maps[make.last].kind == "bits":
        channels = make.shape[2]
        window = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
        more = {"channels": channels, "border": -1}
        make.add("conv_bits", tensors={"weight": make.weight_bits(4, channels)}, **window, **more)
    if make.maps[make.last].kind == "whole":
        make.add("affine", tensors={"scale": make.normal(make.shape[-1])})
    return make.model()


# ---- rows of operations that the planner computes as one


def to_bits(make: Maker) -> str:
    conv_bits(make) if make.rng.random() < 0.7 else conv_u8(make)
    if make.rng.random() < 0.5 and min(make.shape[:2]) >= 3:
        make.add("max_pool", kernel=3, stride=2, padding=0, ceil=False)
    make.add("sign", tensors=make.thresholds(make.last))
    name, window = make.last, _window(make, make.last)
    products = window["kernel"] ** 2 * make.channels(name) // window["groups"]
    weight = make.weight_bits(2 * window["groups"], products)
    more = {"channels": make.channels(name), "border": make.among(-1, 1)}
    for _ in range(make.among(1, 1, 2)):
        make.add("conv_bits", name, tensors={"weight": weight}, **window, **more)
    return make.last


def scaled(make: Maker) -> str:
    name = make.some("real")
    make.add("hardtanh", name, low=-9.0, high=9.0)  # `binary` reads the last map
    source, channels = make.last, make.channels(name)
    bases, kernels = make.among(1, 1, 2, 3), make.among(1, 1, 2)
    mapped, border = make.among(True, False, False), make.among(-1, 0, 1)
    terms = (bases, kernels, mapped, border)
    if make.rng.random() < 0.6:
        groups = make.among(*[g for g in (1, 2) if channels % g == 0])
        result = make.binary(channels, 3, 1, 1, groups, *terms)
        return make.add("add", *make.among((result, source), (source, result)))
    window = _window(make, source)
    return make.binary(window["groups"] * make.among(1, 2, 9), *window.values(), *terms)


def whole_sum(make: Maker) -> str:
    """Add two convolutions of the same bits, and the signs of their sum."""
    bits = make.some("bits")
    channels = make.channels(bits)
    groups = make.among(1, 1, 2) if channels % 2 == 0 else 1
    names = []
    for kernel, padding in ((3, 1), (1, 0)):
        weight = make.weight_bits(2 * groups, kernel**2 * channels // groups)
        window = {"kernel": kernel, "stride": 1, "padding": padding, "groups": groups}
        more = {"channels": channels, "border": make.among(-1, 1)}
        names.append(make.add("conv_bits", bits, tensors={"weight": weight}, **window, **more))
    total = make.add("add", *names)
    return make.add("sign", total, tensors=make.thresholds(total))


def steps(make: Maker) -> str:
    """Add a binary convolution with a shortcut, in whole numbers, and the signs of the sum."""
    shortcut = make.add("round", make.some("real"), limit=make.among(300, 1023))
    bits = make.add("sign", shortcut, tensors=make.thresholds(shortcut))
    channels = make.channels(shortcut)
    groups = make.among(*[g for g in (1, 1, 2) if channels % g == 0])
    window = {"kernel": 3, "stride": 1, "padding": 1, "groups": groups}
    more = {"channels": channels, "border": make.among(-1, 1)}
    weight = make.weight_bits(channels, 9 * channels // groups)
    make.add("conv_bits", bits, tensors={"weight": weight}, **window, **more)
    make.add("affine", tensors={"scale": make.normal(channels), "bias": make.normal(channels)})
    make.add("prelu", tensors={"slope": make.normal(make.among(1, channels))})
    make.add("affine", tensors={"scale": np.float32([make.among(0.25, 32, 1000)])})
    added = make.add("round", limit=make.among(100, 1023))
    total = make.add("add", *make.among((added, shortcut), (shortcut, added)))
    return make.add("sign", total, tensors=make.thresholds(total))


def rounded(make: Maker) -> str:
    """Scale numbers, give them slopes, scale and round them; parts of this may be missing."""
    return _rounded(make, make.some("real", "whole"))


def whole_conv(make: Maker) -> str:
    """Convolve whole numbers by multiples of a power of two, and round the sums."""
    source = make.some("whole", "pixels")
    kernel = make.among(1, 1, *range(1, min(*make.maps[source].shape[:2], 4) + 1))
    outputs, width = int(make.rng.integers(1, 40)), make.channels(source)
    unit = 2.0 ** -make.rng.integers(0, 9, outputs)
    shape = (outputs, kernel, kernel, width)
    weight = make.rng.integers(-127, 128, shape) * unit[:, None, None, None]
    bias = make.rng.integers(-1000, 1000, outputs) * unit
    tensors = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    window = {"kernel": kernel, "stride": make.among(1, 2), "padding": 0, "groups": 1}
    return _rounded(make, make.add("conv", source, tensors=tensors, **window))


def _rounded(make: Maker, source: str) -> str:
    channels = make.channels(source)
    if make.among(True, False):
        tensors = {"scale": make.normal(channels), "bias": make.normal(channels)}
        kept = make.among(("scale", "bias"), ("scale",), ("bias",))
        source = make.add("affine", source, tensors={key: tensors[key] for key in kept})
        if make.among(True, False):
            slope = make.normal(make.among(1, channels))
            source = make.add("prelu", source, tensors={"slope": slope})
        if make.among(True, False):
            scale = np.float32([make.among(0.25, 32, 1000)])
            source = make.add("affine", source, tensors={"scale": scale})
    return make.add("round", source, limit=make.among(3, 127, 1023, 16368))


NOT_INSIDE = ("input", "channels_first", "flatten", "linear")  # operations at a network's ends
SINGLE = [make for op, make in EXAMPLES.items() if op not in NOT_INSIDE]
BLOCKS = [*SINGLE, *[to_bits, scaled, whole_sum, steps, rounded, whole_conv] * 4]


def small_network(seed: int = 0) -> PackedModel:
    """A stem, a binary convolution with a shortcut, a pool, another one, and a head.

    The second shortcut is a 1 x 1 convolution.
    """
    make = Maker(seed, (12, 10, 3))
    make.affine()
    stem = make.conv(16, 3, 1, 1, 1)
    conv = make.binary(16, 3, 1, 1, 1)
    add = make.add("add", conv, stem)
    conv = make.binary(24, 3, 2, 1, 1)
    make.add("avg_pool", add, kernel=2, stride=2, padding=0, ceil=True, include_pad=True)
    shortcut = make.conv(24, 1, 1, 0, 1)
    make.add("add", conv, shortcut)
    return make.head(5)
