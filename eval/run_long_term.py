"""Score trackers on targets that are absent for a time: lost, noticed, found again.

By default departures are made from the sequences: the camera turns away from the target and
returns, a pillar hides the target, or the camera jumps. With --as-they-are the sequences are
tracked unchanged, and the target is absent in the frames that have no box. The table goes to
OUT/long.md, the figures to OUT/long.json, and OUT/reliability.png shows how well scores match the
probabilities that they stand for. All three are written anew after each tracker.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.environment import cores
from rbsf.system.flags import make_parser
from rbsf.system.program import check_writable, require, run, seed_number
from rbsf.system.text import one_line
from rbsf.tracker.flags import (
    add_constants_flag,
    add_network_flags,
    add_redetect_flag,
)

if TYPE_CHECKING:  # these load OpenCV, which would slow --help down
    from rbsf.datasets.video.sequences import Sequence
    from rbsf.eval.long_term import LongRun, LongScores
    from rbsf.eval.trackers import Tracker

    Runs = list[tuple[LongRun, Sequence]]  # of one tracker

EXAMPLE = "--root data/GOT-10k/val --tracker rbsf"
KINDS = ("leave", "hide", "cut")
COLUMNS = {  # of the table: the field of `LongScores` under each head
    "F": "f",
    "precision": "precision",
    "recall": "recall",
    "noticed": "noticed",
    "false alarms": "false_alarms",
    "found": "found",
    "overlap after return": "after",
    "jumps": "jumps",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--root",
        type=Path,
        required=True,
        metavar="PATH",
        help="Track the sequences in this folder, in any layout",
    )
    add(
        "--tracker",
        action="append",
        required=True,
        metavar="[LABEL=]WHAT",
        help="Run this tracker, named as for eval/run_benchmarks.py; repeatable",
    )
    add(
        "--sequences",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="Track these sequences alone; repeatable (default: all)",
    )
    add(
        "--departures",
        nargs="+",
        choices=KINDS,
        default=[*KINDS],
        help="Make departures of these kinds: the camera turns away, a pillar hides the target, or"
        " the camera jumps (default: all three)",
    )
    add(
        "--as-they-are",
        action="store_true",
        help="Make no departures, and take frames without a box for those without the target",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="Draw the departures by this number",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/long"),
        metavar="PATH",
        help="Write the results to this folder",
    )
    followed = parser.add_argument_group("how targets are followed")
    add_constants_flag(followed)
    add_redetect_flag(followed)
    add_network_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Track, score, print and write a table; 0 when done, 1 where a sequence failed."""
    args = parse_args(argv)
    require("eval")
    from rbsf.system.lock import locked

    check_writable(args.out / "long.json")
    with locked(args.out):
        return run_all(args)


def run_all(args: argparse.Namespace) -> int:
    """All of `main` that writes to --out."""
    trackers = read_trackers(args)
    broken: dict[str, str] = {}
    sequences = find_sequences(args, broken)
    runs: dict[str, Runs] = {}
    failed = [f"no tracker is scored on {name}: {fault}" for name, fault in broken.items()]
    for label, tracker in trackers.items():
        tracked, faults = track_all(tracker, sequences, label)
        failed += faults
        if tracked:
            runs[label] = tracked
            table = write_results(args.out, runs)
    if not runs:
        raise ValueError(f"no sequence could be tracked: {failed[0]}")
    print(table)
    for fault in failed:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if failed else 0


def read_trackers(args: argparse.Namespace) -> dict[str, Tracker]:
    """The trackers by their labels. Raises ValueError or OSError for one that cannot be loaded."""
    from rbsf.eval.report_tables import with_constants
    from rbsf.eval.trackers import check_labels, parse_trackers

    specs = parse_trackers(args.tracker, args)
    check_labels(spec.label for spec in specs)
    threads = args.threads or cores()
    return {with_constants(spec.label, spec.constants): spec.build(threads) for spec in specs}


def write_results(out: Path, runs: dict[str, Runs]) -> str:
    """Write the table, the figures and the picture of all trackers so far; returns the table."""
    from rbsf.eval.long_term import score_long, scores_and_hits
    from rbsf.eval.reliability import plot_reliability, reliability
    from rbsf.system.files import write_atomically

    scores = {label: score_long(tracked) for label, tracked in runs.items()}
    table = as_markdown(scores, {label: len(tracked) for label, tracked in runs.items()})
    write_atomically(out / "long.md", table.encode())
    figures = {label: as_json(found) for label, found in scores.items()}
    write_atomically(out / "long.json", json.dumps(figures, indent=1).encode())
    bins = {label: reliability(*scores_and_hits(tracked)) for label, tracked in runs.items()}
    plot_reliability(bins, out / "reliability.png")
    return table


def find_sequences(args: argparse.Namespace, broken: dict[str, str]) -> list[Sequence]:
    """The sequences to track; those that cannot be read are noted in `broken`, by name.

    Raises ValueError if no sequence is found, or no departure can be made.
    """
    from rbsf.datasets.synthetic.departures import make_departures
    from rbsf.datasets.video.sequences import load_sequences

    sequences = load_sequences(args.root, names=args.sequences, broken=broken)
    if args.as_they_are or not sequences:
        return sequences
    made: list[Sequence] = []
    for number, sequence in enumerate(sequences):
        try:
            made += make_departures(sequence, args.departures, args.seed + number)
        except (ValueError, OSError) as error:  # its first frame cannot be read
            broken[sequence.name] = one_line(error)
    read = sum(sequence.name not in broken for sequence in sequences)
    if read and not made:
        raise ValueError(
            f"--root {args.root}: no departure can be made of its {read} sequences; they"
            " are too short, or their targets fill the view"
        )
    return made


def track_all(tracker: Tracker, sequences: list[Sequence], label: str) -> tuple[Runs, list[str]]:
    """Track all sequences under a progress bar; returns the runs, and what failed."""
    from tqdm import tqdm

    from rbsf.eval.long_term import track_long
    from rbsf.eval.runner import FAULTS

    runs, failed = [], []
    frames = sum(len(sequence) for sequence in sequences)
    with tqdm(total=frames, desc=label, unit="frame") as bar:
        for sequence in sequences:
            try:
                runs.append((track_long(tracker, sequence, bar.update), sequence))
            except FAULTS as error:  # one bad image must not end the run
                failed.append(f"{label} is not scored on {sequence.name}: {one_line(error)}")
    return runs, failed


def as_json(scores: LongScores) -> dict[str, Any]:
    """The figures as JSON has them: null if no such case happened."""
    figures = asdict(scores)
    return {name: None if value != value else value for name, value in figures.items()}


def as_markdown(scores: dict[str, LongScores], sequences: dict[str, int]) -> str:
    """A table of all trackers, and the counts of frames.

    `sequences` is the number of sequences that each tracker is scored on.
    """
    from rbsf.eval.tables import Cell, Table, markdown_text, number

    rows, counts = [], []
    for label, found in scores.items():
        figures = [number(getattr(found, field)) for field in COLUMNS.values()]
        rows.append([Cell(label), number(sequences[label], "d"), *figures])
        counts_of = asdict(found.counts).items()
        counted = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts_of)
        counts.append(f"- {markdown_text(label)}: {counted}")
    table = Table("", ["tracker", "sequences", *COLUMNS], rows)
    lines = [str(table), "", "Frames:", "", *counts]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
