"""The packed engine against PyTorch, ONNX Runtime and OpenCV's trackers: milliseconds and their
ratios, in one run.

python benchmarks/engine_speed.py --root OTB/David --tracker v3=onnx:BACKBONE.onnx,HEAD.onnx --out
runs/speed

Every round times each side once, one after the other, each after a pause and untimed calls, so that
whatever else the machine does falls on all; the figures are medians over rounds. Backbones get the
three crops of one update; trackers follow one target over the same frames, and their untimed calls
are on the frame before. The float network is SiamFC's AlexNet with random weights, which cost what
trained ones do. --layers times the packed network's layers alone, on one thread, and says what
share the binary ones have of what this core could do at most: one `vpopcntq` of 512 bits a cycle,
its rate taken in each round. KCF and CSRT, which OpenCV 5 has not, are timed by the Python of
--contrib, an environment with opencv-contrib-python below 5, beside the packed tracker. Start-up
and peak memory (Linux) are those of a process that loads a tracker and follows a target for 20
frames. Writes speed.json, speed.md and speed.png to --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import check_writable, positive_int, run
from rbsf.tracker.flags import add_weights_flag, read_constants

if TYPE_CHECKING:
    import numpy as np

    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.trackers import Tracker, TrackerSpec
    from rbsf.tracker.siamfc import Result

Timed = Callable[[], object]
WARM_UP = 3  # rounds
PAUSE = 0.2  # seconds before each side: the threads of the one before spin that long, and would take its cores
WAKE = 0.1  # seconds of untimed calls after it: a sleeping core takes that long to be of use
START_UP = """
import re, sys, time
start = time.perf_counter()
sys.path.insert(0, {root!r})
import numpy as np
from rbsf.tracker.backbones import load_backbone
from rbsf.tracker.siamfc import SiamFC
tracker = SiamFC(load_backbone({weights!r}, engine={engine!r}))
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
    add_weights_flag(parser)
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


def medians(sides: dict[str, Timed], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side over interleaved rounds."""
    import numpy as np
    from tqdm import tqdm

    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in tqdm(range(WARM_UP + rounds), desc="backbones", unit="round"):
        for name, side in sides.items():
            time.sleep(PAUSE)
            _wake(side)
            start = time.perf_counter()
            side()
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def _wake(side: Timed) -> None:
    begin = time.perf_counter()
    while time.perf_counter() - begin < WAKE:
        side()


def backbones(weights: Path, crops: np.ndarray, threads: int, folder: Path) -> dict[str, Timed]:
    """A call of every backbone on ``crops``, uint8 (3, 255, 255, 3), with so many threads."""
    import torch

    from rbsf.engine.cpu import available_isas
    from rbsf.engine.run import Engine
    from rbsf.models import build
    from rbsf.tracker.backbones import torch_backbone

    sides: dict[str, Timed] = {}
    for isa in available_isas():
        if isa != "numpy":
            engine = Engine(weights, threads=threads, isa=isa)
            sides[f"packed, {isa}"] = lambda engine=engine: engine(crops)  # type: ignore[misc]
    net = build("siamfc")
    for name, module in (
        ("PyTorch float32", net),
        ("PyTorch float32, compiled", torch.compile(net)),
    ):
        backbone = torch_backbone(module, "cpu")
        sides[name] = lambda backbone=backbone: _with_threads(torch, threads, backbone, crops)  # type: ignore[misc]
    return sides | onnx_sessions(net, crops, threads, folder)


def _with_threads(torch: Any, threads: int, backbone: Callable, crops: np.ndarray) -> None:
    torch.set_num_threads(threads)
    backbone(crops)


def onnx_sessions(net: Any, crops: np.ndarray, threads: int, folder: Path) -> dict[str, Timed]:
    """ONNX Runtime on the float network, also in 8 bits (static, QDQ, per channel); none where it
    is not installed.
    """
    try:
        import onnxruntime as ort
        from onnxruntime.quantization import CalibrationDataReader, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        return {}
    import onnx

    from rbsf.export.onnx import network_graph
    from rbsf.export.pack import export_float_tracker

    pixels = crops.transpose(0, 3, 1, 2).astype("float32")

    class Crops(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator[dict] = iter([{"image": pixels}])

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    files = {name: folder / f"{name}.onnx" for name in ("float32", "prepared", "int8")}
    if not files["int8"].is_file():
        onnx.save(network_graph(export_float_tracker(net, "siamfc").packed), str(files["float32"]))
        quant_pre_process(str(files["float32"]), str(files["prepared"]))
        quantize_static(str(files["prepared"]), str(files["int8"]), Crops(), per_channel=True)
    sides: dict[str, Timed] = {}
    for name in ("float32", "int8"):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(
            str(files[name]), options, providers=["CPUExecutionProvider"]
        )
        sides[f"ONNX Runtime {name}"] = lambda session=session: session.run(None, {"image": pixels})  # type: ignore[misc]
    return sides


def layers(weights: Path, crops: np.ndarray, rounds: int) -> str:
    """A table, for crops uint8 (N, S, S, 3): milliseconds of each layer and of the binary ones on
    one thread, medians, and their share of the limit of `vpopcntq`, alone and with an XOR and a sum
    each.
    """
    import numpy as np
    from tqdm import tqdm

    from rbsf.engine import _native  # type: ignore[attr-defined]
    from rbsf.engine.cpu import available_isas
    from rbsf.engine.layout import products
    from rbsf.engine.run import Engine

    engines = {isa: Engine(weights, isa=isa) for isa in available_isas() if isa != "numpy"}
    times: dict[str, list[list[float]]] = {isa: [] for isa in engines}
    rates = [(np.nan, np.nan)]
    for _ in tqdm(range(rounds), desc="layers", unit="round"):
        for isa, engine in engines.items():
            _wake(lambda engine=engine: engine(crops))  # type: ignore[misc]
            times[isa].append([1000 * seconds for seconds in engine.node_seconds(crops).values()])
        if "avx512" in engines:
            rates.append(_native.popcount_rates())
    model = next(iter(engines.values())).model
    maps = model.maps_for(*crops.shape[1:3])
    convs = [node for node in model.nodes if node.op in ("conv_u8", "conv_bits")]
    binary = sum(len(crops) * products(node) * prod(maps[node.name].shape) for node in convs[1:])
    alone, whole = 512 * np.nanmedian(rates, axis=0) if len(rates) > 1 else rates[0]
    rows = [f"| layers of {len(crops)} crops, ms | " + " | ".join(node.name for node in convs)]
    rows[0] += (
        " | binary ones | 1e12 products/s | of the limit | with XOR and sum |\n|---"
        + "|---:" * (len(convs) + 4)
    )
    for isa, found in times.items():
        each = np.median(found, axis=0)
        rate = binary / each[1:].sum() * 1000
        cells = [*(f"{ms:.2f}" for ms in [*each, each[1:].sum()]), f"{rate / 1e12:.2f}"]
        rows.append(
            f"| {isa} | " + " | ".join([*cells, f"{rate / alone:.0%}", f"{rate / whole:.0%}"])
        )
    return " |\n".join(rows) + " |\n"


def updates(trackers: dict[str, Tracker], sequence: Sequence, frames: int) -> dict[str, float]:
    """Median milliseconds of each tracker's update, all on one frame before the next."""
    import numpy as np
    from tqdm import tqdm

    times: dict[str, list[float]] = {name: [] for name in trackers}
    before = sequence.image(0)
    for tracker in trackers.values():
        tracker.init(before, sequence.boxes[0])
    for number in tqdm(range(1, min(frames, len(sequence))), desc="trackers", unit="frame"):
        image = sequence.image(number)
        for name, tracker in trackers.items():
            time.sleep(PAUSE)
            _wake(lambda tracker=tracker, image=before: tracker.update(image))  # type: ignore[misc]
            start = time.perf_counter()
            tracker.update(image)
            times[name].append(1000 * (time.perf_counter() - start))
        before = image
    return {name: float(np.median(values)) for name, values in times.items()}


def packed_trackers(weights: Path, threads: int) -> dict[str, Tracker]:
    """The packed tracker with three scales, as SiamFC was published, and with one scale."""
    from rbsf.engine.run import Engine
    from rbsf.tracker.siamfc import SiamFC

    engine = Engine(weights, threads=threads)
    folder = Path(__file__).parents[1] / "configs" / "track"
    files = {
        "": None,
        ", as published": folder / "siamfc.yaml",
        ", one scale": folder / "fast.yaml",
    }
    return {
        f"packed RB-SF{name}": SiamFC(engine, read_constants(path)) for name, path in files.items()
    }


class Several:
    """Trackers of one network, all on one target: what so many targets cost."""

    def __init__(self, spec: TrackerSpec, threads: int, count: int) -> None:
        from rbsf.tracker.loading import load_network, make_tracker

        network = load_network(spec.files[0], spec.device, spec.precision, threads, spec.engine)
        self._trackers = [make_tracker(network, spec.config) for _ in range(count)]

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start all of them."""
        for tracker in self._trackers:
            tracker.init(image, box)

    def update(self, image: np.ndarray) -> Result:
        """Update all of them; the first one's result."""
        from rbsf.tracker.loading import update_all

        return update_all(self._trackers, image)[0]


def all_trackers(args: argparse.Namespace, threads: int) -> dict[str, Tracker]:
    """Every tracker that this environment has."""
    import torch

    from rbsf.eval.trackers import parse_tracker
    from rbsf.models import build
    from rbsf.tracker.backbones import torch_backbone
    from rbsf.tracker.siamfc import SiamFC

    torch.set_num_threads(threads)
    trackers = packed_trackers(args.weights, threads)
    trackers["float SiamFC, PyTorch"] = SiamFC(torch_backbone(build("siamfc"), "cpu"))
    specs = [parse_tracker(text) for text in ("OpenCV MIL=opencv:MIL", *args.tracker)]
    trackers |= {spec.label: spec.build(threads) for spec in specs}
    own = [
        parse_tracker(f"packed RB-SF={args.weights}"),
        *(spec for spec in specs if spec.is_network),
    ]
    several = [(spec, count) for spec in own for count in args.targets]
    return trackers | {
        f"{spec.label}, {n} targets": Several(spec, threads, n) for spec, n in several
    }


def contrib(args: argparse.Namespace, threads: int) -> dict[str, float]:
    """KCF and CSRT in units of the packed tracker beside them, {name: their time over its}; none
    without --contrib.
    """
    if not args.contrib:
        return {}
    command = [
        str(args.contrib),
        __file__,
        "--root",
        str(args.root),
        "--weights",
        str(args.weights),
    ]
    command += [
        "--frames",
        str(args.frames),
        "--threads",
        str(threads),
        "--trackers",
        "KCF",
        "CSRT",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{args.contrib} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {f"OpenCV {name}": found[name] / found["packed RB-SF"] for name in ("KCF", "CSRT")}


def start_up(weights: Path, engine: str) -> tuple[float, float]:
    """Seconds from the start of the imports to a loaded tracker, and the peak of memory in MB,
    medians of 3.
    """
    import numpy as np

    root = str(Path(__file__).resolve().parents[1])
    code = START_UP.format(root=root, weights=str(weights), engine=engine)
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, memory = np.median([[float(v) for v in done.stdout.split()] for done in runs], axis=0)
    return float(seconds), float(memory)


def search_crops(weights: Path, sequence: Sequence) -> np.ndarray:
    """The crops of the second frame's update, uint8 (3, 255, 255, 3)."""
    from rbsf.tracker.siamfc import SiamFC

    tracker = packed_trackers(weights, 1)["packed RB-SF"]
    assert isinstance(tracker, SiamFC)
    tracker.init(sequence.image(0), sequence.boxes[0])
    return tracker.search_crops(sequence.image(min(1, len(sequence) - 1)))


def measure(args: argparse.Namespace, sequence: Sequence) -> Iterator[dict[str, Any]]:
    """All figures so far, after each part: {"backbones": {threads: {name: ms}}, "updates":
    likewise, "start": {engine: [seconds, MB]}}.
    """
    found: dict[str, Any] = {"backbones": {}, "updates": {}, "start": {}}
    for threads in args.threads:
        rows = updates(all_trackers(args, threads), sequence, args.frames)
        found["updates"][threads] = rows
        yield found
        rows |= {
            name: ratio * rows["packed RB-SF"] for name, ratio in contrib(args, threads).items()
        }
        yield found
    if args.updates:
        return
    crops = search_crops(args.weights, sequence)
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.threads:
            found["backbones"][threads] = medians(
                backbones(args.weights, crops, threads, Path(folder)), args.rounds
            )
            yield found
    found["start"] = {engine: start_up(args.weights, engine) for engine in ("packed", "torch")}
    yield found


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables; ratios are to the packed engine, of its best instruction set."""
    parts = []
    for title, key, first in (
        ("backbone, 3 crops of 255 x 255", "backbones", None),
        ("update, per frame", "updates", "packed RB-SF"),
    ):
        for threads, rows in found[key].items():
            base = rows[first] if first else next(iter(rows.values()))
            parts.append(f"| {title}, threads: {threads} | ms | x packed |\n|---|---:|---:|")
            parts[-1] += "".join(
                f"\n| {name} | {ms:.2f} | {ms / base:.2f} |" for name, ms in rows.items()
            )
    if found["start"]:
        parts.append("| a tracking process | start-up, s | peak memory, MB |\n|---|---:|---:|")
        parts[-1] += "".join(
            f"\n| {name} | {s:.2f} | {mb:.0f} |" for name, (s, mb) in found["start"].items()
        )
    return "\n\n".join(parts) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of all medians, a panel for backbones and one for trackers, where they were timed."""
    from matplotlib.figure import Figure

    titles = {"backbones": "backbone, 3 crops of 255 x 255", "updates": "update, per frame"}
    panels = [key for key in titles if found[key]]
    figure = Figure(figsize=(5.5 * len(panels), 5.5), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for offset, (threads, rows) in enumerate(found[key].items()):
            height = 0.8 / len(found[key])
            places = [i + offset * height for i in range(len(rows))]
            bars = axes.barh(
                places, list(rows.values()), height * 0.92, label=f"threads: {threads}"
            )
            axes.bar_label(bars, fmt=" %.1f", fontsize=7)
        axes.set_yticks([i + 0.2 for i in range(len(rows))], list(rows))
        axes.invert_yaxis()
        longest = max(max(rows.values()) for rows in found[key].values())
        axes.set(
            title=titles[key],
            xlabel="milliseconds (log scale)",
            xscale="log",
            xlim=(1, 2 * longest),
        )
        axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse_args(argv)
    from rbsf.datasets.video.sequences import load_sequences
    from rbsf.system.environment import environment
    from rbsf.system.files import write_atomically

    sequence = load_sequences(args.root)[0]
    if args.trackers:
        from rbsf.eval.trackers import parse_tracker

        trackers = {
            name: parse_tracker(f"opencv:{name}").build(args.threads[0]) for name in args.trackers
        }
        print(
            json.dumps(
                updates(
                    packed_trackers(args.weights, args.threads[0]) | trackers, sequence, args.frames
                )
            )
        )
        return 0
    if args.layers:
        print(layers(args.weights, search_crops(args.weights, sequence), args.rounds))
        return 0
    check_writable(args.out / "speed.json")
    for found in measure(args, sequence):  # a run that ends early keeps what it has
        content = {"environment": environment(), **found}
        write_atomically(args.out / "speed.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomically(args.out / "speed.md", markdown(found).encode())
    print(markdown(found))
    write_atomically(args.out / "speed.png", lambda path: plot(found, path))
    return 0


if __name__ == "__main__":
    run(main)
