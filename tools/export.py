"""Turn trained weights into a file to run them from: packed for this project's engine, or ONNX for other runtimes.

    python tools/export.py --weights runs/rbsf/rbsf.safetensors --out rbsf-packed.safetensors

packed: a 1-bit network with one bit a weight and integer thresholds; its first layer is rounded to 7 bits a weight.
Then the bits after every layer are compared with those of PyTorch, on made-up frames or those of --check.
onnx: two graphs, NAME_backbone.onnx and NAME_head.onnx, of a 1-bit or a float network, compared with PyTorch too.
"""

from __future__ import annotations

import argparse
import sys
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
    add("--weights", type=Path, required=True, metavar="FILE", help="trained weights, as tools/train_rbsf.py writes")
    add("--out", type=Path, required=True, metavar="FILE", help=".safetensors, or .onnx with --format onnx")
    add("--format", choices=("packed", "onnx"), default="packed", help="default: %(default)s")
    add("--check", metavar="VIDEO", help=f"video or folder whose first {FRAMES} frames are compared (default: made up)")
    return parser.parse_args(argv)


def read_crops(video: str | None) -> np.ndarray:
    """Middles of frames as crops uint8 (N, 255, 255, 3); ValueError for a video without frames."""
    import numpy as np

    from datasets.frames import open_frames
    from datasets.synthetic import make_sequence
    from tracker.geometry import SEARCH_SIZE, crop_square, mean_color

    frames = open_frames(video) if video else (image for image, _ in make_sequence(0, FRAMES))
    crops = [
        crop_square(image, (np.array(image.shape[1::-1]) - 1) / 2, min(image.shape[:2]), SEARCH_SIZE, mean_color(image))
        for image in islice(frames, FRAMES)
    ]
    if not crops:
        raise ValueError(f"--check {video}: there is no frame")
    return np.stack(crops)


def export_packed(weights: Path, out: Path, crops: np.ndarray) -> None:
    """Write the packed file; print its size and how it agrees with PyTorch."""
    import numpy as np

    from rbsf.engine.runtime import Engine
    from rbsf.export import pack_weights, torch_outputs

    net = pack_weights(weights, out)
    size, floats = out.stat().st_size, float_bytes(net)
    print(f"{out}: {size:,} bytes; {floats:,} as float32: {floats / size:.1f} times smaller")
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


def float_bytes(net: nn.Module) -> int:
    """Bytes of the weights of all convolutions in float32."""
    from torch import nn

    return sum(4 * m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))


def export_onnx(weights: Path, out: Path, crops: np.ndarray) -> None:
    """Write both graphs; print their sizes and the largest difference to PyTorch."""
    try:
        from rbsf.onnx_export import backbone_graph, check_graphs, head_graph
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise ValueError('ONNX export needs onnx and onnxruntime; type: pip install -e ".[onnx]"') from error
    from rbsf.files import write_atomically
    from rbsf.weights import load_weights

    net = load_weights(weights)[0]
    backbone = backbone_graph(net)
    graphs = {"backbone": backbone, "head": head_graph(backbone)}
    paths = {part: out.with_name(f"{out.stem}_{part}.onnx") for part in graphs}
    for part, path in paths.items():
        write_atomically(path, graphs[part].SerializeToString())
        print(f"{path}: {path.stat().st_size:,} bytes")
    for part, (difference, largest) in check_graphs(net, paths["backbone"], paths["head"], crops).items():
        print(f"{part}: largest difference to PyTorch {difference:.2g}, largest value {largest:.2g}")


def main(argv: list[str] | None = None) -> None:
    """Export, compare, print."""
    args = parse_args(argv)
    suffix, write = {"packed": (".safetensors", export_packed), "onnx": (".onnx", export_onnx)}[args.format]
    if args.out.suffix != suffix:
        raise ValueError(f"--out {args.out}: a file of --format {args.format} ends in {suffix}")
    if args.out.exists() and args.weights.exists() and args.out.samefile(args.weights):
        raise ValueError(f"--out {args.out} is the input itself; give another")
    check_writable(args.out)
    write(args.weights, args.out, read_crops(args.check))


if __name__ == "__main__":
    run(main)
