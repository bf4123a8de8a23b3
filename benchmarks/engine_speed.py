"""Time the packed engine against PyTorch, ONNX Runtime and OpenCV's trackers, all in one run.

    python benchmarks/engine_speed.py --root OTB/David --tracker v3=onnx:BACKBONE.onnx,HEAD.onnx

Every round times each side once, one after the other, each after a pause and untimed calls, so that
other load on the machine affects all sides equally. The figures are medians over rounds. Backbones
get the three crops of one update. Trackers follow one target over the same frames; their untimed
calls are on the frame before. The float network is SiamFC's AlexNet with random weights, which take
as long as trained ones.

--layers only times the packed network's layers, on one thread. It also prints the binary layers'
share of the most this core can do: one `vpopcntq` of 512 bits per cycle, measured in each round.

OpenCV 5 has neither KCF nor CSRT. --contrib takes the Python of an environment with
opencv-contrib-python below 5, and times them together with the packed tracker.

Start-up and peak memory (Linux) are those of a process that loads a tracker and follows a target
for 20 frames. Writes speed.json, speed.md and speed.png to --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.layer_speed import layer_table
from benchmarks.sides import Timed, medians, onnx_sides, time_after_pause
from benchmarks.speed_report import markdown, plot
from rbsf.shipped import find_constants, find_weights
from rbsf.system.program import check_writable, positive_int, run
from rbsf.tracker.flags import read_constants

if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.trackers import Tracker
    from rbsf.tracker.loading import Constants
    from rbsf.tracker.states import Result

# The program that a process runs to measure its start-up and memory.
START_UP = """
import re, sys, time
start = time.perf_counter()
sys.path.insert(0, {root!r})
import numpy as np
from rbsf.tracker.loading import load_network
from rbsf.tracker.siamfc import SiamFC, TrackerConfig
tracker = SiamFC(load_network({weights!r}, engine={engine!r}))
ready = time.perf_counter() - start
image = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
tracker.init(image, (100, 100, 60, 60))
for _ in range(20):
    tracker.update(image)
# Not getrusage: its peak is the parent's where that was larger.
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(ready, int(peak[1]) / 1024)
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--root",
        type=Path,
        required=True,
        metavar="DIR",
        help="a sequence, or a folder whose first one is taken",
    )
    add(
        "--weights",
        type=find_weights,
        default=find_weights("rbsf"),
        metavar="PATH",
        help="a packed network of RB-SF's form (default: rbsf)",
    )
    add("--rounds", type=positive_int, default=30, metavar="N", help="of backbones (default: 30)")
    add(
        "--frames", type=positive_int, default=60, metavar="N", help="of the sequence (default: 60)"
    )
    add("--threads", type=positive_int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    add(
        "--layers", action="store_true", help="time the packed network's layers instead, one by one"
    )
    add(
        "--tracker", action="append", default=[], metavar="[LABEL=]WHAT",
        help="time this too, as eval/run_benchmarks.py names it; repeatable",
    )  # fmt: skip
    add(
        "--targets", type=positive_int, nargs="+", default=[], metavar="N",
        help="time so many targets at once too, with this project's networks among the trackers",
    )  # fmt: skip
    add("--updates", action="store_true", help="time trackers alone, no backbones and no start-up")
    add(
        "--contrib",
        type=Path,
        metavar="PYTHON",
        help="Python of an environment with opencv-contrib-python below 5",
    )
    add(
        "--trackers",
        nargs="+",
        metavar="NAME",
        help="time only these of OpenCV, print JSON (what --contrib is told)",
    )
    add("--out", type=Path, default=Path("runs/speed"), metavar="DIR", help="default: %(default)s")
    return parser.parse_args(argv)


def backbones(weights: Path, crops: np.ndarray, threads: int, folder: Path) -> dict[str, Timed]:
    """A call of every backbone on `crops`, uint8 `[3, 255, 255, 3]`, with `threads` threads."""
    import torch

    from rbsf.engine.cpu import available_isas
    from rbsf.engine.run import Engine
    from rbsf.export.pack import export_float_tracker
    from rbsf.models import build
    from rbsf.tracker.backbones import torch_backbone

    sides: dict[str, Timed] = {}
    for isa in available_isas():
        if isa != "numpy":
            engine = Engine(weights, threads=threads, isa=isa)
            sides[f"packed, {isa}"] = lambda engine=engine: engine(crops)  # type: ignore[misc]
    net = build("siamfc")
    modules = {"PyTorch float32": net, "PyTorch float32, compiled": torch.compile(net)}
    for name, module in modules.items():
        backbone = torch_backbone(module, "cpu")
        sides[name] = lambda backbone=backbone: _with_threads(torch, threads, backbone, crops)  # type: ignore[misc]
    return sides | onnx_sides(lambda: export_float_tracker(net, "siamfc"), crops, threads, folder)


def _with_threads(torch: Any, threads: int, backbone: Callable, crops: np.ndarray) -> None:
    torch.set_num_threads(threads)
    backbone(crops)


def updates(trackers: dict[str, Tracker], sequence: Sequence, frames: int) -> dict[str, float]:
    """Median milliseconds of each tracker's update; all update on a frame before the next frame."""
    import numpy as np
    from tqdm import tqdm

    times: dict[str, list[float]] = {name: [] for name in trackers}
    before = sequence.image(0)
    for tracker in trackers.values():
        tracker.init(before, sequence.boxes[0])
    for number in tqdm(range(1, min(frames, len(sequence))), desc="trackers", unit="frame"):
        image = sequence.image(number)
        for name, tracker in trackers.items():
            spent = time_after_pause(
                partial(tracker.update, image), partial(tracker.update, before)
            )
            times[name].append(spent)
        before = image
    return {name: float(np.median(values)) for name, values in times.items()}


def packed_trackers(weights: Path, threads: int) -> dict[str, Tracker]:
    """The packed tracker with three scales, as SiamFC was published, and with one scale."""
    from rbsf.engine.run import Engine
    from rbsf.tracker.siamfc import SiamFC, TrackerConfig

    engine = Engine(weights, threads=threads)
    published, fast = (
        read_constants(find_constants(name), TrackerConfig) for name in ("siamfc", "fast")
    )
    return {
        "packed RB-SF": SiamFC(engine),
        "packed RB-SF, as published": SiamFC(engine, published),
        "packed RB-SF, one scale": SiamFC(engine, fast),
    }


class Several:
    """Several trackers of one network on one target; they cost as much as `count` targets."""

    def __init__(self, network: Any, constants: Constants, count: int) -> None:
        from rbsf.tracker.loading import make_tracker

        self._trackers = [make_tracker(network, constants) for _ in range(count)]

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start all of them."""
        for tracker in self._trackers:
            tracker.init(image, box)

    def update(self, image: np.ndarray) -> Result:
        """Update all of them; returns the first one's result."""
        from rbsf.tracker.loading import update_all

        return update_all(self._trackers, image)[0]


def all_trackers(args: argparse.Namespace, threads: int) -> dict[str, Tracker]:
    """Every tracker that this environment has."""
    import torch

    from rbsf.eval.trackers import NetworkSpec, parse_tracker
    from rbsf.models import build
    from rbsf.tracker.backbones import torch_backbone
    from rbsf.tracker.loading import load_network
    from rbsf.tracker.siamfc import SiamFC

    torch.set_num_threads(threads)
    trackers = packed_trackers(args.weights, threads)
    trackers["float SiamFC, PyTorch"] = SiamFC(torch_backbone(build("siamfc"), "cpu"))
    specs = [parse_tracker(text) for text in ("OpenCV MIL=opencv:MIL", *args.tracker)]
    trackers |= {spec.label: spec.build(threads) for spec in specs}
    if not args.targets:
        return trackers
    networks = [spec for spec in specs if isinstance(spec, NetworkSpec)]
    for spec in (parse_tracker(f"packed RB-SF={args.weights}"), *networks):
        network = load_network(spec.files[0], spec.device, spec.precision, threads, spec.engine)
        for count in args.targets:
            name = f"{spec.label}, {count} targets"
            trackers[name] = Several(network, spec.config, count)
    return trackers


def beside_packed(names: list[str], weights: Path, threads: int) -> dict[str, Tracker]:
    """The packed trackers, and OpenCV's trackers with these names."""
    from rbsf.eval.trackers import parse_tracker

    trackers = packed_trackers(weights, threads)
    for name in names:
        trackers[name] = parse_tracker(f"opencv:{name}").build(threads)
    return trackers


def contrib(args: argparse.Namespace, threads: int) -> dict[str, float]:
    """The times of KCF and CSRT divided by that of the packed tracker in the same run, by name.

    Empty without --contrib. Raises ValueError if its Python fails.
    """
    if not args.contrib:
        return {}
    command = [str(args.contrib), __file__, "--trackers", "KCF", "CSRT"]
    command += ["--root", str(args.root), "--weights", str(args.weights)]
    command += ["--frames", str(args.frames), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{args.contrib} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {f"OpenCV {name}": found[name] / found["packed RB-SF"] for name in ("KCF", "CSRT")}


def start_up(weights: Path, engine: str) -> tuple[float, float]:
    """Seconds from the imports to a loaded tracker, and the peak memory in MB, medians of 3."""
    import numpy as np

    root = str(Path(__file__).resolve().parents[1])
    code = START_UP.format(root=root, weights=str(weights), engine=engine)
    command = [sys.executable, "-c", code]
    runs = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    seconds, memory = np.median(runs, axis=0)
    return float(seconds), float(memory)


def search_crops(weights: Path, sequence: Sequence) -> np.ndarray:
    """The crops of the second frame's update, uint8 `[3, 255, 255, 3]`."""
    from rbsf.tracker.siamfc import SiamFC

    tracker = packed_trackers(weights, 1)["packed RB-SF"]
    assert isinstance(tracker, SiamFC)
    tracker.init(sequence.image(0), sequence.boxes[0])
    return tracker.search_crops(sequence.image(min(1, len(sequence) - 1)))


def measure(args: argparse.Namespace, sequence: Sequence) -> Iterator[dict[str, Any]]:
    """Yield all figures so far, after each part.

    Their form is {"backbones": {threads: {name: ms}}, "updates": {threads: {name: ms}}, "start":
    {engine: (seconds, MB)}}.
    """
    found: dict[str, Any] = {"backbones": {}, "updates": {}, "start": {}}
    for threads in args.threads:
        rows = updates(all_trackers(args, threads), sequence, args.frames)
        found["updates"][threads] = rows
        yield found
        for name, ratio in contrib(args, threads).items():
            rows[name] = ratio * rows["packed RB-SF"]
        yield found
    if args.updates:
        return
    crops = search_crops(args.weights, sequence)
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.threads:
            sides = backbones(args.weights, crops, threads, Path(folder))
            found["backbones"][threads] = medians(sides, args.rounds)
            yield found
    found["start"] = {engine: start_up(args.weights, engine) for engine in ("packed", "torch")}
    yield found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse_args(argv)
    from rbsf.datasets.video.sequences import load_sequences
    from rbsf.system.environment import environment
    from rbsf.system.files import write_atomically

    sequence = load_sequences(args.root)[0]
    if args.trackers:
        trackers = beside_packed(args.trackers, args.weights, args.threads[0])
        print(json.dumps(updates(trackers, sequence, args.frames)))
        return 0
    if args.layers:
        print(layer_table(args.weights, search_crops(args.weights, sequence), args.rounds))
        return 0
    check_writable(args.out / "speed.json")
    for found in measure(args, sequence):  # a run that ends early keeps its results
        content = {"environment": environment(), **found}
        write_atomically(args.out / "speed.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomically(args.out / "speed.md", markdown(found).encode())
    print(markdown(found))
    write_atomically(args.out / "speed.png", lambda path: plot(found, path))
    return 0


if __name__ == "__main__":
    run(main)
