"""Run trackers over a benchmark and print their scores.

    python eval/run_benchmarks.py --dataset OTB100 --root data/OTB --tracker rbsf --tracker static

Boxes are kept in OUT/DATASET/TRACKER-DIGEST/SEQUENCE.txt (x,y,w,h, 0-based), so an interrupted run goes on
where it stopped; other weights, constants, precision, frames or first boxes are run anew. Scores are one-pass,
without the first frame and frames without target, means over sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder, installed or not

from rbsf.files import write_atomically
from tools.cli import DEFAULT_WEIGHTS, add_network_flags, positive_int, run

if TYPE_CHECKING:
    from datasets.sequences import Sequence
    from eval.runner import TrackerSpec

OTB50 = """
    Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark CarScale ClifBar
    Couple Crowds David Deer Diving DragonBaby Dudek Football Freeman4 Girl Human3 Human4 Human6 Human9
    Ironman Jump Jumping Liquor Matrix MotorRolling Panda RedTeam Shaking Singer2 Skating1 Skating2 Skiing
    Soccer Surfer Sylvester Tiger2 Trellis Walking Walking2 Woman
"""


@dataclass(frozen=True)
class Benchmark:
    """A published set of sequences: its layout in ``datasets.sequences``, and its size."""

    layout: str | None
    targets: int | None = None
    names: tuple[str, ...] | None = None  # None = every sequence found


BENCHMARKS = {
    "OTB100": Benchmark("otb", 100),
    "OTB50": Benchmark("otb", 50, tuple(OTB50.split())),
    "UAV123": Benchmark("uav123", 123),
    "GOT-10k": Benchmark("got10k"),
    "folder": Benchmark(None),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", choices=BENCHMARKS, required=True, help="'folder' takes any layout that is recognised"
    )
    parser.add_argument(
        "--root", type=Path, required=True, help="folder of the data set; a part of its sequences will do"
    )
    parser.add_argument(
        "--tracker",
        action="append",
        metavar="rbsf|static|FILE",
        help="rbsf = weights/rbsf.safetensors, static = a box that never moves, or a .safetensors, .npz or"
        " .pth file; repeatable (default: rbsf)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), help="results folder (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        metavar="N",
        help="processes, each of one thread (default: 1)",
    )
    add_network_flags(parser)
    return parser.parse_args(argv)


def tracker_spec(text: str, precision: str, device: str) -> TrackerSpec:
    """Turn a --tracker into what the runner takes. Raises FileNotFoundError for a missing file."""
    from eval.runner import TrackerSpec

    if text == "static":
        return TrackerSpec(None)
    path = DEFAULT_WEIGHTS if text == "rbsf" else Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"tracker {text!r}: no weights file {path}; give rbsf, static or a weights file")
    return TrackerSpec(path, precision, device)


def find_sequences(dataset: str, root: Path) -> list[Sequence]:
    """Load the benchmark's sequences below ``root``; raises ValueError where there is none."""
    from datasets.sequences import load_sequences

    benchmark = BENCHMARKS[dataset]
    sequences = load_sequences(root, benchmark.layout)
    if benchmark.names:  # the second target of a folder is named Skating2.2 or Skating2-2
        sequences = [s for s in sequences if s.name.replace("-", ".").partition(".")[0] in benchmark.names]
        if not sequences:
            raise ValueError(f"{root} holds no sequence of {dataset}, such as {benchmark.names[0]}")
    return sequences


def describe(dataset: str, root: Path, sequences: list[Sequence]) -> str:
    """One line that says what is run, split included, and how much of the benchmark was there."""
    whole = BENCHMARKS[dataset].targets
    part = f" of {whole} (a part: not comparable to published numbers)" if whole and len(sequences) < whole else ""
    return f"{dataset} in {root}: {len(sequences)}{part} sequences, {sum(map(len, sequences))} frames"


def evaluate(spec: TrackerSpec, sequences: list[Sequence], folder: Path, workers: int, threads: int) -> dict[str, Any]:
    """Run one tracker, or take up its run, and return its scores as plain values for results.json."""
    from eval.metrics import mean_scores
    from eval.runner import run_tracker, score_runs

    failed = run_tracker(spec, sequences, folder, workers, threads)
    scores, fps = score_runs(sequences, folder)
    return {
        "tracker": folder.name,
        "boxes": str(folder),
        "precision_of_network": spec.precision,
        "mean": asdict(mean_scores(scores.values())) if scores else None,
        "fps": fps,
        "sequences": {name: asdict(score) for name, score in scores.items()},
        "failed": failed,
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """Lay the trackers' mean scores out as a table."""
    width = max(24, *(len(row["tracker"]) for row in rows))
    lines = [f"{'tracker':{width}} {'AUC':>7} {'prec20':>7} {'AO':>7} {'SR0.5':>7} {'fps':>7}"]
    for row in rows:
        mean = row["mean"] or {}
        cells = [f"{mean.get(key, float('nan')):7.3f}" for key in ("auc", "precision", "ao", "sr50")]
        lines.append(" ".join([f"{row['tracker']:{width}}", *cells, f"{row['fps']:7.1f}"]))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run every tracker, print the table, write OUT/DATASET/results.json. Returns 1 if a sequence failed."""
    args = parse_args(argv)
    specs = [tracker_spec(text, args.precision, args.device) for text in args.tracker or ["rbsf"]]
    sequences = find_sequences(args.dataset, args.root)
    title = describe(args.dataset, args.root, sequences)
    print(title)
    folder = args.out / (args.root.resolve().name if args.dataset == "folder" else args.dataset)
    rows = []
    for spec in specs:
        rows.append(evaluate(spec, sequences, folder / spec.folder_name(), args.workers, args.threads or 1))
        write_atomically(
            folder / "results.json",
            (json.dumps({"dataset": title, "trackers": rows}, indent=1) + "\n").encode(),
        )
    print(format_table(rows))
    failures = [f"{row['tracker']}: {name}: {why}" for row in rows for name, why in row["failed"].items()]
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run(main)
