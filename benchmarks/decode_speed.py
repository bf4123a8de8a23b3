"""Measure images per second of the folder reader, with reduced and with full decoding.

    python benchmarks/decode_speed.py --root IMAGENET --workers 1 2 4 8
    python benchmarks/decode_speed.py --image-size 500x375 --size 224

Each number of worker processes is a line of the table. Without --root the program reads generated
JPEGs with about as many bytes as ImageNet's. Each round reads every side once, one after the other.
Figures are medians over rounds, and the ratio is the median of the rounds' ratios. Processes start,
and files are read into memory, in a pass that is not timed, so this measures decoding, not disks.
The first line, without worker processes, is based on the CPU time of one core, so other programs
have little effect. The other lines use wall-clock time.

A node of 8 GPUs needs, in theory, 8 x --gpu-rate images per second. 2,500 is a guess for ResNet-18
with its teacher at 224 pixels; give the rate that a training measured. At that rate an epoch of
1,281,167 images takes 64 s. Disks must deliver 110 kB x 20,000 = 2.2 GB/s, or nothing if the whole
data set, 140 GB, fits in memory. The GPUs take 150 kB x 20,000 = 3 GB/s over 8 links of 50 or more.
So decoding is the limit. It needs 20,000 / (images per second of one core) cores; the divisor is in
the first line. Split the cores over 8 processes of torchrun, with --workers an eighth of the cores
each. If that is not enough, shrink the images once to a short side of 256, which costs about half
as much; --image-size 341x256 measures that.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from rbsf.datasets.images.class_folders import open_image_folder
from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.synthetic.textures import palette, texture
from rbsf.system.environment import cores
from rbsf.system.program import positive_int, run

GPUS = 8
TRAIN_IMAGES = 1_281_167  # training images of ImageNet
QUALITY = 92  # generated images of 500 x 375 have nearly ImageNet's mean of 110 kB
DISTINCT = 32  # number of generated images; all others are copies


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder with train/CLASS/IMAGE (default: generated JPEGs)",
    )
    add(
        "--image-size",
        default="500x375",
        metavar="WxH",
        help="of generated JPEGs (default: 500x375)",
    )
    add(
        "--images",
        type=positive_int,
        default=512,
        metavar="N",
        help="read in a round (default: 512)",
    )
    add("--size", type=positive_int, default=224, help="side of the crops in pixels (default: 224)")
    add("--batch", type=positive_int, default=32, help="images of a batch (default: 32)")
    add(
        "--workers",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="processes (default: 1, 2, 4 ... cores)",
    )
    add("--rounds", type=positive_int, default=5, help="of which the median counts (default: 5)")
    add(
        "--gpu-rate",
        type=positive_int,
        default=2500,
        help="images per second that one GPU trains (default: 2500)",
    )
    return parser.parse_args(argv)


def generate(root: Path, image_size: str, count: int) -> None:
    """Write textured JPEGs of one class into `root`/train and one image into `root`/val.

    Raises ValueError if `image_size` is not of the form 500x375.
    """
    width, _, height = image_size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        advice = "give width and height from 16, as in 500x375"
        raise ValueError(f"--image-size is {image_size!r}; {advice}")
    rngs = [np.random.default_rng(seed) for seed in range(DISTINCT)]
    encoded = [_picture(rng, int(width), int(height)) for rng in rngs]
    for split, number in (("train", count), ("val", 1)):
        (root / split / "class").mkdir(parents=True)
        for i in range(number):
            (root / split / "class" / f"{i:06d}.jpg").write_bytes(encoded[i % DISTINCT])


def _picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    image = texture(rng, (height, width), 40.0, palette(rng)).astype(np.float32)
    image += rng.normal(0, 14, image.shape)
    pixels = image.clip(0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return encoded.tobytes()


def rate(data: FolderData, batch: int, epoch: int, limit: int) -> float:
    """Images per second of one training pass, in wall-clock time.

    If this process itself decodes, its CPU time counts instead.
    """
    clock = time.perf_counter if data.workers else time.process_time
    start, images = clock(), 0
    for read in data.batches(batch, 0, epoch, limit=limit):
        images += len(read["label"])
    return images / (clock() - start)


def compare(data: FolderData, workers: int, args: argparse.Namespace) -> tuple[float, float, float]:
    """Images per second with reduced and full decoding, and their ratio.

    `workers` processes decode; 0 means this process.
    """
    sides = [
        dataclasses.replace(data, workers=workers, size=args.size, reduced=reduced)
        for reduced in (True, False)
    ]
    rounds = []
    for epoch in range(args.rounds + 1):
        rounds.append([rate(side, args.batch, epoch, args.images) for side in sides])
    del rounds[0]  # the first round also started the processes
    reduced, full = (statistics.median(values) for values in zip(*rounds, strict=True))
    return reduced, full, statistics.median(first / second for first, second in rounds)


def main(argv: list[str] | None = None) -> int:
    """Measure; print the table and the needs of a node of 8 GPUs."""
    args = parse_args(argv)
    cv2.setNumThreads(1)  # as in worker processes
    counts = args.workers or [2**i for i in range(cores().bit_length())]
    with tempfile.TemporaryDirectory() as folder:
        if args.root is None:
            generate(Path(folder), args.image_size, args.images)
        data, _ = open_image_folder(args.root or Path(folder), skip_broken=True)
        print_setting(data, args)
        print("workers   reduced      full   ratio   (images/s)")
        rates = []
        for workers in (0, *counts):
            reduced, full, ratio = compare(data, workers, args)
            rates.append(reduced)
            print(f"{workers or 'one core':>8} {reduced:8.0f} {full:9.0f} {ratio:7.2f}")
    need, core = GPUS * args.gpu_rate, rates[0]
    epoch = f"an epoch in {TRAIN_IMAGES / need:.0f} s"
    print(f"a node of {GPUS} GPUs at {args.gpu_rate}/s each: {need} images/s, {epoch};")
    print(f"at {core:.0f} images/s a core that takes {need / core:.0f} cores like these")
    return 0


def print_setting(data: FolderData, args: argparse.Namespace) -> None:
    """Print the number and size of images and the number of cores."""
    sizes = [(data.root / name).stat().st_size for name in data.files[: args.images]]
    mean = sum(sizes) / len(sizes) / 1e3
    crops = f"crops of {args.size}, {cores()} cores"
    print(f"{len(data)} images, {mean:.0f} kB each, {crops}")


if __name__ == "__main__":
    run(main)
