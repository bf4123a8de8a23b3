"""The kernels of runs; see `rbsf.engine.fusion`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rbsf.engine.fusion import Run
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.layout import Packed, kernel_arguments
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits, conv_u8


def to_bits(run: Run, read: Packed | None, write: Packed, target: Target) -> Kernel:
    """A convolution whose sums become bits; those that the sign turns round are `inverted` in what
    it writes.
    """
    node, thresholds, pool = run.nodes[0], run.nodes[-1].tensors["threshold"], len(run.nodes) == 3
    if read:
        conv = conv_bits.make_conv(
            node, read, target, "bits", write, thresholds=thresholds, pool=pool
        )
        return _forward(conv, target)

    def of_pixels() -> object:
        rows = conv_u8.whole_weights(node).view(np.uint8)
        return target.native.Conv(
            **kernel_arguments(node, rows, True, write, "bits", thresholds, pool)
        )

    return _forward(target.prepare((node.name, "pixels"), of_pixels), target)


def to_planes(run: Run, read: Packed, target: Target) -> Kernel:
    """A binary convolution whose scaled sums are planes."""
    conv, affine, _ = run.nodes
    each = {key: _each(array, conv) for key, array in affine.tensors.items()}
    return _forward(conv_bits.make_conv(conv, read, target, "real", None, **each), target)


def _each(values: np.ndarray, conv: Node) -> np.ndarray:
    """Values for each channel of a convolution's output."""
    return np.ascontiguousarray(np.broadcast_to(values, len(conv.tensors["weight"])))


def _forward(conv: object, target: Target) -> Kernel:
    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        target.native.forward([conv], [inputs[0], out], target.threads, target.isa, None)

    return Kernel(compute)


def scaled(run: Run, reads: list[Packed], target: Target) -> Kernel:
    """A sum of scaled binary convolutions, with all that follows; `reads` are of its terms."""
    convs = [node for node in run.nodes if node.op == "conv_bits"]
    made = [
        conv_bits.make_conv(node, read, target, "sums")
        for node, read in zip(convs, reads, strict=True)
    ]
    scale = np.stack([_scale_behind(conv, run) for conv in convs])
    biases = [node.tensors["bias"] for node in run.nodes if "bias" in node.tensors]
    bias = _each(biases[0] if biases else np.zeros(1, np.float32), convs[0])
    factor, plus = any(node.op == "mul" for node in run.nodes), ends_in_sum(run)
    cost = len(convs) * conv_bits.cost(convs[0])

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        bits, others = inputs[: len(made)], [*inputs[len(made) :]]
        factors = others.pop(0)[..., 0] if factor else None
        other = others.pop(0) if plus else None
        threads = target.share(out.size * cost)
        target.native.conv_bits(made, bits, scale, bias, factors, other, out, threads, target.isa)

    return Kernel(compute)


def steps(run: Run, read: Packed, target: Target) -> Kernel:
    """A binary convolution whose scaled sums get slopes, are rounded, and added to whole numbers."""
    conv, *rounding, _ = run.nodes
    made, cost = conv_bits.make_conv(conv, read, target, "sums"), conv_bits.cost(conv)
    constants = _rounding(rounding, len(conv.tensors["weight"]))

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        bits, other = inputs
        target.native.conv_steps(
            made, bits, *constants, other, out, target.share(out.size * cost), target.isa
        )

    return Kernel(compute)


def rounded(run: Run, channels: int, target: Target) -> Kernel:
    """Numbers that are scaled, get slopes and are rounded."""
    constants = _rounding(run.nodes, channels)

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        target.native.round_map(
            inputs[0], *constants, out, target.share(out.size / 5000), target.isa
        )

    return Kernel(compute)


def _rounding(
    nodes: Sequence[Node], channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Scale, bias and slope of each channel, the factor behind them, and the limit of what is
    rounded then.
    """
    scale = slope = np.ones(1, np.float32)
    bias, factor = np.zeros(1, np.float32), 1.0
    for node in nodes:
        if node.op == "prelu":
            slope = node.tensors["slope"]
        elif node.op == "affine" and node is nodes[0]:
            scale, bias = (
                node.tensors.get(key, value) for key, value in (("scale", scale), ("bias", bias))
            )
        elif node.op == "affine":
            factor = float(node.tensors["scale"][0])
    wide = [
        np.ascontiguousarray(np.broadcast_to(values, channels)) for values in (scale, bias, slope)
    ]
    return wide[0], wide[1], wide[2], factor, float(nodes[-1].attributes["limit"])


def ends_in_sum(run: Run) -> bool:
    """Whether another map is added at the end, and so may be overwritten by the sum."""
    own, last = {node.name for node in run.nodes}, run.nodes[-1]
    return last.op == "add" and not own.issuperset(last.inputs)


def _scale_behind(conv: Node, run: Run) -> np.ndarray:
    return _each(
        next(node for node in run.nodes if node.inputs == (conv.name,)).tensors["scale"], conv
    )
