"""Quantise a tracker of two ONNX graphs to 8 bits with ONNX Runtime, to compare with 1-bit ones.

    python benchmarks/quantise_pair.py --pair BACKBONE.onnx,HEAD.onnx --data videos --out int8

Weights are quantised per channel. The ranges of maps come from crops of training videos, half of
them exemplars, half search regions. Writes backbone.onnx and head.onnx to --out; use
`--tracker onnx:...` to run them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.sides import Inputs, quantise
from rbsf.system.program import positive_int, run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pair", required=True, metavar="BACKBONE,HEAD", help="the two graphs in float32")
    add("--data", type=Path, required=True, metavar="DIR", help="training videos with boxes")
    add("--crops", type=positive_int, default=96, metavar="N", help="default: %(default)s")
    add("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def pairs_of(folder: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` pairs of an exemplar and a search region, from one video after another.

    An exemplar is from the first frame with a box, a search region from any frame with a box.
    """
    from rbsf.datasets.video.sequences import Sequence, load_sequences
    from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, target_crop

    def crop(sequence: Sequence, frame: int, size: int) -> np.ndarray:
        return target_crop(sequence.image(int(frame)), sequence.boxes[frame], size)

    sequences, pairs = load_sequences(folder), []
    for number in range(count):
        sequence = sequences[number % len(sequences)]
        frames = sequence.annotated()
        later = frames[(7 * number + 1) % len(frames)]
        exemplar = crop(sequence, frames[0], EXEMPLAR_SIZE)
        pairs.append((exemplar, crop(sequence, later, SEARCH_SIZE)))
    return pairs


def quantise_any_size(source: Path, target: Path, examples: Iterable[Inputs]) -> None:
    """Write the graph `source` in 8 bits as `target`, for inputs of any size."""
    import onnx

    from rbsf.tracker.onnx_pair import load_any_size

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        onnx.save(load_any_size(source), plain)
        quantise(plain, target, examples, skip_symbolic_shape=True)


def main(argv: list[str] | None = None) -> None:
    """Quantise both graphs."""
    from rbsf.tracker.onnx_pair import open_pair

    args = parse_args(argv)
    backbone, head = (Path(part) for part in args.pair.split(","))
    network = open_pair(backbone, head)
    pairs = pairs_of(args.data, args.crops // 2)
    args.out.mkdir(parents=True, exist_ok=True)
    images = (network.image(crop) for pair in pairs for crop in pair)
    quantise_any_size(backbone, args.out / "backbone.onnx", images)
    features = (network.features(*(network.learn(crop) for crop in pair)) for pair in pairs)
    quantise_any_size(head, args.out / "head.onnx", features)
    for path in (args.out / "backbone.onnx", args.out / "head.onnx"):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
