"""Turn trained weights into a file to run them from: packed for this project's engine, or ONNX for other runtimes.

    python tools/export.py --weights runs/rbsf/rbsf.safetensors --out rbsf-packed.safetensors

packed: a 1-bit network with one bit a weight. A tracker's backbone has integer thresholds, and its first layer rounded
to 7 bits a weight, or to --first-bits; a classifier's real layers stay float32. Then bits and results are compared with
those of PyTorch, on made-up frames or those of --check; a tracker's with the rounded network, which is what the file
holds, and, in the last line, with the weights as given.
onnx: of a tracker two graphs, NAME_backbone.onnx and NAME_head.onnx, of a classifier one; 1-bit or float, compared too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder, installed or not

from tools.cli import check_writable, run

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

FRAMES = 8  # that are compared


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="FILE", help="trained weights of a tracker or a classifier")
    add("--out", type=Path, required=True, metavar="FILE", help=".safetensors, or .onnx with --format onnx")
    add("--format", choices=("packed", "onnx"), default="packed", help="default: %(default)s")
    add(
        "--first-bits",
        type=int,
        choices=range(2, 8),
        metavar="N",
        help="bits of a weight of a tracker's first layer, 2 to 7 (default: 7, stored in a byte each)",
    )
    add("--check", metavar="VIDEO", help=f"video or folder whose first {FRAMES} images are compared (default: made up)")
    return parser.parse_args(argv)


def read_crops(video: str | None, size: int = 255) -> np.ndarray:
    """Middles of frames as crops uint8 (N, size, size, 3); ValueError for a video without frames."""
    import numpy as np

    from datasets.frames import open_frames
    from datasets.synthetic import make_sequence
    from tracker.geometry import crop_square, mean_color

    frames = open_frames(video) if video else (image for image, _ in make_sequence(0, FRAMES))
    crops = [
        crop_square(image, (np.array(image.shape[1::-1]) - 1) / 2, min(image.shape[:2]), size, mean_color(image))
        for image in islice(frames, FRAMES)
    ]
    if not crops:
        raise ValueError(f"--check {video}: there is no frame")
    return np.stack(crops)


def export_packed(weights: Path, out: Path, video: str | None, first_bits: int = 7) -> None:
    """Write a tracker's packed file; print its size and how it agrees with PyTorch."""
    import numpy as np

    from rbsf.engine.runtime import Engine
    from rbsf.export import pack_weights, torch_outputs
    from rbsf.weights import load_weights

    crops, net = read_crops(video), pack_weights(weights, out, first_bits)
    print_size(net, out)
    engine = Engine(out)
    print(f"bits that differ between the packed engine ({engine.isa}) and PyTorch in float32, in float64:")
    *packed, features = engine.layer_outputs(crops)
    *single, expected = torch_outputs(net, crops)
    double = torch_outputs(net.double(), crops)
    for layer, bits, *others in zip(engine.model.layers, packed, single, double, strict=False):
        shares = ", ".join(f"{(bits != other).mean():.2g}" for other in others)
        print(f"  after {layer.name}: {shares} of {bits.size:,}")
    for name, other in (("float32", expected), ("float64", double[-1])):
        print(f"features: largest difference to {name} {np.abs(features - other).max():.2g}")
    if any((bits != other).any() for bits, other in zip(packed, single, strict=True)):
        print("what differs in float32 alone is PyTorch's rounding at a threshold, and what follows from it")
    print(describe_loss(packed[0], features, torch_outputs(load_weights(weights)[0], crops)))


def describe_loss(bits: np.ndarray, features: np.ndarray, given: list[np.ndarray]) -> str:
    """What rounding the first layer did: its output `bits` and the `features`, beside `given`, `torch_outputs` of the
    weights as given.
    """
    import numpy as np

    turned, difference = (bits != given[0]).mean(), np.abs(features - given[-1]).max()
    alike = np.corrcoef(features.ravel(), given[-1].ravel())[0, 1]
    return (
        f"to the weights as given: {turned:.2%} of the first layer's bits turned; features differ by {difference:.2g}"
        f" of {np.abs(given[-1]).max():.2g} at most, correlation {alike:.4f}"
    )


def print_size(net: nn.Module, out: Path) -> None:
    """Bytes of the file, and of the weights of all convolutions and linear layers in float32."""
    from torch import nn

    size = out.stat().st_size
    floats = sum(4 * m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    print(f"{out}: {size:,} bytes; {floats:,} as float32: {floats / size:.1f} times smaller")


def export_classifier(weights: Path, out: Path, video: str | None) -> None:
    """Write a classifier's packed file; print its size and how it agrees with PyTorch."""
    from rbsf.agreement import compare
    from rbsf.engine.network import Network
    from rbsf.export_network import classifier_input, pack_classifier
    from rbsf.weights import load_weights

    shape, mean, std = classifier_input(weights, load_weights(weights)[2])
    images = read_images(video, shape)
    net, _ = pack_classifier(weights, out)
    print_size(net, out)
    network = Network(out)
    print(f"{network.isa} engine and PyTorch: {compare(net, network, images, mean, std)}")


def read_images(video: str | None, shape: tuple[int, int, int]) -> np.ndarray:
    """Middles of frames as images uint8 (N, H, W, C), grey where C is 1."""
    import cv2
    import numpy as np

    crops = read_crops(video, shape[0])
    return crops if shape[2] == 3 else np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] for crop in crops])


def onnx_classifier(weights: Path, out: Path, video: str | None) -> None:
    """Write the graph of a classifier; print its size and the largest difference to PyTorch."""
    import numpy as np

    from rbsf.agreement import torch_logits
    from rbsf.engine.nodes import NetworkModel
    from rbsf.export_network import classifier_input, network_nodes
    from rbsf.files import write_atomically
    from rbsf.onnx_network import network_graph, run_graph
    from rbsf.weights import load_weights

    net, name, info = load_weights(weights)
    shape, mean, std = classifier_input(weights, info)
    images = read_images(video, shape)
    model = NetworkModel(name, tuple(network_nodes(net, shape, mean, std)), {})
    write_atomically(out, network_graph(model).SerializeToString())
    print(f"{out}: {out.stat().st_size:,} bytes")
    expected = torch_logits(net, images, mean, std)
    difference, largest = np.abs(run_graph(out, images) - expected).max(), np.abs(expected).max()
    print(f"logits: largest difference to PyTorch {difference:.2g}, largest value {largest:.2g}")


def export_onnx(weights: Path, out: Path, video: str | None) -> None:
    """Write a tracker's two graphs; print their sizes and the largest difference to PyTorch."""
    from rbsf.files import write_atomically
    from rbsf.onnx_export import backbone_graph, check_graphs, head_graph
    from rbsf.weights import load_weights

    crops, net = read_crops(video), load_weights(weights)[0]
    backbone = backbone_graph(net)
    graphs = {"backbone": backbone, "head": head_graph(backbone)}
    paths = {part: out.with_name(f"{out.stem}_{part}.onnx") for part in graphs}
    for part, path in paths.items():
        write_atomically(path, graphs[part].SerializeToString())
        print(f"{path}: {path.stat().st_size:,} bytes")
    for part, (difference, largest) in check_graphs(net, paths["backbone"], paths["head"], crops).items():
        print(f"{part}: largest difference to PyTorch {difference:.2g}, largest value {largest:.2g}")


def is_classifier(weights: Path) -> bool:
    """Whether a weights file holds a classifier; raises as `load_weights` does."""
    from rbsf.models import CLASSIFIERS
    from rbsf.weights import load_weights

    return load_weights(weights)[1] in CLASSIFIERS


def main(argv: list[str] | None = None) -> None:
    """Export, compare, print."""
    args = parse_args(argv)
    suffix = {"packed": ".safetensors", "onnx": ".onnx"}[args.format]
    if args.out.suffix != suffix:
        raise ValueError(f"--out {args.out}: a file of --format {args.format} ends in {suffix}")
    if args.out.exists() and args.weights.exists() and args.out.samefile(args.weights):
        raise ValueError(f"--out {args.out} is the input itself; give another")
    check_writable(args.out)
    write: dict[tuple[str, bool], Callable[..., None]] = {
        ("packed", False): export_packed,
        ("packed", True): export_classifier,
        ("onnx", False): export_onnx,
        ("onnx", True): onnx_classifier,
    }
    kind, options = (args.format, is_classifier(args.weights)), {}
    if args.first_bits:
        if kind != ("packed", False):
            raise ValueError("--first-bits is for packed files of trackers; leave it out")
        options["first_bits"] = args.first_bits
    try:
        write[kind](args.weights, args.out, args.check, **options)
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise ValueError('ONNX export needs onnx and onnxruntime; type: pip install -e ".[onnx]"') from error


if __name__ == "__main__":
    run(main)
