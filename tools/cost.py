"""Count a network's bits and multiplications, layer by layer, as Table 6 of the paper does.

Totals are shown beside those of the float twin, the same network with real numbers. A 1-bit
multiplication counts 1/64 of a real one; rbsf/cost.py has the conventions. --measure adds
milliseconds for one input: of the float twin in PyTorch, and of the network in the packed engine.
Operations without parameters count towards the layer before them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.methods import METHODS
from rbsf.shipped import find_trained
from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, require, run, thread_count
from rbsf.system.text import one_line

if TYPE_CHECKING:
    from torch import nn

    from rbsf.cost import LayerCost

EXAMPLES = """
--model resnet18
--model rbsf --measure
"""
Times = dict[str, dict[str, float]]  # column -> layer -> milliseconds
Shape = tuple[int, int, int]  # channels, height and width of the input

# Side of the input in pixels, by model
SIZES = {
    "rbsf": 255,
    "rbsf2": 255,
    "xnor": 255,
    "resnet18": 224,
    "wrn22": 32,
    "wrn40": 32,
    "lenet": 28,
    "blocks": 32,
}
MAX_SIZE = 4096
WORD_COLUMNS = 3  # the first columns of the table hold words, the others numbers


class Passes(NamedTuple):
    """How a network is measured."""

    repeat: int
    threads: int


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES)
    add = first.add_argument
    add("--model", choices=tuple(SIZES), help="Count this network (default: rbsf)")
    add(
        "--weights",
        type=Path,
        metavar="PATH",
        help="Count the network of this file of trained 1-bit weights, or the shipped rbsf or"
        " rbsf2, in place of --model",
    )
    add(
        "--method",
        choices=tuple(METHODS),
        help="Binarize a classifier by this method (default: rbcn)",
    )
    add(
        "--size",
        type=positive_int,
        metavar="PIXELS",
        help="Count for images of this width and height (default: those the network is made for)",
    )
    add("--measure", action="store_true", help="Measure milliseconds too")
    add(
        "--repeat",
        type=positive_int,
        default=20,
        metavar="N",
        help="Measure N passes, of which the median counts",
    )
    add(
        "--threads",
        type=thread_count,
        default=1,
        metavar="N",
        help="Measure with N threads of the CPU",
    )
    return parser.parse_args(argv)


def build_pair(model: str, method: str | None = None) -> tuple[nn.Module, nn.Module]:
    """Build the 1-bit network `model`, and its float twin."""
    from rbsf.models import TRACKERS, WHOLE, build

    net = build(model) if model in (*TRACKERS, *WHOLE) else build(model, method=method or "rbcn")
    return net, float_twin(net)


def float_twin(net: nn.Module) -> nn.Module:
    """Build the real network of the same model and options."""
    from rbsf.models import TRACKERS, WHOLE, build
    from rbsf.models.rbsf2 import FLOAT

    options: Any = net.model_options
    if net.model_name in TRACKERS:
        return build("siamfc", **options)
    kept = {k: v for k, v in options.items() if k not in ("method", "method_options")}
    return build(str(net.model_name), FLOAT if net.model_name in WHOLE else "", **kept)


def as_run(net: nn.Module) -> nn.Module:
    """The network as it runs for one image; RB-SF 2 has learned a template before."""
    import torch

    from rbsf.models.rbsf2 import RBSF2, Search
    from rbsf.tracker.geometry import EXEMPLAR_SIZE

    exemplar = torch.zeros(1, 3, EXEMPLAR_SIZE, EXEMPLAR_SIZE)
    return Search(net, exemplar) if isinstance(net, RBSF2) else net


def load_pair(weights: Path) -> tuple[nn.Module, nn.Module, int | None]:
    """Load the network of a weights file, with its float twin and the side of its images.

    Raises ValueError if it has no binary layers.
    """
    from rbsf.layers import binary_layers
    from rbsf.tracker.weights import read_weights

    net, model, info = read_weights(weights)
    if not binary_layers(net):
        raise ValueError(f"{weights}: a float network ({model}); give the weights of a 1-bit one")
    return net, float_twin(net), info.get("input", {}).get("size")


def measure_all(
    net: nn.Module, twin: nn.Module, layers: list[LayerCost], shape: Shape, passes: Passes
) -> Times:
    """Milliseconds of each layer for a random input: the float twin's in PyTorch, and packed."""
    import torch

    from rbsf.cost import measure

    torch.set_num_threads(passes.threads)
    twin = as_run(twin).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, *shape).contiguous(memory_format=torch.channels_last)
    names = [layer.name for layer in layers]
    times: Times = {"float ms": dict.fromkeys(names, 0.0)}
    for name, milliseconds in measure(twin, image, passes.repeat).items():
        times["float ms"][layer_of(name, names)] += milliseconds
    times["packed ms"] = measure_packed(net, layers, shape, passes)
    for column in times.values():
        column["total"] = sum(column.values())
    return times


def measure_packed(
    net: nn.Module, layers: list[LayerCost], shape: Shape, passes: Passes
) -> dict[str, float]:
    """Milliseconds of the layers in the packed engine, each with the nodes that follow it.

    The normalisation of the image counts to the first layer.
    """
    from statistics import median

    names = [layer.name for layer in layers]
    seconds = node_seconds(net, shape, passes)
    owners = {node: layer_of(node, names) for node in seconds[0]}
    times = {name: 0.0 for name in names if name in owners.values()}
    latest = names[0]
    for node, owner in owners.items():
        latest = owner or latest
        times[latest] += 1000 * median(spent[node] for spent in seconds)
    return times


def node_seconds(net: nn.Module, shape: Shape, passes: Passes) -> list[dict[str, float]]:
    """Run the packed network on a random image; seconds of each node, by name, for each pass."""
    import numpy as np

    from rbsf.engine.run import Engine
    from rbsf.export.images import Images
    from rbsf.export.pack import export_classifier, export_search, export_tracker
    from rbsf.models import TRACKERS
    from rbsf.models.rbsf2 import RBSF2

    channels, height, width = shape
    model = str(net.model_name)
    if model in TRACKERS:
        packed = export_tracker(net, model).packed
    elif isinstance(net, RBSF2):
        packed = export_search(net).packed
    else:
        packed = export_classifier(net.eval(), model, Images((height, width, channels))).packed
    engine = Engine(packed, passes.threads)
    pixels = (1, height, width, channels)
    image = np.random.default_rng(0).integers(0, 256, pixels, dtype=np.uint8)
    engine.node_seconds(image)  # the first pass is slower
    return [engine.node_seconds(image) for _ in range(passes.repeat)]


def layer_of(node: str, layers: list[str]) -> str:
    """The layer in `layers` that a node or another layer belongs to, by name; empty for none."""
    owners = [layer for layer in layers if f"{node}.".startswith(f"{layer}.")]
    return max(owners, key=len, default="")


def table(layers: list[LayerCost], times: Times) -> str:
    """Layers and their total as text; `times` are columns of milliseconds by layer name."""
    from rbsf.cost import total

    heads = ("layer", "kind", "output", "bits", "bytes", "real mult.", "1-bit mult.", *times)
    rows = [heads]
    for layer in [*layers, total(layers)]:
        shape = " x ".join(map(str, layer.output))
        numbers = (layer.bits, layer.bytes, layer.real, layer.binary)
        counts = [f"{number:,}" for number in numbers]
        spent = [column.get(layer.name) for column in times.values()]
        cells = ["" if ms is None else f"{ms:.3f}" for ms in spent]
        rows.append((layer.name, layer.kind, shape, *counts, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """A line of the table: words to the left, numbers to the right."""
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    for i in range(WORD_COLUMNS):
        cells[i] = row[i].ljust(widths[i])
    return "  ".join(cells).rstrip()


def summary(binary: LayerCost, real: LayerCost) -> str:
    """Totals of both networks, and their ratios."""
    bits = f"{binary.bits / 1e6:.1f} Mbit, float {real.bits / 1e6:.1f} Mbit"
    products = f"{binary.multiplications:.3g}, float {real.multiplications:.3g}"
    smaller, fewer = real.bits / binary.bits, real.multiplications / binary.multiplications
    weights = f"weights: {bits}: {smaller:.2f}x smaller"
    return f"{weights}\nmultiplications: {products}: {fewer:.2f}x fewer"


def main(argv: list[str] | None = None) -> None:
    """Count, measure, print."""
    args = parse_args(argv)
    require("train")
    from rbsf.cost import count, total
    from rbsf.models import TRACKERS, WHOLE

    if args.weights and args.model:
        raise ValueError("--weights and --model: give one of the two")
    chosen = args.model or "rbsf"
    if args.method and (args.weights or chosen in (*TRACKERS, *WHOLE)):
        raise ValueError("--method is for classifiers that are not trained yet; leave it out")
    own_size = None
    if args.weights:
        net, twin, own_size = load_pair(find_trained(args.weights))
    else:
        net, twin = build_pair(chosen, args.method)
    model = str(net.model_name)
    size = args.size or own_size or SIZES[model]
    if size > MAX_SIZE:
        raise ValueError(f"--size {size}: {MAX_SIZE} pixels at most")
    channels = next(net.parameters()).shape[1]  # the first layer's input
    shape = (channels, size, size)
    try:
        layers, real = count(as_run(net), shape), count(as_run(twin), shape)
    except RuntimeError as error:
        reason = one_line(error, 150)
        raise ValueError(f"--size {size} does not suit {model}: {reason}") from None
    passes = Passes(args.repeat, args.threads)
    times = measure_all(net, twin, layers, shape, passes) if args.measure else {}
    print(table(layers, times))
    print(summary(total(layers), total(real)))


if __name__ == "__main__":
    run(main)
