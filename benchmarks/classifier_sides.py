"""Measure a packed classifier beside a float one in 32 and 8 bits, on a whole test set, in one run.

    python benchmarks/classifier_sides.py --root data --float resnet18.safetensors

The float network runs in ONNX Runtime; the ranges of its 8 bits are measured on training images.
Each batch of test images is classed by all sides, one after the other, so that other load affects
them equally. Prints a table: size of the file, top-1 accuracy, and images a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.sides import onnx_pixels, onnx_session, write_graphs
from rbsf.eval.tables import Cell, Table, number
from rbsf.shipped import CLASSIFIER, find_weights
from rbsf.system.program import positive_int, run
from rbsf.tools.classify import check_classes, images_of, packed_input

if TYPE_CHECKING:
    from rbsf.datasets.images.labelled import Labelled
    from rbsf.engine.graph import PackedModel

CALIBRATION = 8  # batches of training images that set the ranges of 8 bits
SLOW = ("scalar", "numpy")  # instruction sets that are left out
HEADS = ["network", "file, MB", "top-1, %", "images/s"]


@dataclass
class Side:
    """A network, and what it has done so far."""

    file: Path
    run: Callable[[np.ndarray], np.ndarray]  # uint8 images `[N, H, W, C]` to logits `[N, classes]`
    right: int = 0
    images: int = 0
    seconds: float = 0.0

    def measure(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Class a batch."""
        start = time.perf_counter()
        logits = self.run(images)
        self.seconds += time.perf_counter() - start
        self.right += int((logits.argmax(1) == labels).sum())
        self.images += len(labels)

    def cells(self) -> list[Cell]:
        """Size of the file, accuracy and speed."""
        size = self.file.stat().st_size / 1e6
        accuracy, speed = 100 * self.right / self.images, self.images / self.seconds
        return [number(size, ".2f"), number(accuracy, ".2f"), number(speed, ",.0f")]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="the folder of the data set")
    add("--dataset", default="cifar100", metavar="NAME", help="default: %(default)s")
    add(
        "--weights",
        type=find_weights,
        default=find_weights(CLASSIFIER),
        metavar="PATH",
        help=f"the packed classifier (default: {CLASSIFIER})",
    )
    add("--float", type=Path, required=True, metavar="PATH", help="the float classifier's weights")
    add("--subset", type=positive_int, metavar="N", help="N test images alone (default: all)")
    add("--batch-size", type=positive_int, default=64, metavar="N", help="default: %(default)s")
    add("--threads", type=positive_int, default=1, metavar="N", help="default: %(default)s")
    return parser.parse_args(argv)


def check_images(path: Path, packed: PackedModel, data: Labelled, place: str) -> None:
    """Raise ValueError for a network of other classes, or other images, than those of `data`."""
    image = next(iter(data.batches(1, 0, 0, train=False)))["image"]
    channels, height, width = image.shape[1:]
    if packed.input_shape != (height, width, channels):
        taken = "x".join(map(str, packed.input_shape))
        raise ValueError(f"{path}: takes images of {taken}; this data set has {height}x{width}")
    check_classes(path, packed_input(path, packed), data, place)


def sides(args: argparse.Namespace, training: Labelled, folder: Path) -> dict[str, Side]:
    """The packed network with each instruction set, and the float one in 32 and 8 bits."""
    from rbsf.engine.cpu import available_isas
    from rbsf.engine.run import Engine
    from rbsf.export.pack import packed_weights

    found: dict[str, Side] = {}
    for isa in available_isas():
        if isa not in SLOW:
            engine = Engine(args.weights, args.threads, isa)
            found[f"packed, {isa}"] = Side(args.weights, engine)
    exported = packed_weights(args.float)
    check_images(args.float, exported.packed, training, args.dataset)
    files = [folder / f"{name}.onnx" for name in ("float32", "int8")]
    batches = islice(training.batches(args.batch_size, 0, 0, train=True), CALIBRATION)
    write_graphs(exported, map(images_of, batches), *files)
    for file in files:
        session = onnx_session(file, args.threads)

        def logits(images: np.ndarray, session: Any = session) -> np.ndarray:
            return session.run(None, {"image": onnx_pixels(images)})[0]

        found[f"{args.float.stem}, {file.stem}, ONNX Runtime"] = Side(file, logits)
    return found


def main(argv: list[str] | None = None) -> None:
    """Class all test images by all sides, and print the table."""
    from tqdm import tqdm

    from rbsf.datasets.images.labelled import open_labelled
    from rbsf.engine.file import read_packed

    args = parse_args(argv)
    packed = read_packed(args.weights)
    training, test = open_labelled(args.dataset, args.root, size=packed.input_shape[0])
    check_images(args.weights, packed, test, args.dataset)
    with tempfile.TemporaryDirectory() as folder:
        found = sides(args, training, Path(folder))
        count = test.batch_count(args.batch_size, limit=args.subset)
        batches = test.batches(args.batch_size, 0, 0, train=False, limit=args.subset)
        for batch in tqdm(batches, total=count, unit="batch"):
            images, labels = images_of(batch), batch["label"].numpy()
            for side in found.values():
                side.measure(images, labels)
        print(Table("", HEADS, [[Cell(name), *side.cells()] for name, side in found.items()]))


if __name__ == "__main__":
    run(main)
