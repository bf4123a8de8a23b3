"""Time networks in the packed engine and in ONNX Runtime, alternately, on one thread.

    python benchmarks/onnx_speed.py --weights weights/rbsf-train.safetensors lenet.safetensors

A tracker's time is the network's time for one frame: one search crop of 255 pixels for RB-SF 2,
three for RB-SF. A classifier's time is that of one image. Inputs are made up. CPU time is measured,
so other programs on the same core have little effect. For each network the program prints the
median and the least time over all rounds, and how much its results differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.sides import onnx_pixels, onnx_session
from rbsf.system.program import positive_int, run

Call = Callable[[], np.ndarray]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", type=Path, nargs="+", required=True, metavar="FILE", help="not packed ones")
    add("--rounds", type=positive_int, default=100, metavar="N", help="default: %(default)s")
    return parser.parse_args(argv)


def calls(weights: Path, folder: Path) -> tuple[Call, Call]:
    """Functions that run a file's network once: in the packed engine, and in ONNX Runtime."""
    from rbsf.engine.run import Engine
    from rbsf.export.images import made_up_images
    from rbsf.export.onnx import network_graph, search_graphs
    from rbsf.export.pack import packed_weights

    packed = packed_weights(weights).packed
    graphs = search_graphs(packed) if packed.model == "rbsf2" else (network_graph(packed),)
    paths = [folder / f"{number}.onnx" for number in range(len(graphs))]
    for graph, path in zip(graphs, paths, strict=True):
        path.write_bytes(graph.SerializeToString())
    backbone = onnx_session(paths[0], 1)

    def features(images: np.ndarray) -> np.ndarray:
        return backbone.run(None, {"image": onnx_pixels(images)})[0]

    if packed.model == "rbsf2":
        from rbsf.tracker.rbsf2 import PackedNetwork

        exemplar = made_up_images((127, 127, 3), 1)
        crop = made_up_images((255, 255, 3), 1)
        head, template = onnx_session(paths[1], 1), features(exemplar)
        learned = PackedNetwork(packed).learn(exemplar[0])
        return lambda: learned(crop), lambda: head.run(
            None, {"template": template, "features": features(crop)}
        )[0]
    engine = Engine(packed, 1)
    images = made_up_images((255, 255, 3), 3)
    if packed.task == "classifier":
        images = made_up_images(packed.input_shape, 1)
    return lambda: engine(images), lambda: features(images)


def measure(pair: tuple[Call, Call], rounds: int) -> np.ndarray:
    """Milliseconds of CPU time `[rounds, 2]` of both calls, which alternate."""
    for call in pair:
        call()
    times = np.empty((rounds, 2))
    for row in times:
        for place, call in enumerate(pair):
            start = time.process_time()
            call()
            row[place] = 1000 * (time.process_time() - start)
    return times


def main(argv: list[str] | None = None) -> None:
    """Measure, print."""
    args = parse_args(argv)
    print(f"{'network':24}{'':16}{'median ms':>12}{'least ms':>12}")
    for weights in args.weights:
        with tempfile.TemporaryDirectory() as folder:
            pair = calls(weights, Path(folder))
        times = measure(pair, args.rounds)
        for place, name in enumerate(("packed engine", "ONNX Runtime")):
            figures = f"{np.median(times[:, place]):12.2f}{times[:, place].min():12.2f}"
            print(f"{weights.stem:24}{name:16}{figures}")
        found, expected = (call() for call in pair)
        difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
        print(f"{weights.stem:24}results differ by {difference:.2g} of {largest:.2g} at most")


if __name__ == "__main__":
    run(main)
