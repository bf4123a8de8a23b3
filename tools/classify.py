"""Class images by a trained classifier, or measure it on a test set: accuracy, speed, and packed
against PyTorch.

python tools/classify.py --weights runs/classifier/resnet18-packed.safetensors photo.jpg
more_photos/ python tools/classify.py --weights runs/classifier/resnet18-packed.safetensors
--dataset cifar100 --root data

Packed files run without PyTorch.  --compare runs a weights file both ways and counts the images on
which they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.files import write_atomically
from rbsf.system.program import check_writable, positive_int, run

if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.images.labelled import Labelled

SHARE = 224 / 256  # of an image's short side that a network sees which does not say: ImageNet's


@dataclass(frozen=True)
class Classifier:
    """A network as a function of images uint8 (N, H, W, C) to logits (N, classes), and its `input`
    (size, classes).
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    input: dict[str, Any]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="image, or folder of images")
    add(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="as tools/train_classifier.py writes, or packed",
    )
    add(
        "--dataset",
        metavar="NAME",
        help="measure on the test set of mnist, cifar10, cifar100, imagenet, folder ...",
    )
    add(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder that holds the data set (default: %(default)s)",
    )
    add(
        "--check",
        choices=("auto", "strict", "off"),
        default="auto",
        help="checksums as published (default: auto)",
    )
    add(
        "--subset",
        type=positive_int,
        metavar="N",
        help="only so many test images, as many of each class",
    )
    add(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="images at a time (default: 64)",
    )
    add(
        "--top",
        type=positive_int,
        default=3,
        metavar="N",
        help="classes named for each image (default: 3)",
    )
    add(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads of the network (default: 1)",
    )
    add(
        "--engine",
        choices=("auto", "packed", "torch"),
        default="auto",
        help="what runs it (default: as the file is)",
    )
    add(
        "--compare",
        action="store_true",
        help="run a weights file in PyTorch and packed, and compare",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args(argv)
    if bool(args.images) == bool(args.dataset):
        parser.error("give images, or --dataset")
    if args.compare and not args.dataset:
        parser.error("--compare needs --dataset")
    return args


def load_packed(path: Path, threads: int) -> Classifier:
    """A packed file, or a weights file packed on loading; errors as the readers have them."""
    from rbsf.engine.file import packed_kind, read_packed
    from rbsf.engine.run import Engine

    if packed_kind(path) == "classifier":
        model = read_packed(path)
    else:
        from rbsf.export.pack import packed_weights

        model = packed_weights(path).packed
    engine = Engine(model, threads)
    print(f"network: {path}, {engine}", file=sys.stderr)
    return Classifier(f"packed ({engine.isa})", engine, check_input(path, model.info))


def check_input(path: Path, info: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its images; ValueError where that is not all of size, mean, std and
    classes.
    """
    found = info.get("input")
    if not isinstance(found, dict) or not found.keys() >= {"size", "mean", "std", "classes"}:
        raise ValueError(
            f"{path}: its info has no input (size, mean, std, classes); train it by train_classifier.py"
        )
    return found


def load_torch(path: Path, threads: int) -> Classifier:
    """A weights file in PyTorch, float32."""
    import torch

    from rbsf.export.compare import torch_logits
    from rbsf.export.pack import classifier_input
    from rbsf.weights import load_weights

    torch.set_num_threads(threads)
    net, _, info = load_weights(path)
    check_input(path, info)
    taken = classifier_input(path, info)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(
        "PyTorch", lambda images: torch_logits(net, images, taken.mean, taken.std), info["input"]
    )


def load(path: Path, engine: str, threads: int) -> Classifier:
    """The classifier in the engine asked for; "auto": packed files run packed, others in PyTorch.

    ValueError for a packed tracker, and a packed file for PyTorch; otherwise as the readers have
    them.
    """
    from rbsf.engine.file import packed_kind

    kind = packed_kind(path)
    packed = kind == "classifier"
    if kind == "tracker":
        raise ValueError(
            f"{path}: a packed tracker, no classifier; give weights that tools/train_classifier.py wrote"
        )
    if packed and engine == "torch":
        raise ValueError(
            f"{path} is packed; give the weights file that it was made from to run it in PyTorch"
        )
    return load_packed(path, threads) if packed or engine == "packed" else load_torch(path, threads)


def list_images(paths: list[Path]) -> Iterator[Path]:
    """Files, and those of folders without hidden ones; FileNotFoundError or ValueError for none."""
    from rbsf.datasets.video.images import IMAGE_SUFFIXES

    def is_image(path: Path, root: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()

    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no image {path}")
        found = sorted(p for p in path.rglob("*") if is_image(p, path)) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        yield from found


def class_images(classifier: Classifier, paths: list[Path], top: int) -> int:
    """Print the likeliest classes of each image; 1 where one could not be read."""
    import cv2
    import numpy as np

    from rbsf.datasets.images.decode import CentreCrop, decode_crop

    names, broken = classifier.input["classes"], 0
    share = classifier.input.get("share", SHARE)
    for path in list_images(paths):
        crop = decode_crop(path.read_bytes(), CentreCrop(share), classifier.input["size"])
        if crop is None:
            print(f"error: {path}: not a whole image that OpenCV can decode", file=sys.stderr)
            broken += 1
            continue
        if len(classifier.input["mean"]) == 1:
            crop = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None]
        logits = classifier.run(crop[None])[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[:top]
        print(f"{path}: " + ", ".join(f"{names[i]} {100 * shares[i]:.1f}%" for i in best))
    return 1 if broken else 0


def measure(
    classifier: Classifier, data: Labelled, batch_size: int, subset: int | None
) -> dict[str, Any]:
    """Predictions [N, up to 5], best first, labels [N], and seconds that the network took."""
    import numpy as np
    from tqdm import tqdm

    best, labels, seconds = [], [], 0.0
    batches = data.batches(batch_size, 0, 0, train=False, limit=subset)
    count = data.batch_count(batch_size, train=False, limit=subset)
    for batch in tqdm(batches, total=count, unit="batch", desc=classifier.name):
        images = np.ascontiguousarray(batch["image"].permute(0, 2, 3, 1).numpy())
        start = time.perf_counter()
        logits = classifier.run(images)
        seconds += time.perf_counter() - start
        best.append(np.argsort(-logits, axis=1, kind="stable")[:, :5])
        labels.append(batch["label"].numpy())
    return {"best": np.concatenate(best), "labels": np.concatenate(labels), "seconds": seconds}


def figures(measured: dict[str, Any]) -> dict[str, float]:
    """Accuracies in percent, and images a second."""
    right = measured["best"] == measured["labels"][:, None]
    rate = len(right) / measured["seconds"]
    return {
        "top1": 100 * right[:, 0].mean(),
        "top5": 100 * right.any(1).mean(),
        "images_per_s": rate,
    }


def measure_dataset(args: argparse.Namespace) -> None:
    """Measure, print, and write --json."""
    if args.json:
        check_writable(args.json)
    from rbsf.datasets.images.labelled import open_labelled

    engines = ("torch", "packed") if args.compare else (args.engine,)
    classifiers = [load(args.weights, engine, args.threads) for engine in engines]
    size = classifiers[0].input["size"]
    _, test = open_labelled(args.dataset, args.root, check=args.check, size=size)
    if list(test.classes) != classifiers[0].input["classes"]:
        raise ValueError(
            f"{args.weights} was trained on other classes than those of {args.dataset} in {args.root}"
        )
    measured = {c.name: measure(c, test, args.batch_size, args.subset) for c in classifiers}
    report: dict[str, Any] = {name: figures(result) for name, result in measured.items()}
    for name, values in report.items():
        count = len(measured[name]["labels"])
        print(
            f"{name}: top-1 {values['top1']:.2f}%, top-5 {values['top5']:.2f}% of {count:,} images;"
            f" {values['images_per_s']:.0f} images/s in batches of {args.batch_size} on {args.threads} thread(s)"
        )
    if args.compare:
        first, second = (result["best"][:, 0] for result in measured.values())
        report["differing"] = int((first != second).sum())
        print(f"predictions that differ: {report['differing']} of {len(first):,}")
    if args.json:
        write_atomically(args.json, json.dumps(report, indent=1).encode())


def main(argv: list[str] | None = None) -> int:
    """Class images, or measure; 0 when all images could be read."""
    args = parse_args(argv)
    if args.dataset:
        measure_dataset(args)
        return 0
    return class_images(load(args.weights, args.engine, args.threads), args.images, args.top)


if __name__ == "__main__":
    run(main)
