"""Time whole classification networks, packed, in PyTorch and in ONNX Runtime, all in one run.

    python benchmarks/network_speed.py --out runs/network_speed

Every round times each side once, one after the other, as benchmarks/engine_speed.py does; the
figures are medians over rounds. The packed network is 1-bit, with RBCN's layers; the others run
its float twin, ONNX Runtime also in 8 bits. Weights are random, which take as long as trained ones.
Images are uint8 for the packed network, so its time includes their normalisation; the others get
prepared float32 tensors. Writes network.json and network.md to --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.sides import Timed, medians, onnx_sides
from rbsf.eval.tables import Cell, Table, number
from rbsf.system.program import check_writable, positive_int, run

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

# name -> model, options, side of the images in pixels
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ResNet-18, 224 x 224": ("resnet18", {}, 224),
    "ResNet-18 32-32-64-128, 32 x 32": (
        "resnet18",
        {"stages": "32-32-64-128", "stem": "cifar", "classes": 100},
        32,
    ),
    "WRN-22 64-64-128-256, 32 x 32": ("wrn22", {"stages": "64-64-128-256", "classes": 100}, 32),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=positive_int, default=30, metavar="N", help="default: %(default)s")
    add("--threads", type=positive_int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    add(
        "--batch",
        type=positive_int,
        default=1,
        metavar="N",
        help="images at a time (default: %(default)s)",
    )
    add(
        "--isas",
        action="store_true",
        help="time every instruction set of the engine, not the fastest alone",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/network_speed"),
        metavar="DIR",
        help="default: %(default)s",
    )
    return parser.parse_args(argv)


def sides(name: str, args: argparse.Namespace, threads: int, folder: Path) -> dict[str, Timed]:
    """A call of each side that runs the network `name` on a batch; packed sides come first."""
    import numpy as np
    import torch

    from rbsf.engine.cpu import available_isas, choose_isa
    from rbsf.engine.run import Engine
    from rbsf.export.images import Images
    from rbsf.export.pack import export_classifier
    from rbsf.models import build

    model, options, pixels = NETWORKS[name]
    shape = (pixels, pixels, 3)
    images = np.random.default_rng(0).integers(0, 256, (args.batch, *shape), dtype=np.uint8)
    torch.manual_seed(0)
    net = build(model, method="rbcn", **options).eval()
    packed = export_classifier(net, model, Images(shape)).packed
    found: dict[str, Timed] = {}
    for isa in available_isas()[:-1] if args.isas else [choose_isa()]:
        engine = Engine(packed, threads, isa)
        found[f"packed, {isa}"] = lambda engine=engine: engine(images)  # type: ignore[misc]
    twin = build(model, **options).eval()
    # ONNX Runtime comes first: the network is traced before it changes its memory format.
    onnx = onnx_sides(
        lambda: export_classifier(twin, "twin", Images(shape)), images, threads, folder
    )
    return found | torch_sides(twin, images, threads) | onnx


def torch_sides(net: nn.Module, images: np.ndarray, threads: int) -> dict[str, Timed]:
    """The float network in PyTorch, channels last, uncompiled and compiled."""
    import torch

    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # [N, C, H, W]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # compiled code depends on the number of threads
    found: dict[str, Timed] = {}
    modules = {"PyTorch float32": net, "PyTorch float32, compiled": torch.compile(net)}
    for name, module in modules.items():

        def call(module: Any = module) -> None:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                module(pixels)

        call()
        found[name] = call
    return found


def measure(args: argparse.Namespace, name: str) -> dict[int, dict[str, float]]:
    """Milliseconds of one network: {threads: {side: ms}}."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.threads:
            timed = sides(name, args, threads, Path(folder))
            found[threads] = medians(timed, args.rounds)
    return found


def markdown(found: dict[str, dict[int, dict[str, float]]], batch: int) -> str:
    """A table for each network; ratios are to the packed engine's fastest instruction set."""
    parts = []
    for name, runs in found.items():
        heads = [f"{name}, {batch} at a time"]
        for threads in runs:
            heads += [f"threads: {threads}, ms", "x packed"]
        rows = []
        for side in next(iter(runs.values())):
            cells = [Cell(side)]
            for times in runs.values():
                packed = next(iter(times.values()))
                cells += [number(times[side], ".2f"), number(times[side] / packed, ".2f")]
            rows.append(cells)
        parts.append(str(Table("", heads, rows)))
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse_args(argv)
    from rbsf.system.environment import environment
    from rbsf.system.files import write_atomically

    check_writable(args.out / "network.json")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name in NETWORKS:
        found[name] = measure(args, name)
        print(markdown({name: found[name]}, args.batch), flush=True)
        content = {"environment": environment(), "batch": args.batch, "milliseconds": found}
        write_atomically(args.out / "network.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomically(args.out / "network.md", markdown(found, args.batch).encode())


if __name__ == "__main__":
    run(main)
