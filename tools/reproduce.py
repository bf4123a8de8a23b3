"""Reproduce a table or figure of the paper, or another table of trainings.

Missing trainings are run, half-done ones go on, and the figures are printed.

table2, table3, table4 and figure2 are the trainings in configs/tables/NAME.yaml, of 70 to 200
epochs each. The float teachers that they share are trained once. For a short variant, change only
the epochs: --set epochs=3. --set changes any other setting of rbsf train-classifier too.
table2_small is a variant for CPUs that takes an hour or two. readings compares ways to read the
paper's method, and imagenette has ten classes of ImageNet. table6 is counted, in a second.

parts, sources, data_size, recipe and teachers are ablations of the tracker. After each training the
network tracks each --test; results are stored where rbsf benchmark --out OUT stores them.

NAME may also be a .yaml file of your own. --list prints what there is to do. Ctrl-C keeps finished
work; the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.eval.passes import add_pass_flags
from rbsf.shipped import CONFIGS
from rbsf.system.files import write_atomically
from rbsf.system.flags import make_parser
from rbsf.system.program import process_count, require, run, seed_number
from rbsf.system.text import encode
from rbsf.tracker.flags import add_constants_flag

if TYPE_CHECKING:
    from rbsf.tools.tables.studies import Study

EXAMPLES = """
table2 --root data
parts --data pairs.db --teacher siamfc.npz --test OTB100=data/OTB
"""
NAMES = (*sorted(path.stem for path in (CONFIGS / "tables").glob("*.yaml")), "table6")
TRACK_FLAGS = ("workers", "constants", "every", "frames")  # passed on to rbsf benchmark
# Settings that --set does not take, as they have flags of their own.
FLAG_OF = {"seed": "--seeds", "out": "--out", "resume": "the same command again"}
FLAGS_OF = {"classifier": ("root",), "tracker": ("data", "teacher", "test", *TRACK_FLAGS)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES, takes="NAME")
    add = first.add_argument
    add(
        "name",
        metavar="NAME",
        help=f"A table, one of {', '.join(NAMES)}, or a .yaml file of your own",
    )
    add(
        "--list",
        action="store_true",
        help="Print the trainings and their commands, and train nothing",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="PATH",
        help="Write trainings and tables to this folder",
    )
    add(
        "--seeds",
        type=seed_number,
        nargs="+",
        default=[0],
        metavar="N",
        help="Train each cell once for each of these numbers (default: 0)",
    )
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="Train the cells whose row or column is TEXT; repeatable (default: all)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Train all cells with another value of a setting of tools/train_classifier.py or"
        " train_rbsf.py, such as epochs=3; repeatable",
    )
    add = parser.add_argument_group("tables of classifiers").add_argument
    add("--root", metavar="PATH", help="Read the data sets from this folder (default: data)")
    trackers = parser.add_argument_group("tables of trackers")
    add = trackers.add_argument
    add(
        "--data",
        action="append",
        metavar="PATH",
        help="Train on this folder or crop store, as tools/train_rbsf.py does; repeatable",
    )
    add(
        "--teacher",
        metavar="PATH",
        help="Learn from the float tracker whose weights are in this file",
    )
    add(
        "--test",
        action="append",
        metavar="NAME=PATH",
        help="Track with each trained network over this data set of eval/run_benchmarks.py, in the"
        " folder PATH; repeatable (default: none, which only trains)",
    )
    add(
        "--workers",
        type=process_count,
        metavar="N",
        help="Track in N processes (default: one for each core)",
    )
    add_constants_flag(trackers)
    add_pass_flags(parser)
    return parser.parse_args(argv)


def parse_settings(words: list[str]) -> dict[str, Any]:
    """Settings from words NAME=VALUE, with values as in YAML.

    Raises ValueError for words of another form.
    """
    import yaml

    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if not (name and equals):
            raise ValueError(f"--set {word!r}: expected NAME=VALUE, such as epochs=3")
        if name in FLAG_OF:
            raise ValueError(f"--set {word!r}: give it by {FLAG_OF[name]}")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {word!r}: {value!r} is no value in YAML") from None
    return settings


def select(table: Study, only: list[str]) -> Study:
    """The table with the cells of these rows and columns; all rows or columns if none is named.

    Raises ValueError for a name that is neither a row nor a column.
    """
    rows = {cell.row for cell in table.cells}
    columns = {cell.column for cell in table.cells}
    check_names(only, rows | columns)
    rows = rows.intersection(only) or rows
    columns = columns.intersection(only) or columns
    cells = [cell for cell in table.cells if cell.row in rows and cell.column in columns]
    return dataclasses.replace(table, cells=cells)


def check_names(only: list[str], known: set[str]) -> None:
    """Raise ValueError for a name that is not among the known ones."""
    for text in only:
        if text not in known:
            names = ", ".join(sorted(known - {""}))
            raise ValueError(f"--only {text!r}: no such row or column; there are {names}")


def list_cells(table: Study, seeds: list[int], out: Path) -> None:
    """Print each training's state, and the command that runs it alone."""
    from rbsf.tools.tables.studies import folder_of, state_of

    for cell in table.cells:
        for seed in seeds:
            config = dataclasses.replace(cell.config, seed=seed)
            print(f"{cell.name}, seed {seed}: {state_of(config, out)}")
            shared = dataclasses.replace(config, cache=config.cache or str(out))
            print(f"  {command(shared, folder_of(config, out))}")
    count = len(table.cells) * len(seeds)
    print(f"{count} training{'s' if count > 1 else ''}")


def command(config: Any, folder: Path) -> str:
    """The command that trains the cell alone."""
    from rbsf.tools.recipes.classifier_config import defaults_of
    from rbsf.tools.recipes.siamese_config import SiameseConfig, model_defaults
    from rbsf.train.config import as_settings, settings_of

    if isinstance(config, SiameseConfig):  # its program starts from the file of its model
        defaults = model_defaults(config.model)
        words = ["python", "tools/train_rbsf.py", "--out", str(folder), "--model", config.model]
    else:
        defaults = defaults_of(config.method, config.model)
        words = ["python", "tools/train_classifier.py", "--out", str(folder)]
    known = settings_of(type(config))
    for name, value in as_settings(config).items():
        default = defaults.get(name, known[name].default)
        if name not in ("out", "resume") and value not in (default, []):
            words += _flag(name, value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    """A setting as words of a command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    items = value if isinstance(value, list) else [value]
    words = []
    for item in items:
        words += [f"--{flag}", str(item)]
    return words


def train_cells(table: Study, seeds: list[int], out: Path) -> int:
    """Run the missing trainings. Returns the exit code.

    A cell whose data is missing is named and left out.
    """
    from rbsf.tools.tables.studies import run_cell

    failed: set[str] = set()
    count = len(table.cells) * len(seeds)
    for number, cell in enumerate(table.cells):
        for place, seed in enumerate(seeds):
            done = number * len(seeds) + place
            print(f"{cell.name}, seed {seed} (training {done + 1} of {count})", flush=True)
            try:
                code = run_cell(dataclasses.replace(cell.config, seed=seed), out)
            except (ValueError, OSError) as error:
                if str(error) not in failed:
                    print(f"error: {cell.name}: {error}", file=sys.stderr)
                failed.add(str(error))
                continue
            if code:
                return code
    return 1 if failed else 0


def table6() -> str:
    """Table 6: memory and multiplications of ResNet-18, counted."""
    from rbsf.cost import count, total
    from rbsf.eval.tables import Cell, Table
    from rbsf.tools.cost import build_pair

    binary, real = (total(count(net, (3, 224, 224))) for net in build_pair("resnet18"))
    rows = (
        ("memory usage, RBCN", "33.7 Mbit", f"{binary.bits / 1e6:.1f} Mbit"),
        ("memory usage, ResNet-18", "374.1 Mbit", f"{real.bits / 1e6:.1f} Mbit"),
        ("memory saving", "11.10x", f"{real.bits / binary.bits:.2f}x"),
        ("FLOPs, RBCN", "1.67e8", f"{binary.multiplications:.2e}"),
        ("FLOPs, ResNet-18", "1.81e9", f"{real.multiplications:.2e}"),
        ("speedup", "10.86x", f"{real.multiplications / binary.multiplications:.2f}x"),
    )
    table = Table("", ["", "paper", "ours"], [[*map(Cell, row)] for row in rows])
    return f"Table 6: memory and multiplications; 224 x 224\n\n{table}\n"


def open_table(args: argparse.Namespace) -> Study:
    """Open the table; its cells have the settings of the command line.

    Raises ValueError for flags of the other kind of table.
    """
    from rbsf.tools.tables.studies import folder_of, read_study

    given = {
        "classifier": {"root": args.root or "data"},
        "tracker": {"data": args.data or [], "teacher": args.teacher},
    }
    table = read_study(args.name, parse_settings(args.set), given)
    if args.set:
        table = dataclasses.replace(table, title=f"{table.title} (with {', '.join(args.set)})")
    check_flags(args, table)
    for cell in select(table, args.only).cells:
        if table.trains == "tracker":
            check_tracker(cell.name, cell.config)
        folder_of(cell.config, args.out)  # raises now if data or teacher is missing
    return table


def check_flags(args: argparse.Namespace, table: Study) -> None:
    """Raise ValueError for a seed given twice, and for a flag of the other kind of table."""
    if len(set(args.seeds)) < len(args.seeds):
        raise ValueError(f"--seeds {' '.join(map(str, args.seeds))}: give each number once")
    other = "tracker" if table.trains == "classifier" else "classifier"
    for flag in FLAGS_OF[other]:
        if getattr(args, flag):
            raise ValueError(
                f"{args.name} trains {table.trains}s: --{flag} is for tables of {other}s"
            )


def check_tracker(name: str, config: Any) -> None:
    """Raise ValueError for a row that would train on made-up videos or train its own teacher."""
    if not config.data:
        raise ValueError(f"{name}: no data to train on; give a crop store or a folder by --data")
    if config.model != "siamfc" and not config.teacher:
        advice = "give the weights of a float SiamFC by --teacher"
        raise ValueError(f"{name}: a 1-bit network needs a teacher; {advice}")


def make(args: argparse.Namespace) -> tuple[str, int]:
    """Run the missing trainings. Returns the table and the exit code."""
    from rbsf.tools.tables.studies import as_markdown, plot_curves

    table = open_table(args)
    chosen = select(table, args.only)
    if args.list:
        list_cells(chosen, args.seeds, args.out)
        return "", 0
    if table.trains == "tracker":
        return make_trackers(args, chosen)
    code = train_cells(chosen, args.seeds, args.out)
    text = as_markdown(table, args.seeds, args.out)
    picture = args.out / "figure2.png"
    if args.name == "figure2" and plot_curves(table, args.seeds[0], args.out, picture):
        text += f"\nCurves: {picture}\n"
    return text, code


def make_trackers(args: argparse.Namespace, table: Study) -> tuple[str, int]:
    """Run the missing trainings and track with all. Returns the table and the exit code.

    There is no table if a training was stopped.
    """
    from rbsf.tools.tables.tracker_studies import finish, open_test

    # Opened before the training, so that faults of a test set are reported now.
    flags = {name: getattr(args, name) for name in TRACK_FLAGS}
    tests = [open_test(text, args.out, **flags) for text in args.test or []]
    code = train_cells(table, args.seeds, args.out)
    if code > 1:
        return "", code
    text, failed = finish(table, args.seeds, args.out, tests, Path(args.name).stem)
    return text, code or failed


def main(argv: list[str] | None = None) -> int:
    """Run the missing trainings, print and write the table; 0 when all of it is done."""
    args = parse_args(argv)
    require("train")
    text, code = (table6(), 0) if args.name == "table6" else make(args)
    if text:
        print(text)
        write_atomically(args.out / f"{Path(args.name).stem}.md", encode(text))
    return code


if __name__ == "__main__":
    run(main)
