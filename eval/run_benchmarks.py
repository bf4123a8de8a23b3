"""Run trackers over a benchmark, score them, and write a report.

    python eval/run_benchmarks.py --dataset OTB100 --root data/OTB --tracker rbsf --tracker static

Results go to OUT/results/DATASET/TRACKER-DIGEST in the got10k toolkit's form; what is there is not run again, so an
interrupted run goes on where it stopped, and other weights, constants, precision, frames, first boxes, tracking code
or OpenCV are run anew. The report, OUT/reports/DATASET/report.html, .md and .json, says which part of the benchmark was
run; that of a folder goes to OUT/reports/folder-NAME. Without any data: --dataset synthetic. Boxes that exist already
are scored, without images, by --annotations and --results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.eval.passes import add_pass_flags
from rbsf.system.program import check_writable, positive_int, require, run
from rbsf.tracker.flags import add_constants_flag, add_network_flags, read_constants

if TYPE_CHECKING:  # these load OpenCV and more, which --help need not wait for
    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.benchmarks import Split
    from rbsf.eval.results import ResultStore
    from rbsf.eval.runner import Job
    from rbsf.eval.summary import Entrant
    from rbsf.eval.trackers import TrackerSpec

DATASETS = ("OTB100", "OTB50", "OTB2013", "UAV123", "UAV20L", "GOT-10k-val", "GOT-10k-test", "folder", "synthetic")
MAX_WORKERS = 8  # by default: each takes some 400 MB
SYNTHETIC = {"count": 8, "seed": 1000, "frames": 100}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--dataset",
        choices=DATASETS,
        required=True,
        help="folder: sequences in any layout, or videos with boxes; synthetic: videos made on the spot",
    )
    add(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of the data set; a part of its sequences will do (default: OTB, UAV123 or GOT-10k in the folder"
        " that the environment variable RBSF_DATA names, or in data/)",
    )
    add(
        "--tracker",
        action="append",
        metavar="[LABEL=]WHAT",
        help="rbsf (the shipped weights), static (a box that never moves), a .safetensors, .npz or .pth file,"
        " opencv:MIL, opencv:KCF, opencv:CSRT, opencv:Nano:BACKBONE.onnx,HEAD.onnx, opencv:Vit:MODEL.onnx,"
        " onnx:BACKBONE.onnx,HEAD.onnx (NanoTrack by its author's rules, in ONNX Runtime), or a class of your own with"
        " init(image, box) and update(image): FILE.py:CLASS; repeatable (default: rbsf)",
    )
    add("--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR", help="default: %(default)s")
    add("--sequences", nargs="+", action="extend", metavar="NAME", help="only these; repeatable")
    add_pass_flags(parser)
    add("--repeat", type=positive_int, default=1, metavar="N", help="runs of each tracker (default: 1)")
    add(
        "--workers",
        type=positive_int,
        metavar="N",
        help=f"processes (default: one a core, at most {MAX_WORKERS}); --threads is then for each, by default the"
        " cores divided by the processes",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the results that are there (default); --no-resume runs all again",
    )
    add("--shard", type=parse_shard, metavar="I/N", help="run only part I of N, for a cluster; no report")
    add("--reference", metavar="LABEL", help="tracker to measure gaps to (default: the first float SiamFC)")
    add("--results", action="append", default=[], metavar="LABEL=DIR", help="boxes to show too; repeatable")
    add("--annotations", type=Path, metavar="DIR", help="true boxes, a text file a sequence, in place of --root")
    add("--json", type=Path, metavar="FILE", help="a further copy of report.json")
    add_constants_flag(parser)
    add_network_flags(parser)
    return parser.parse_args(argv)


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``2/4`` as (2, 4)."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write I/N with I from 1 to N, such as 2/4")
    return int(first), int(count)


def find(args: argparse.Namespace) -> Split:
    """What of the benchmark is at hand, in passes where they are asked for; makes the synthetic one."""
    from rbsf.eval.passes import in_passes

    return in_passes(_find_whole(args), args.every, args.frames)


def _find_whole(args: argparse.Namespace) -> Split:
    from rbsf.eval.benchmarks import default_root, find_split, read_annotations

    if args.annotations:
        if args.root or args.tracker or args.shard or not args.results:
            raise ValueError(
                "--annotations scores boxes without images: give --results, and no --root, --tracker or --shard"
            )
        return read_annotations(args.dataset, args.annotations, args.sequences)
    if args.dataset == "synthetic":
        args.root = args.root or args.out / "synthetic"
        make_synthetic(args.root)
    args.root = args.root or default_root(args.dataset)
    return find_split(args.dataset, args.root, args.sequences)


def make_synthetic(root: Path) -> None:
    """Make the videos of the synthetic benchmark that are not there yet."""
    from rbsf.datasets.synthetic.videos import video_name, write_video

    for seed in range(SYNTHETIC["seed"], SYNTHETIC["seed"] + SYNTHETIC["count"]):
        path = root / f"{video_name(seed)}.mp4"
        if not path.with_suffix(".txt").is_file():  # written last
            write_video(path, seed, SYNTHETIC["frames"])


def read_specs(args: argparse.Namespace) -> list[TrackerSpec]:
    """The trackers to run. Raises ValueError or FileNotFoundError for an unknown one and for labels that clash."""
    from rbsf.eval.trackers import parse_tracker

    config = read_constants(args.constants)
    texts = args.tracker or ([] if args.annotations else ["rbsf"])
    specs = [parse_tracker(text, args.precision, args.device, config, args.engine) for text in texts]
    labels = Counter([spec.label for spec in specs] + [text.partition("=")[0] for text in args.results])
    for label, count in labels.items():
        if count > 1:
            raise ValueError(f"{count} trackers are called {label}; give them labels: --tracker LABEL=WHAT")
    return specs


def stores_of(args: argparse.Namespace, specs: list[TrackerSpec]) -> dict[TrackerSpec, ResultStore]:
    """Where each tracker's results lie."""
    from rbsf.eval.benchmarks import BENCHMARKS
    from rbsf.eval.metrics import GOT10K
    from rbsf.eval.results import ResultStore

    if not specs:  # --annotations: nothing is run, and there is no root
        return {}
    benchmark = BENCHMARKS[args.dataset]
    folder = args.out / "results" / (benchmark.folder or args.root.resolve().name)
    return {spec: ResultStore(folder / spec.key(), benchmark.protocol is GOT10K) for spec in specs}


def track(args: argparse.Namespace, sequences: list[Sequence], stores: dict[TrackerSpec, ResultStore]) -> list[Job]:
    """Run what has no result yet; returns all jobs of this shard."""
    from rbsf.eval.runner import Job, run_jobs
    from rbsf.system.environment import cores

    if args.shard:
        part, count = args.shard
        sequences = sorted(sequences, key=lambda s: (-len(s), s.name))[part - 1 :: count]
    jobs = [
        Job(spec, store, s, n + 1, store.folder.name)
        for spec, store in stores.items()
        for s in sequences
        for n in range(args.repeat)
    ]
    args.workers = args.workers or min(MAX_WORKERS, cores())
    args.threads = args.threads or max(1, cores() // args.workers)
    run_jobs(jobs, args.workers, args.threads, args.dataset, args.resume)
    return jobs


def entrants(args: argparse.Namespace, stores: dict[TrackerSpec, ResultStore]) -> list[Entrant]:
    """The trackers of the report that were run."""
    from rbsf.eval.summary import Entrant

    return [
        Entrant(
            spec.label,
            store.folder.name,
            [partial(store.load, number=n + 1) for n in range(args.repeat)],
            spec.size(),
            spec.arithmetic,
            store.failures(),
        )
        for spec, store in stores.items()
    ]


def shown(args: argparse.Namespace) -> list[Entrant]:
    """Those of --results. Raises ValueError or FileNotFoundError where there are none."""
    from rbsf.eval.results import read_result_folder
    from rbsf.eval.summary import Entrant

    found = []
    for text in args.results:
        label, given, folder = text.partition("=")
        if not (given and label and folder):
            raise ValueError(f"--results {text!r}: write LABEL=DIR")
        found.append(Entrant(label, Path(folder).name, [read_result_folder(Path(folder))]))
    return found


def choose_reference(args: argparse.Namespace, specs: list[TrackerSpec], labels: list[str]) -> str | None:
    """Label of the tracker that gaps are measured to: the given one, or the first float SiamFC but the subject."""
    if args.reference:
        if args.reference not in labels[1:]:
            others = ", ".join(labels[1:]) or "of which there is none"
            raise ValueError(f"--reference {args.reference}: give another of the trackers, {others}")
        return args.reference
    networks = [spec for spec in specs[1:] if spec.is_network and spec.engine == "torch"]
    if not networks:
        return None
    from rbsf.weights import load_weights  # loads PyTorch, which packed networks need not

    return next((spec.label for spec in networks if load_weights(spec.files[0])[1] == "siamfc"), None)


def write(args: argparse.Namespace, split: Split, found: list[Entrant], reference: str | None) -> dict[str, Any]:
    """Score all and write the report; returns it."""
    from rbsf.eval.attributes import attributes_of
    from rbsf.eval.report import write_report
    from rbsf.eval.strips import make_strips
    from rbsf.eval.summary import summarise
    from rbsf.system.environment import environment
    from rbsf.system.files import write_atomically

    about = environment() | {"workers": args.workers or 0, "threads": args.threads or 0}
    report = summarise(split, found, reference, about, attributes_of(args.dataset, args.root, split.sequences))
    strips = [] if args.annotations else make_strips(split.sequences, report, boxes_of(split, found))
    folder = args.out / "reports" / split.name
    write_report(report, folder, strips)
    print(f"report: {folder / 'report.html'}")
    if args.json:
        write_atomically(args.json, (json.dumps(report, indent=1) + "\n").encode())
    return report


def boxes_of(split: Split, found: list[Entrant]) -> dict[str, dict[str, Any]]:
    """Boxes of every tracker's first run: {label: {sequence: (N, 4)}}; without those that cannot be read."""

    def load(read: Callable[[Sequence], Any], sequence: Sequence) -> Any:
        try:
            return read(sequence)
        except ValueError:
            return None

    runs = {entrant.label: {s.name: load(entrant.runs[0], s) for s in split.sequences} for entrant in found}
    return {label: {name: run.boxes for name, run in rows.items() if run} for label, rows in runs.items()}


def submit(args: argparse.Namespace, split: Split, stores: dict[TrackerSpec, ResultStore]) -> None:
    """Write the archive for GOT-10k's server, if the whole test split was run."""
    from rbsf.eval.submission import SERVER, write_submission

    if split.missing or args.sequences or split.passes:
        print(f"no submission to GOT-10k's server: {split.title}")
        return
    for store in stores.values():
        path = store.folder.with_name(f"{store.folder.name}.zip")
        write_submission(path, store, split.sequences, args.repeat)
        print(f"submission: {path}; how to hand it in: {SERVER}")


def failures(report: dict[str, Any]) -> list[str]:
    """Everything that went wrong, a line each."""
    lines = [f"{name}: {why}" for name, why in report["unreadable"].items()]
    for row in report["trackers"]:
        lines += [f"{row['label']}: {name}: {why}" for name, why in row["failed"].items()]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Find, run, score, report. Returns 1 if a sequence could not be read, tracked or scored."""
    args = parse_args(argv)
    require("eval")
    for path in (args.out / "report", args.json):
        if path:
            check_writable(path)
    split = find(args)
    names = ", ".join(split.missing[:5]) + ", ..." * (len(split.missing) > 5)
    print(split.title + (f"; missing: {names}" if names else ""))
    specs = read_specs(args)
    others = shown(args)  # before the work: what is wrong with the command line must not wait for it
    reference = choose_reference(args, specs, [s.label for s in specs] + [entrant.label for entrant in others])
    stores = stores_of(args, specs)
    jobs = track(args, split.sequences, stores) if specs else []
    if args.shard:
        return finish_shard(args, jobs)
    report = write(args, split, [*entrants(args, stores), *others], reference)
    from rbsf.eval.report import main_table

    print(main_table(report))
    lines = failures(report)
    for line in lines:
        print(f"failed: {line}", file=sys.stderr)
    if args.dataset == "GOT-10k-test" and not lines:
        submit(args, split, stores)
    return 1 if lines else 0


def finish_shard(args: argparse.Namespace, jobs: list[Job]) -> int:
    """Say how a shard went. Returns 1 if a sequence failed."""
    from rbsf.eval.runner import pending

    left = len(pending(jobs))
    print(f"part {args.shard[0]} of {args.shard[1]}: {len(jobs) - left} of {len(jobs)} sequences are done")
    print("when all parts are, run the same command without --shard for the report")
    return 1 if left else 0


if __name__ == "__main__":
    run(main)
