"""Run trackers over a benchmark, score them, and write a report.

Results go to OUT/results/DATASET/TRACKER-DIGEST in the got10k toolkit's format. Sequences with a
result are not run again, so an interrupted run goes on where it stopped. If weights, constants,
precision, frames, first boxes, tracking code or OpenCV change, they are run anew.

The report is OUT/reports/DATASET/report.html, .md and .json; that of a folder goes to
OUT/reports/folder-NAME. It says which part of the benchmark was run.

--dataset synthetic needs no data. With --annotations and --results, boxes that exist already are
scored without images.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.eval import MAX_WORKERS
from rbsf.eval.passes import add_pass_flags
from rbsf.shipped import DEFAULT
from rbsf.system.flags import make_parser
from rbsf.system.lock import locked
from rbsf.system.program import check_writable, positive_int, process_count, require, run
from rbsf.tracker.flags import (
    add_constants_flag,
    add_network_flags,
    add_redetect_flag,
    default_tracker,
)

if TYPE_CHECKING:  # these load OpenCV, which would slow --help down
    from rbsf.eval.benchmarks import Split
    from rbsf.eval.evaluation import Benchmark
    from rbsf.eval.trackers import TrackerSpec

EXAMPLES = """
--dataset OTB100 --root data/OTB --tracker rbsf --tracker static
--dataset synthetic --tracker rbsf --tracker opencv:MIL
"""
DATASETS = (
    "OTB100",
    "OTB50",
    "OTB2013",
    "UAV123",
    "UAV20L",
    "GOT-10k-val",
    "GOT-10k-test",
    "folder",
    "synthetic",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES)
    add = first.add_argument
    add(
        "--dataset",
        choices=DATASETS,
        required=True,
        help="Run over this data set; folder is any sequences, or videos with boxes; synthetic is"
        " videos that are made on the spot",
    )
    add(
        "--root",
        type=Path,
        metavar="PATH",
        help="Read the data set from this folder; a part of its sequences will do (default: OTB,"
        " UAV123 or GOT-10k in the folder that the environment variable RBSF_DATA names, or in"
        " data/)",
    )
    add(
        "--tracker",
        action="append",
        metavar="[LABEL=]WHAT",
        help="Run this tracker: rbsf, rbsf2 or siamfc (shipped weights), static (a box that never"
        " moves), a .safetensors, .npz or .pth file, opencv:MIL, opencv:KCF, opencv:CSRT,"
        " opencv:Nano:BACKBONE.onnx,HEAD.onnx, opencv:Vit:MODEL.onnx,"
        " onnx:BACKBONE.onnx,HEAD.onnx (NanoTrack by its author's rules, in ONNX Runtime), or"
        " FILE.py:CLASS, a class of your own with init(image, box) and update(image), which get RGB"
        " images; repeatable"
        f" (default: {DEFAULT})",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/benchmarks"),
        metavar="PATH",
        help="Write results and report to this folder",
    )
    add(
        "--sequences",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="Run over these sequences alone; repeatable (default: all)",
    )
    add(
        "--workers",
        type=process_count,
        metavar="N",
        help=f"Track in N processes (default: one for each core, at most {MAX_WORKERS}). Each has"
        " --threads threads, by default the number of cores divided by N",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="Keep the results that are there already; --no-resume runs all anew"
        " (default: --resume)",
    )
    parser.set_defaults(resume=True)
    add("--json", type=Path, metavar="PATH", help="Write report.json to this file too")
    passes = add_pass_flags(parser)
    passes.add_argument(
        "--repeat",
        type=positive_int,
        default=1,
        metavar="N",
        help="Run each tracker N times, which shows how much its scores vary",
    )
    passes.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="Run part I of N alone, on one machine of several, and write no report (default: all)",
    )
    add = parser.add_argument_group("what the report shows").add_argument
    add(
        "--results",
        action="append",
        default=[],
        metavar="LABEL=PATH",
        help="Score the boxes in this folder too, under this label; repeatable",
    )
    add(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="Score --results without images, by the true boxes in this folder, a text file for"
        " each sequence",
    )
    add(
        "--reference",
        metavar="LABEL",
        help="Measure the gaps of all trackers to this one (default: the first float SiamFC)",
    )
    followed = parser.add_argument_group("how targets are followed")
    add_constants_flag(followed, choose=True)
    add_redetect_flag(followed)
    add_network_flags(parser)
    return parser.parse_args(argv)


def parse_shard(text: str) -> tuple[int, int]:
    """Read `2/4` as (2, 4)."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no part; write I/N with I from 1 to N, such as 2/4"
        )
    return int(first), int(count)


def read_benchmark(args: argparse.Namespace) -> Benchmark:
    """The benchmark that the command line asks for.

    Raises ValueError or FileNotFoundError for data that are not there, an unknown tracker, and
    labels that clash.
    """
    from rbsf.eval.evaluation import Benchmark, given_results
    from rbsf.system.text import listed

    specs = tuple(read_specs(args))
    root, split = find_sequences(args)
    missing = f"; missing: {listed(split.missing, 5)}" if split.missing else ""
    print(f"{split.title}{missing}")
    return Benchmark(
        split,
        root,
        specs=specs,
        out=args.out,
        repeat=args.repeat,
        workers=args.workers or 0,
        threads=args.threads or 0,
        resume=args.resume,
        shard=args.shard,
        others=given_results(args.results, split),
        reference=args.reference,
        whole=not args.sequences,
    )


def find_sequences(args: argparse.Namespace) -> tuple[Path | None, Split]:
    """The folder of the sequences, None with --annotations, and the sequences."""
    from rbsf.eval.benchmarks import read_annotations
    from rbsf.eval.evaluation import open_split
    from rbsf.eval.passes import in_passes

    if not args.annotations:
        return open_split(
            args.dataset, args.root, args.out, args.sequences, args.every, args.frames
        )
    if args.root or args.tracker or args.shard or not args.results:
        raise ValueError(
            "--annotations scores boxes without images:"
            " give --results, and no --root, --tracker or --shard"
        )
    split = read_annotations(args.dataset, args.annotations, args.sequences)
    return None, in_passes(split, args.every, args.frames)


def read_specs(args: argparse.Namespace) -> list[TrackerSpec]:
    """The trackers to run; raises ValueError or FileNotFoundError for an unknown one."""
    from rbsf.eval.trackers import parse_trackers

    if args.annotations:  # scores results that are there
        return []
    return parse_trackers(args.tracker or [default_tracker(args.constants)], args)


def main(argv: list[str] | None = None) -> int:
    """Find, run, score, report. Returns 1 if a sequence could not be read, tracked or scored."""
    args = parse_args(argv)
    require("eval")
    check_writable(args.out / "report")
    if args.json:
        check_writable(args.json)
    with locked(args.json) if args.json else nullcontext():
        # Faults in the command line are found here, before the work.
        benchmark = read_benchmark(args)
        left = benchmark.run() if benchmark.specs else 0
        if benchmark.shard:
            return finish_shard(benchmark, left)
        return finish(benchmark, args)


def finish(benchmark: Benchmark, args: argparse.Namespace) -> int:
    """Write the report and print its scores. Returns 1 if anything went wrong."""
    from rbsf.eval.report import failures, main_table, to_json
    from rbsf.system.files import write_atomically

    report = benchmark.report()
    if args.json:
        write_atomically(args.json, to_json(report).encode())
    print(main_table(report))
    lines = failures(report)
    for line in lines:
        print(f"failed: {line}", file=sys.stderr)
    if args.dataset == "GOT-10k-test" and not lines:
        benchmark.submit()
    return 1 if lines else 0


def finish_shard(benchmark: Benchmark, left: int) -> int:
    """Say how a shard went. Returns 1 if a sequence failed."""
    part, parts = benchmark.shard or (1, 1)
    count = len(benchmark.jobs())
    print(f"part {part} of {parts}: {count - left} of {count} sequences are done")
    print("when all parts are, run the same command without --shard for the report")
    return 1 if left else 0


if __name__ == "__main__":
    run(main)
