"""Turn trained weights into a packed file for this project's engine, or ONNX for other runtimes.

packed: a 1-bit network with one bit per weight. The first layer of RB-SF or XNOR-SF is rounded to 7
bits per weight, or to --first-bits. A classifier's full-precision layers are not rounded: weights
that are small multiples of a scale are stored as bytes, others as float32. The file is only
written if it computes the same as the rounded network does in float64.

onnx: two graphs of a tracker, NAME_backbone.onnx and NAME_head.onnx, or one of a classifier. The
network may be 1-bit or float. The metadata of the files say how to use them; tools/onnx_runner.py
tracks with them.

Either file's results are compared with PyTorch's, on made-up frames or those of --check.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.models import EXEMPLAR_SIZE, SEARCH_SIZE
from rbsf.shipped import find_trained
from rbsf.system.flags import make_parser
from rbsf.system.program import check_not_input, check_writable, require, run
from rbsf.system.text import printable

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import nn

    from rbsf.export.compare import Exported
    from rbsf.models.rbsf2 import RBSF2

EXAMPLES = """
--weights runs/rbsf/rbsf.safetensors --out rbsf-packed.safetensors
--weights runs/rbsf/rbsf.safetensors --out rbsf.onnx --format onnx
"""
FRAMES = 8  # frames on which results are compared
WRONG_FIRST_BITS = "--first-bits is for packed files of RB-SF and XNOR trackers; leave it out"
SUFFIXES = {"packed": ".safetensors", "onnx": ".onnx"}  # suffix of --out, by --format


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES)
    add = first.add_argument
    add(
        "--weights",
        type=find_trained,
        required=True,
        metavar="PATH",
        help="Export the trained weights of a tracker or a classifier in this file, or the shipped"
        " ones of this name, such as rbsf",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="Write to this file: .safetensors, or .onnx with --format onnx",
    )
    add("--format", choices=tuple(SUFFIXES), default="packed", help="Write a file of this form")
    add(
        "--first-bits",
        type=int,
        choices=range(2, 8),
        metavar="N",
        help="Round the weights of the first layer of RB-SF or XNOR-SF to N bits, 2 to 7; 7 bits"
        " take a byte each (default: 7)",
    )
    add(
        "--check",
        metavar="PATH",
        help=f"Compare results on the first {FRAMES} images of this video or folder"
        " (default: made-up frames)",
    )
    return parser.parse_args(argv)


def read_crops(video: str | None, size: int = SEARCH_SIZE) -> np.ndarray:
    """The middles of frames as crops, uint8 `[N, size, size, 3]`; made-up frames without `video`.

    Raises ValueError if the video has no frame.
    """
    import numpy as np

    from rbsf.datasets.synthetic.videos import make_sequence
    from rbsf.datasets.video.frames import open_frames
    from rbsf.tracker.geometry import crop_square, mean_color

    frames = open_frames(video) if video else (image for image, _ in make_sequence(0, FRAMES))
    crops = []
    for image in islice(frames, FRAMES):
        height, width = image.shape[:2]
        middle = (np.array([width, height]) - 1) / 2
        crops.append(crop_square(image, middle, min(height, width), size, mean_color(image)))
    if not crops:
        raise ValueError(f"--check {video}: there is no frame")
    return np.stack(crops)


def export_packed(weights: Path, out: Path, video: str | None, first_bits: int | None) -> None:
    """Write a packed file; print its size and how it agrees with PyTorch.

    Raises ValueError for `first_bits` if the network is no tracker of SiamFC's form.
    """
    from rbsf.engine.run import Engine
    from rbsf.export.first_layer import FIRST_BITS
    from rbsf.export.pack import classifier_input, pack_weights
    from rbsf.models import TRACKERS, WHOLE
    from rbsf.tracker.weights import read_weights

    net, model, info = read_weights(weights)
    if first_bits and model not in TRACKERS:
        raise ValueError(WRONG_FIRST_BITS)
    if model in (*TRACKERS, *WHOLE):
        images = read_crops(video)
    else:
        images = read_images(video, classifier_input(weights, info).shape)
    exported = pack_weights(weights, out, first_bits or FIRST_BITS)
    print_size(exported.net, out)
    agreement = exported.compare(images)
    print(f"compared with the rounded network in float64, operation by operation: {agreement}")
    engine = Engine(out)
    found = engine(images)
    expected = exported.images.logits(exported.net, images)
    difference = describe_difference(found, expected)
    print(f"{engine.isa} engine compared with PyTorch in float32: {difference}")
    if model in TRACKERS:  # the first layer of these was rounded
        given = exported.images.logits(net, images)
        print(f"compared with the given weights: {describe_difference(found, given)}")
    if engine.in_numpy:
        print(f"operations without a kernel, which run in NumPy: {', '.join(engine.in_numpy)}")


def describe_difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Say how much results `[N, ...]` differ, and how many predictions of logits `[N, classes]`."""
    import numpy as np

    difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
    text = f"results differ by {difference:.2g} of {largest:.2g} at most"
    if found.ndim == 2:
        count = (found.argmax(1) != expected.argmax(1)).sum()
        return f"{text}, predictions that differ: {count}"
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    return f"{text}, correlation {correlation:.4f}"


def print_size(net: nn.Module, out: Path) -> None:
    """Print the bytes of the file, and those of all convolutions and linear layers in float32."""
    from torch import nn

    size = out.stat().st_size
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    floats = sum(4 * layer.weight.numel() for layer in layers)
    print(f"{out}: {size:,} bytes; {floats:,} as float32: {floats / size:.1f} times smaller")


def read_images(video: str | None, shape: tuple[int, int, int]) -> np.ndarray:
    """The middles of frames as images, uint8 `[N, H, W, C]`, RGB or grey, for `shape` (H, W, C)."""
    import cv2
    import numpy as np

    crops = read_crops(video, shape[0])
    if shape[2] == 3:
        return crops
    return np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] for crop in crops])


def export_onnx(weights: Path, out: Path, video: str | None) -> None:
    """Write a classifier's graph, or a tracker's two; print their sizes and how they agree."""
    from rbsf.export.pack import (
        classifier_input,
        export_classifier,
        export_float_tracker,
        export_search,
    )
    from rbsf.models import TRACKERS
    from rbsf.models.rbsf2 import RBSF2
    from rbsf.tools.onnx_about import about_classifier
    from rbsf.tracker.weights import read_weights

    net, model, info = read_weights(weights)
    if isinstance(net, RBSF2):
        write_rbsf2(net, export_search(net), read_crops(video), out)
    elif model in TRACKERS:
        write_siamese(net, export_float_tracker(net, model), read_crops(video), out)
    else:
        exported = export_classifier(net, model, classifier_input(weights, info))
        about = about_classifier(model, info["input"])
        write_classifier(net, exported, about, read_images(video, exported.images.shape), out)


def write_classifier(
    net: nn.Module, exported: Exported, about: dict[str, str], images: np.ndarray, out: Path
) -> None:
    """Write the graph of a classifier, and compare it on `images`."""
    from rbsf.export.onnx import network_graph, run_graph

    exported.compare().check()
    write_graph(network_graph(exported.packed), out, about)
    expected = exported.images.logits(net, images)
    print(f"logits to PyTorch: {describe_difference(run_graph(out, images), expected)}")


def write_siamese(net: nn.Module, exported: Exported, images: np.ndarray, out: Path) -> None:
    """Write the graphs of a tracker of SiamFC's form, and compare them on `images`.

    The middle of the first features is the template.
    """
    import torch
    from torch.nn import functional as F

    from rbsf.export.onnx import head_graph, network_graph, run_graph, run_head
    from rbsf.tools.onnx_about import about_response

    backbone, head = paths_of(out)
    exported.compare().check()
    graph = network_graph(exported.packed)
    about_backbone, about_head = about_response(exported.packed.model)
    write_graph(graph, backbone, about_backbone)
    features = exported.images.logits(net, images)
    print(f"features to PyTorch: {describe_difference(run_graph(backbone, images), features)}")
    write_graph(head_graph(graph), head, about_head)
    middle = slice(8, 14)  # cells of the exemplar in the middle of a search region
    template = features[:1, :, middle, middle].copy()
    response = F.conv2d(torch.from_numpy(features), torch.from_numpy(template)).numpy()
    found = run_head(head, template, features)
    print(f"response to PyTorch: {describe_difference(found, response)}")


def write_rbsf2(net: RBSF2, exported: Exported, images: np.ndarray, out: Path) -> None:
    """Write the graphs of RB-SF 2, and compare them on `images`.

    The middle of the first image is the exemplar.
    """
    import torch

    from rbsf.export.onnx import run_graph, run_head, search_graphs
    from rbsf.layers import binary_layers
    from rbsf.models.whole import STEP
    from rbsf.tools.onnx_about import about_rbsf2

    agreement = exported.compare()
    if binary_layers(net):  # a float twin's sums may round differently, as their order differs
        agreement.check()
    graphs = zip(search_graphs(exported.packed), paths_of(out), about_rbsf2(), strict=True)
    for graph, path, about in graphs:
        write_graph(graph, path, about)
    backbone, head = paths_of(out)
    start = (SEARCH_SIZE - EXEMPLAR_SIZE) // 2
    middle = slice(start, start + EXEMPLAR_SIZE)
    exemplar = images[:1, middle, middle]
    template = exported.images.logits(net.backbone, exemplar)
    features = exported.images.logits(net.backbone, images)
    steps = run_graph(backbone, images)
    print(f"features to PyTorch: {describe_difference(steps * STEP, features)}")
    with torch.inference_mode():
        maps = net.head(torch.from_numpy(features), torch.from_numpy(template)).numpy()
    found = run_head(head, run_graph(backbone, exemplar), steps)
    print(f"maps to PyTorch: {describe_difference(found, maps)}")


def paths_of(out: Path) -> tuple[Path, Path]:
    """The files of a tracker's two graphs: its backbone, its head."""
    return out.with_name(f"{out.stem}_backbone.onnx"), out.with_name(f"{out.stem}_head.onnx")


def write_graph(graph: ModelProto, path: Path, about: dict[str, str]) -> None:
    """Write an ONNX graph with the metadata `about`, and print its size."""
    from onnx.helper import set_model_props

    from rbsf.system.files import write_atomically

    set_model_props(graph, about)
    write_atomically(path, graph.SerializeToString())
    print(f"{path}: {path.stat().st_size:,} bytes")


def main(argv: list[str] | None = None) -> None:
    """Export, compare, print."""
    args = parse_args(argv)
    check_out(args.out, args.format, args.weights)
    require("onnx" if args.format == "onnx" else "train")
    check_writable(args.out)
    if args.format == "packed":
        export_packed(args.weights, args.out, args.check, args.first_bits)
        return
    if args.first_bits:
        raise ValueError(WRONG_FIRST_BITS)
    export_onnx(args.weights, args.out, args.check)


def check_out(out: Path, form: str, weights: Path) -> None:
    """Raise ValueError if --out has the wrong suffix for --format, or is the input itself."""
    if out.suffix != SUFFIXES[form]:
        raise ValueError(f"--out {out}: a file of --format {form} ends in {SUFFIXES[form]}")
    check_not_input("--out", out, weights)
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise ValueError(f"--out {printable(str(out))}: not UTF-8; give another name") from None


if __name__ == "__main__":
    run(main)
