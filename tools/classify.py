"""Classify images by a trained classifier, or measure its accuracy and speed on a test set.

Packed files run without PyTorch, including your own networks, written by `export_network`. Their
images are cropped to the largest central part with the network's aspect ratio, and turned grey if
it takes one channel. --compare runs a weights file both packed and in PyTorch, and counts the
images on which the two differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.datasets.images.published import CHECKS, CROP_SHARE
from rbsf.shipped import CLASSIFIER, find_weights
from rbsf.system.files import write_atomically
from rbsf.system.flags import make_parser
from rbsf.system.program import (
    check_not_input,
    check_writable,
    positive_int,
    run,
    thread_count,
)
from rbsf.tracker import ENGINES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rbsf.datasets.images.labelled import Labelled
    from rbsf.engine.graph import PackedModel

EXAMPLES = """
photo.jpg photos
--weights resnet18-packed.safetensors photos
--weights resnet18-packed.safetensors --dataset cifar100 --root data
"""


@dataclass(frozen=True)
class Input:
    """The images that a classifier takes, and what it calls their classes."""

    width: int
    height: int
    channels: int  # 1 (grey) or 3 (RGB)
    classes: list[str]
    share: float = CROP_SHARE  # side of the crop / short side of an image
    named: bool = True  # False: only the number of classes is known


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to run."""

    name: str
    run: Callable[[np.ndarray], np.ndarray]  # uint8 images `[N, H, W, C]` to logits `[N, classes]`
    input: Input


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES, takes="[IMAGE ...]")
    add = first.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="An image, or a folder of images")
    add(
        "--weights",
        type=find_weights,
        default=find_weights(CLASSIFIER),
        metavar="PATH",
        help="Use this trained network: a packed file, or weights of tools/train_classifier.py"
        f" (default: {CLASSIFIER}, a shipped one, which knows the 100 classes of CIFAR-100)",
    )
    add(
        "--top",
        type=positive_int,
        default=3,
        metavar="N",
        help="Name the N likeliest classes of each image",
    )
    add(
        "--threads",
        type=thread_count,
        default=1,
        metavar="N",
        help="Run the network on N threads of the CPU",
    )
    add(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="Run it in the packed engine or in PyTorch; auto runs packed files packed and all"
        " others in PyTorch",
    )
    add = parser.add_argument_group("measuring on a test set").add_argument
    add(
        "--dataset",
        metavar="NAME",
        help="Measure on the test set of mnist, cifar10, cifar100, cifar100-coarse, imagenet,"
        " tiny-imagenet or folder, in place of classing images",
    )
    add(
        "--root",
        type=Path,
        default=Path("data"),
        metavar="PATH",
        help="Read the data set from this folder",
    )
    add(
        "--check",
        choices=CHECKS,
        default="auto",
        help="Compare the files of the data set with their published checksums: strict always, off"
        " never, auto where a file has the published size",
    )
    add(
        "--subset",
        type=positive_int,
        metavar="N",
        help="Measure on N test images alone, as many of each class (default: all)",
    )
    add(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="Run N images at a time",
    )
    add(
        "--compare",
        action="store_true",
        help="Run a weights file in PyTorch and packed, and count the images on which they differ",
    )
    add("--json", type=Path, metavar="PATH", help="Write the figures to this file too")
    args = parser.parse_args(argv)
    if bool(args.images) == bool(args.dataset):
        parser.error("give either images or --dataset")
    for name in ("compare", "json", "subset"):
        if getattr(args, name) and not args.dataset:
            parser.error(f"--{name} needs --dataset")
    return args


def load_packed(path: Path, threads: int) -> Classifier:
    """Load a packed file, or pack a weights file; raises as the readers do."""
    from rbsf.engine.file import packed_task, read_metadata, read_packed
    from rbsf.engine.run import Engine

    if packed_task(read_metadata(path)) == "classifier":
        model = read_packed(path)
    else:
        from rbsf.export.pack import packed_weights

        model = packed_weights(path).packed
    engine = Engine(model, threads)
    print(f"network: {path}, {engine}", file=sys.stderr)
    return Classifier(f"packed ({engine.isa})", engine, packed_input(path, model))


def packed_input(path: Path, model: PackedModel) -> Input:
    """The input of a packed network.

    For a user's own network, which `export_network` wrote, it follows from the graph: the network
    normalises images itself and takes their largest middle part. Its classes are named by number,
    unless its info has a list `classes`.

    Raises ValueError for images with other channels than 1 or 3, and for results that are not one
    number for each class.
    """
    if has_input(model.info):
        return read_input(path, model.info)
    height, width, channels = model.input_shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: takes images of {channels} channels; give one that takes 1 or 3")
    shape = model.maps[model.nodes[-1].name].shape
    if len(shape) != 1:
        raise ValueError(
            f"{path}: gives {shape} for an image; give one that gives each class a number"
        )
    given = model.info.get("classes")
    if given is not None and (not isinstance(given, list) or len(given) != shape[0]):
        raise ValueError(f"{path}: its info's classes are no list of {shape[0]} names")
    classes = [str(name) for name in given or range(shape[0])]
    return Input(width, height, channels, classes, share=1.0, named=given is not None)


def has_input(info: dict[str, Any]) -> bool:
    """Whether a file fully describes the images that its network takes."""
    found = info.get("input")
    return isinstance(found, dict) and found.keys() >= {"size", "mean", "std", "classes"}


def read_input(path: Path, info: dict[str, Any]) -> Input:
    """What a file says about its images, which are square.

    Raises ValueError if size, mean, std or classes is missing.
    """
    if not has_input(info):
        missing = "its info has no input (size, mean, std, classes), as a classifier's has"
        raise ValueError(f"{path}: {missing}; give weights of train_classifier.py")
    found = info["input"]
    side, channels = found["size"], len(found["mean"])
    return Input(side, side, channels, found["classes"], found.get("share", CROP_SHARE))


def load_torch(path: Path, threads: int) -> Classifier:
    """Load a weights file into PyTorch, in float32."""
    import torch

    from rbsf.export.pack import classifier_input
    from rbsf.weights import load_weights

    torch.set_num_threads(threads)
    net, _, info = load_weights(path)
    found, taken = read_input(path, info), classifier_input(path, info)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier("PyTorch", partial(taken.logits, net), found)


def load(path: Path, engine: str, threads: int) -> Classifier:
    """Load a classifier into `engine`; "auto" runs packed files packed and others in PyTorch.

    Raises ValueError for a packed tracker and for a packed file with engine "torch", otherwise as
    the readers do.
    """
    from rbsf.engine.file import packed_task, read_metadata

    kind = packed_task(read_metadata(path))
    packed = kind == "classifier"
    if kind == "tracker":
        advice = "give weights that rbsf train-classifier wrote"
        raise ValueError(f"{path}: a packed tracker, no classifier; {advice}")
    if packed and engine == "torch":
        advice = "give the weights file that it was made from to run it in PyTorch"
        raise ValueError(f"{path} is packed; {advice}")
    if packed or engine == "packed":
        return load_packed(path, threads)
    return load_torch(path, threads)


def list_images(path: Path) -> list[Path]:
    """The file `path`, or the images below this folder except hidden ones.

    Warns of files there that are no known images. Raises FileNotFoundError if the path does not
    exist, and ValueError if a folder has no image.
    """
    from rbsf.datasets.video.images import IMAGE_SUFFIXES, is_image, warn_of_other_files

    def is_hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(path).parts)

    if not path.exists():
        raise FileNotFoundError(f"no image {path}")
    if not path.is_dir():
        return [path]
    # A broken link counts as a file, and is told when it is read.
    files = sorted(file for file in path.rglob("*") if not is_hidden(file) and not file.is_dir())
    found = list(filter(is_image, files))
    if not found:
        raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    warn_of_other_files(path, [str(file.relative_to(path)) for file in files])
    return found


def class_images(classifier: Classifier, paths: list[Path], top: int) -> int:
    """Print the likeliest classes of each image; returns 1 if an image could not be read."""
    import cv2
    import numpy as np

    from rbsf.datasets.images.decode import CentreCrop, decode_crop

    taken = classifier.input
    centre = CentreCrop(taken.share, ratio=taken.width / taken.height)
    images, code = [], 0
    for path in paths:
        try:
            images += list_images(path)
        except (OSError, ValueError) as error:
            code = tell(error)
    for path in images:
        try:
            crop = decode_crop(path.read_bytes(), centre, (taken.width, taken.height), path=path)
        except (OSError, ValueError) as error:
            code = tell(error)
            continue
        if taken.channels == 1:
            crop = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None]  # [height, width, 1]
        logits = classifier.run(crop[None])[0].astype(np.float64)  # [classes]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[:top]
        answers = [f"{taken.classes[i]} {100 * shares[i]:.1f}%" for i in best]
        print(f"{path}: {', '.join(answers)}")
    return code


def tell(error: Exception) -> int:
    """Print why an image could not be read; returns the program's exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 1


def images_of(batch: dict[str, Tensor]) -> np.ndarray:
    """The images of a batch, uint8 `[N, H, W, C]`."""
    import numpy as np

    return np.ascontiguousarray(batch["image"].permute(0, 2, 3, 1).numpy())


class Measured(NamedTuple):
    """What a classifier says of a test set."""

    best: np.ndarray  # [N, 5] classes, likeliest first; fewer columns if there are fewer classes
    labels: np.ndarray  # [N]
    seconds: float  # time in the network

    def figures(self) -> dict[str, float]:
        """Accuracies in percent, and images a second."""
        right = self.best == self.labels[:, None]  # [N, 5]
        top1, top5 = 100 * right[:, 0].mean(), 100 * right.any(1).mean()
        speed = len(right) / self.seconds
        return {"top1": top1, "top5": top5, "images_per_s": speed, "images": len(right)}


def measure(
    classifier: Classifier, data: Labelled, batch_size: int, subset: int | None
) -> Measured:
    """Run the test set, or `subset` images of it."""
    import numpy as np
    from tqdm import tqdm

    best, labels, seconds = [], [], 0.0
    batches = data.batches(batch_size, 0, 0, train=False, limit=subset)
    count = data.batch_count(batch_size, limit=subset)
    for batch in tqdm(batches, total=count, unit="batch", desc=classifier.name):
        images = images_of(batch)
        start = time.perf_counter()
        logits = classifier.run(images)
        seconds += time.perf_counter() - start
        best.append(np.argsort(-logits, axis=1, kind="stable")[:, :5])
        labels.append(batch["label"].numpy())
    return Measured(np.concatenate(best), np.concatenate(labels), seconds)


def measure_dataset(args: argparse.Namespace) -> None:
    """Measure on the test set, print the figures, and write --json."""
    if args.json:
        check_not_input("--json", args.json, args.weights)
        check_writable(args.json)
    engines = ("torch", "packed") if args.compare else (args.engine,)
    classifiers = [load(args.weights, engine, args.threads) for engine in engines]
    test = open_test_set(args, classifiers[0].input)
    measured = {c.name: measure(c, test, args.batch_size, args.subset) for c in classifiers}
    report: dict[str, Any] = {name: found.figures() for name, found in measured.items()}
    for name, values in report.items():
        count = len(measured[name].labels)
        accuracy = f"top-1 {values['top1']:.2f}%, top-5 {values['top5']:.2f}%"
        how = f"in batches of {args.batch_size} on {args.threads} thread(s)"
        speed = f"{values['images_per_s']:.0f} images/s {how}"
        print(f"{name}: {accuracy} of {count:,} images; {speed}")
    if args.compare:
        first, second = (found.best[:, 0] for found in measured.values())
        report["differing"] = int((first != second).sum())
        print(f"predictions that differ: {report['differing']} of {len(first):,}")
    if args.json:
        write_atomically(args.json, json.dumps(report, indent=1).encode())


def open_test_set(args: argparse.Namespace, taken: Input) -> Labelled:
    """Open the test set of --dataset for a network that takes such images.

    Raises ValueError if the network was trained on other classes.
    """
    from rbsf.datasets.images.labelled import open_labelled

    if taken.width != taken.height:
        shape = f"{taken.width} x {taken.height}"
        raise ValueError(f"{args.weights} takes images of {shape}; --dataset gives square ones")
    try:
        _, test = open_labelled(args.dataset, args.root, check=args.check, size=taken.width)
    except ValueError as error:
        raise ValueError(f"{args.weights} with --dataset {args.dataset}: {error}") from None
    check_classes(args.weights, taken, test, f"{args.dataset} in {args.root}")
    return test


def check_classes(weights: Path, taken: Input, data: Labelled, place: str) -> None:
    """Raise ValueError if a network was trained on other classes than those of `data`."""
    if taken.named:
        same = list(data.classes) == taken.classes
    else:
        same = len(data.classes) == len(taken.classes)
    if not same:
        raise ValueError(f"{weights} was trained on other classes than those of {place}")


def main(argv: list[str] | None = None) -> int:
    """Class images, or measure; returns 0 when all images could be read."""
    args = parse_args(argv)
    if args.dataset:
        measure_dataset(args)
        return 0
    return class_images(load(args.weights, args.engine, args.threads), args.images, args.top)


if __name__ == "__main__":
    run(main)
