"""Search the tracker's constants for the best average overlap on validation videos.

It writes tracker.yaml (the best constants), tune.png and study.log to --out. The first trial has
the default constants, so the result is never worse than they are on these videos. The same command
goes on where it stopped; Ctrl-C keeps what is finished. Test data (OTB, UAV123, UAV20L, GOT-10k's
test split) is refused.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.files import write_atomically
from rbsf.system.flags import make_parser
from rbsf.system.program import (
    INTERRUPTED,
    check_writable,
    positive_int,
    process_count,
    require,
    run,
    seed_number,
)
from rbsf.system.text import encode
from rbsf.tracker.flags import add_network_flags, add_weights_flag

# Functions below import these themselves, so that --help and errors come at once.
if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from rbsf.datasets.video.sequences import Sequence
    from rbsf.tools.constants_search import Search

EXAMPLE = "--root GOT-10k/val --trials 50 --out runs/tune"
LEAST_VIDEOS, LEAST_FRAMES = 10, 1_000  # fewer give a warning
TEST_FOLDER = re.compile(r"(otb|uav123|uav20l)(?![a-z])|got-?10k[-_/]test")


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLE)
    add = first.add_argument
    add(
        "--root",
        type=Path,
        required=True,
        metavar="PATH",
        help="Track the videos with boxes in this folder, such as GOT-10k/val",
    )
    add(
        "--sequences",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="Track these videos alone; repeatable (default: all)",
    )
    add(
        "--frames",
        type=positive_int,
        metavar="N",
        help="Track the first N frames of each video alone (default: all)",
    )
    add(
        "--skip-broken",
        action="store_true",
        help="Leave out the videos whose boxes cannot be read or do not match their frames",
    )
    add_weights_flag(first)
    add(
        "--search",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="Search these constants of the tracker, or all of them: all (default:"
        " window_influence, change_penalty and size_rate; of RB-SF scale_step, scale_penalty,"
        " window_influence and scale_rate)",
    )
    add(
        "--trials",
        type=positive_int,
        default=50,
        metavar="N",
        help="Try N sets of constants, those of earlier runs included",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/tune"),
        metavar="PATH",
        help="Write the results to this folder",
    )
    add(
        "--workers",
        type=process_count,
        default=1,
        metavar="N",
        help="Track in N processes, each with --threads threads or one; up to N - 1 extra trials"
        " may run",
    )
    add("--seed", type=seed_number, default=0, metavar="N", help="Draw the trials by this number")
    add_network_flags(parser)
    return parser.parse_args(argv)


def refuse_test_data(root: Path) -> None:
    """Raise ValueError if the path `root`, or a sequence found there, has a test set's name."""
    found = _test_folder(root) or _test_sequence(root)
    if found:
        advice = "give validation videos, such as GOT-10k/val, or videos of rbsf make-synthetic"
        raise ValueError(
            f"{root} is test data: {found}. Tuning on it makes its scores worthless; {advice}"
        )


def _test_folder(root: Path) -> str:
    """Why the path `root` is that of test data; empty if it is not."""
    for path in (Path(os.path.abspath(root)), root.resolve()):
        for parent, part in pairwise(path.parts):
            if TEST_FOLDER.match(part.lower()) or TEST_FOLDER.fullmatch(f"{parent}/{part}".lower()):
                return f"its path {path} has {part!r} in it"
    return ""


def _test_sequence(root: Path) -> str:
    """Why a sequence below `root` is one of test data; empty if none is."""
    from rbsf.datasets.video.layouts import find_entries, otb_name
    from rbsf.eval.benchmarks import held_out_names

    # Names without the target's number: a copy may name the folder of Jogging.1 just Jogging.
    known = {name.lower().partition(".")[0] for name in held_out_names()}
    for entry in find_entries(root):
        name = otb_name(entry.name).lower()
        if name.partition(".")[0] in known or name.startswith("got-10k_test"):
            return f"it holds {entry.name}, which has the name of a test sequence"
    return ""


def find_sequences(
    root: Path, names: list[str] | None, frames: int | None, skip_broken: bool
) -> list[Sequence]:
    """Load the sequences to tune on, cut to `frames`, without those that have no frame to score.

    With `skip_broken`, those that cannot be read are left out too, with a warning for each. Raises
    FileNotFoundError if there is no such folder, and ValueError if the data are test data or
    broken, or no sequence is left.
    """
    from rbsf.datasets.video.sequences import check_broken, load_sequences

    refuse_test_data(root)
    broken: dict[str, str] = {}
    loaded = load_sequences(root, names=dict.fromkeys(names) if names else None, broken=broken)
    check_broken(list(broken.values()), skip_broken)
    cut = [replace(s, frames=s.frames[:frames], boxes=s.boxes[:frames]) for s in loaded]
    sequences = [s for s in cut if len(s.annotated()) > 1]
    if not sequences:
        fault = f"no sequence to tune on: none of {len(loaded)} has two frames with a box"
        among = f" among its first {frames}; give a larger --frames" if frames else "; give others"
        raise ValueError(f"{root}: {fault}{among}")
    if len(sequences) < len(cut):
        left_out = ", ".join(s.name for s in cut if s not in sequences)
        print(f"left out, without two frames with a box: {left_out}", file=sys.stderr)
    return sequences


def caution_of(sequences: list[Sequence]) -> str:
    """A caution if constants would be tuned on too few frames, else an empty text."""
    frames = sum(map(len, sequences))
    if len(sequences) >= LEAST_VIDEOS and frames >= LEAST_FRAMES:
        return ""
    return (
        f"{len(sequences)} videos with {frames:,} frames in all are few: the constants will suit"
        " these videos and may be worse on others;"
        f" take {LEAST_VIDEOS} videos and {LEAST_FRAMES:,} frames at least"
    )


def check_log(log: Path) -> None:
    """Raise ValueError if a journal cannot be written, or its last line was cut off.

    Optuna does not notice such a line, and would go on writing in its middle.
    """
    check_writable(log)
    content = log.read_bytes() if log.is_file() else b""
    if content and not content.endswith(b"\n"):
        advice = "delete that line, or give another --out"
        raise ValueError(f"{log} is damaged: its last line was cut off; {advice}")


def describe(study: Study, default: FrozenTrial, search: Search, command: str) -> str:
    """Text of tracker.yaml: the best constants, after comments that say where they come from."""
    import yaml

    from rbsf.tools.constants_search import constants_of, finished

    caution = caution_of(search.sequences)
    best, names = study.best_trial, [s.name for s in search.sequences]
    overlap = f"average overlap {best.value:.4f}, of the defaults {default.value:.4f}"
    facts = [
        f"{overlap}; best of {len(finished(study))} trials",
        f"on {len(names)} sequences, {sum(map(len, search.sequences))} frames: {', '.join(names)}",
        f"weights {search.weights.name}, SHA-256 {search.weights_digest()}..., {search.precision}",
        command,
        *([caution] if caution else []),
    ]
    comments = "".join(f"# {' '.join(fact.split())}\n" for fact in facts)
    return comments + yaml.safe_dump(constants_of(best, search), sort_keys=False)


def plot(study: Study, search: Search, path: Path) -> None:
    """Draw the score over the trials, and over each constant."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from rbsf.tools.constants_search import finished, limits_of

    # The first complete trial is that of the defaults.
    complete = [trial for trial in finished(study) if trial.state.name == "COMPLETE"]
    numbers = [trial.number for trial in complete]
    scores = np.array([trial.value for trial in complete], float)
    names: list[Any] = list(search.names)
    figure = Figure(figsize=(max(14, 3 * len(names)), 6), layout="constrained")
    panels = figure.subplot_mosaic([["score"] * len(names), names])
    axes = panels["score"]
    for trial in finished(study):
        if trial not in complete:
            axes.axvline(trial.number, color="0.9", zorder=0)
    axes.plot(numbers, scores, "o", label="trial")
    axes.step(numbers, np.maximum.accumulate(scores), where="post", label="best so far")
    axes.axhline(scores[0], color="0.4", linestyle="--", label="defaults")
    axes.set(xlabel="trial (grey line: stopped early)", ylabel="average overlap")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    for name, each in search.ranges.items():
        axes = panels[name]
        axes.plot([trial.params[name] for trial in complete], scores, "o", alpha=0.5)
        axes.plot(complete[0].params[name], scores[0], "s", color="0.4")
        axes.plot(study.best_params[name], study.best_value, "*", markersize=14)
        axes.set(title="square: default, star: best", xlabel=name)
        limits = limits_of(each)
        if not isinstance(limits[0], str):
            axes.set(xlim=limits)
        axes.set_ylabel("average overlap")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def finish(study: Study, default: FrozenTrial, search: Search, out: Path, command: str) -> None:
    """Write the results and print them; `default` is the trial of the defaults."""
    from rbsf.tools.constants_search import constants_of

    write_atomically(out / "tracker.yaml", encode(describe(study, default, search, command)))
    write_atomically(out / "tune.png", partial(plot, study, search))
    best = study.best_trial
    note = " (the defaults)" if best.number == default.number else ""
    print(f"defaults: average overlap {default.value:.4f}")
    print(f"best:     average overlap {best.value:.4f}{note}")
    for name, value in constants_of(best, search).items():
        print(f"  {name}: {value}")
    file = shlex.quote(str(out / "tracker.yaml"))
    weights = shlex.quote(str(search.weights))
    print(f"use it: rbsf benchmark ... --tracker {weights} --constants {file}")


def main(argv: list[str] | None = None) -> int:
    """Search, then write and print the results; returns 130 if Ctrl-C ended it."""
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    require("tune")
    from rbsf.tools.constants_search import (
        Search,
        check_study,
        chosen_constants,
        defaults_trial,
        finished,
        open_study,
        run_search,
    )

    if not args.weights.is_file():
        raise FileNotFoundError(f"no weights file {args.weights}; give one with --weights")
    names = chosen_constants(args.weights, args.search)
    sequences = find_sequences(args.root, args.sequences, args.frames, args.skip_broken)
    if caution := caution_of(sequences):
        print(f"warning: {caution}", file=sys.stderr)
    check_log(args.out / "study.log")
    threads = args.threads or (1 if args.workers > 1 else None)
    network = (args.weights, args.precision, args.device, threads, args.engine)
    search = Search(*network, sequences, args.out / "study.log", args.trials, names)
    study = open_study(search, args.seed)
    check_study(study, search)
    code = 0
    try:
        run_search(study, search, args.workers, args.seed)
    except KeyboardInterrupt:
        code = INTERRUPTED
        kept = f"{len(finished(study))} of {args.trials} trials are kept; the same command goes on"
        print(f"interrupted: {kept}", file=sys.stderr)
    default = defaults_trial(study)
    if default:
        command = shlex.join(["python", "tools/tune.py", *words])
        finish(study, default, search, args.out, command)
    return code


if __name__ == "__main__":
    run(main)
