"""The kernels of runs; see `rbsf.engine.runs`."""

from __future__ import annotations

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.layout import Packed, kernel_arguments
from rbsf.engine.node import Node
from rbsf.engine.ops import conv_bits, conv_u8
from rbsf.engine.runs import Run


def to_bits(run: Run, read: Packed | None, write: Packed, target: Target) -> Kernel:
    """A convolution whose sums become bits; those that the sign turns round are `inverted` in what it writes."""
    node, thresholds, pool = run.nodes[0], run.nodes[-1].tensors["threshold"], len(run.nodes) == 3
    if read:
        conv = conv_bits.make_conv(node, read, target, "bits", write, thresholds=thresholds, pool=pool)
        return _forward(conv, target)

    def of_pixels() -> object:
        rows = conv_u8.whole_weights(node).view(np.uint8)
        return target.native.Conv(**kernel_arguments(node, rows, True, write, "bits", thresholds, pool))

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
    made = [conv_bits.make_conv(node, read, target, "sums") for node, read in zip(convs, reads, strict=True)]
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
    conv, affine, prelu, factor, rounding, _ = run.nodes
    made = conv_bits.make_conv(conv, read, target, "sums")
    scale = _each(affine.tensors.get("scale", np.ones(1, np.float32)), conv)
    bias = _each(affine.tensors.get("bias", np.zeros(1, np.float32)), conv)
    slope, times = _each(prelu.tensors["slope"], conv), float(factor.tensors["scale"][0])
    limit, cost = float(rounding.attributes["limit"]), conv_bits.cost(conv)

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        bits, other = inputs
        threads = target.share(out.size * cost)
        target.native.conv_steps(made, bits, scale, bias, slope, times, limit, other, out, threads, target.isa)

    return Kernel(compute)


def ends_in_sum(run: Run) -> bool:
    """Whether another map is added at the end, and so may be overwritten by the sum."""
    own, last = {node.name for node in run.nodes}, run.nodes[-1]
    return last.op == "add" and not own.issuperset(last.inputs)


def _scale_behind(conv: Node, run: Run) -> np.ndarray:
    return _each(next(node for node in run.nodes if node.inputs == (conv.name,)).tensors["scale"], conv)
