"""The kernels of runs; see `rbsf.engine.fusion`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rbsf.engine.bit_layout import Packed, kernel_arguments
from rbsf.engine.fusion import Run
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits, conv_u8
from rbsf.engine.ops.conv import blocks_of_pairs, whole_weights


def to_bits(run: Run, read: Packed | None, write: Packed, target: Target) -> Kernel:
    """The kernel of a convolution with sums that become bits.

    Channels that the sign flips are `inverted` in `write`. `read` is None for pixels.
    """
    node = run.nodes[0]
    thresholds = run.nodes[-1].tensors["threshold"]
    pool = len(run.nodes) == 3
    if read:
        conv = conv_bits.make_conv(
            node, read, target, "bits", write, thresholds=thresholds, pool=pool
        )
        return _forward(conv, target)

    def of_pixels() -> object:
        rows = conv_u8.unpack_whole(node).view(np.uint8)
        arguments = kernel_arguments(node, rows, True, write, "bits", thresholds, pool)
        return target.native.Conv(**arguments)

    return _forward(target.prepare((node.name, "pixels"), of_pixels), target)


def to_planes(run: Run, read: Packed, target: Target) -> Kernel:
    """The kernel of a binary convolution with scaled sums as planes."""
    conv, affine, _ = run.nodes
    of_channels = {key: _each(array, conv) for key, array in affine.tensors.items()}
    made = conv_bits.make_conv(conv, read, target, "real", None, **of_channels)
    return _forward(made, target)


def _each(values: np.ndarray, conv: Node) -> np.ndarray:
    """`values` spread to one for each output channel of `conv`."""
    return _spread(values, len(conv.tensors["weight"]))


def _spread(values: np.ndarray, channels: int) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(values, channels))


def _forward(conv: object, target: Target) -> Kernel:
    """A kernel that runs one convolution of the extension."""

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        target.native.forward([conv], [inputs[0], out], target.threads, target.isa, None)

    return Kernel(compute)


def scaled(run: Run, reads: list[Packed], target: Target) -> Kernel:
    """A sum of scaled binary convolutions and what follows; `reads` has an entry for each term."""
    convs = [node for node in run.nodes if node.op == "conv_bits"]
    terms = zip(convs, reads, strict=True)
    made = [conv_bits.make_conv(conv, read, target, "sums") for conv, read in terms]
    scale = np.stack([_scale_behind(conv, run) for conv in convs])
    bias = _each(_bias_of(run), convs[0])
    has_factor = any(node.op == "mul" for node in run.nodes)
    has_other = ends_in_sum(run)
    cost = len(convs) * conv_bits.cost(convs[0])

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        bits, others = inputs[: len(made)], [*inputs[len(made) :]]
        factors = others.pop(0)[..., 0] if has_factor else None
        other = others.pop(0) if has_other else None
        threads = target.share(out.size * cost)
        target.native.conv_bits(made, bits, scale, bias, factors, other, out, threads, target.isa)

    return Kernel(compute)


def _bias_of(run: Run) -> np.ndarray:
    """The first bias of a run; 0 if it has none."""
    for node in run.nodes:
        if "bias" in node.tensors:
            return node.tensors["bias"]
    return np.zeros(1, np.float32)


def steps(run: Run, read: Packed, target: Target) -> Kernel:
    """A binary convolution; its scaled sums get slopes, are rounded and added to a whole map."""
    conv, *rounding, _ = run.nodes
    made = conv_bits.make_conv(conv, read, target, "sums")
    cost = conv_bits.cost(conv)
    constants = _rounding(rounding, len(conv.tensors["weight"]))

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        bits, other = inputs
        threads = target.share(out.size * cost)
        target.native.conv_steps(made, bits, *constants, other, out, threads, target.isa)

    return Kernel(compute)


def rounded(run: Run, channels: int, target: Target) -> Kernel:
    """Scales numbers, applies slopes to them and rounds them."""
    constants = _rounding(run.nodes, channels)

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(out.size / 5000)
        target.native.round_map(inputs[0], *constants, out, threads, target.isa)

    return Kernel(compute)


def whole_conv(run: Run, x: Map, target: Target) -> Kernel:
    """A convolution of whole numbers; its sums are scaled, get slopes and are rounded."""
    node, *rounding = run.nodes
    whole = whole_weights(node, x, target)
    assert whole is not None  # for the type checker
    weights, starts = target.prepare((node.name, "pairs"), lambda: blocks_of_pairs(whole))
    scale, *constants = _rounding(rounding, len(whole.unit))
    scale = scale * whole.unit
    window = node.attributes["kernel"], node.attributes["stride"]
    cost = (1 + whole.weight[0].size / 80) / 1000  # estimated microseconds per number of the output

    def compute(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        threads = target.share(out.size * cost)
        target.native.conv_whole(
            inputs[0], weights, starts, scale, *constants, out, *window, threads, target.isa
        )

    return Kernel(compute)


def _rounding(
    nodes: Sequence[Node], channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Scale, bias and slope of each channel, the factor after them, and the limit of rounding."""
    scale = slope = np.ones(1, np.float32)
    bias, factor = np.zeros(1, np.float32), 1.0
    for node in nodes:
        if node.op == "prelu":
            slope = node.tensors["slope"]
        elif node.op == "affine" and node is nodes[0]:
            scale = node.tensors.get("scale", scale)
            bias = node.tensors.get("bias", bias)
        elif node.op == "affine":
            factor = float(node.tensors["scale"][0])
    limit = float(nodes[-1].attributes["limit"])
    scale, bias, slope = (_spread(values, channels) for values in (scale, bias, slope))
    return scale, bias, slope, factor, limit


def ends_in_sum(run: Run) -> bool:
    """Whether the run ends by adding another map, which the sum may then overwrite."""
    own, last = {node.name for node in run.nodes}, run.nodes[-1]
    return last.op == "add" and not own.issuperset(last.inputs)


def _scale_behind(conv: Node, run: Run) -> np.ndarray:
    """The scale of each channel that follows `conv` in the run."""
    reader = next(node for node in run.nodes if node.inputs == (conv.name,))
    return _each(reader.tensors["scale"], conv)
