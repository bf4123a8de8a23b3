"""Reproduce a table or figure of the paper: train what is missing, go on with what is half done, print both figures.

    python tools/reproduce.py table2 --root data

table2, table3, table4, figure2: trainings as configs/tables/NAME.yaml has them, 70 to 200 epochs each; the float
teachers that they share are trained once.  table6: counted, in a second.  Short variants change the epochs alone:
--set epochs=3, or any other setting of tools/train_classifier.py; table2_small is one for CPUs, an hour or two.
--list says what there is to do.  Ctrl-C keeps what is done; the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder, installed or not

from rbsf.files import write_atomically
from tools.cli import run

if TYPE_CHECKING:
    from tools.tables import Table

TABLES = Path(__file__).resolve().parents[1] / "configs" / "tables"
NAMES = (*sorted(path.stem for path in TABLES.glob("*.yaml")), "table6")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("name", choices=NAMES, help="what to reproduce")
    add("--root", type=Path, default=Path("data"), help="folder that holds the data sets (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="results (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0], metavar="S", help="trainings of each cell (default: 0)")
    add("--only", action="append", default=[], metavar="TEXT", help="cells whose row or column is TEXT; repeatable")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of tools/train_classifier.py for all cells, such as epochs=3 or dataset=cifar100; repeatable",
    )
    add("--list", action="store_true", help="print the cells and their commands, and train nothing")
    return parser.parse_args(argv)


def parse_settings(words: list[str]) -> dict[str, Any]:
    """NAME=VALUE, values as in YAML; ValueError for anything else."""
    import yaml

    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise ValueError(f"--set {word!r}: expected NAME=VALUE, such as epochs=3")
        try:
            settings[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {word!r}: {value!r} is no value in YAML") from None
    return settings


def select(table: Table, only: list[str]) -> Table:
    """The table with the cells of these rows or columns; ValueError where a name is of neither."""
    known = {cell.row for cell in table.cells} | {cell.column for cell in table.cells}
    if unknown := [text for text in only if text not in known]:
        raise ValueError(f"--only {unknown[0]!r}: no such row or column; there are {', '.join(sorted(known))}")
    cells = [c for c in table.cells if all(text in (c.row, c.column) for text in only)]
    return dataclasses.replace(table, cells=cells)


def list_cells(table: Table, seeds: list[int], out: Path) -> None:
    """Print each training's state, and the command that runs it alone."""
    from rbsf.train.loop import CHECKPOINT
    from tools.tables import folder_of, result_of

    for cell in table.cells:
        for seed in seeds:
            config = dataclasses.replace(cell.config, seed=seed)
            folder = folder_of(config, out)
            begun = (folder / CHECKPOINT).is_file()
            state = "done" if result_of(config, out) else "half done" if begun else "to do"
            print(f"{cell.row}, {cell.column}, seed {seed}: {state}\n  {command(config, folder)}")


def command(config: Any, folder: Path) -> str:
    """The command of tools/train_classifier.py that trains the cell."""
    words = ["python", "tools/train_classifier.py", "--out", str(folder)]
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.name in ("out", "resume") or value in (default, []):
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag.removeprefix("--"))
        else:
            words += [word for item in (value if isinstance(value, list) else [value]) for word in (flag, str(item))]
    return shlex.join(words)


def train_cells(table: Table, seeds: list[int], out: Path) -> int:
    """Train what is missing; a cell whose data is not there is named and left out.  The exit code."""
    from tools.tables import run_cell

    failed: set[str] = set()
    for cell in table.cells:
        for seed in seeds:
            print(f"{cell.row}, {cell.column}, seed {seed}", flush=True)
            try:
                code = run_cell(dataclasses.replace(cell.config, seed=seed), out)
            except (ValueError, OSError) as error:
                if str(error) not in failed:
                    print(f"error: {cell.row}, {cell.column}: {error}", file=sys.stderr)
                failed.add(str(error))
                continue
            if code:
                return code
    return 1 if failed else 0


def table6() -> str:
    """Table 6: memory and multiplications of ResNet-18, counted."""
    from rbsf.cost import count, total
    from tools.cost import build_pair

    binary, real = (total(count(net, (3, 224, 224))) for net in build_pair("resnet18"))
    rows = (
        ("memory usage, RBCN", "33.7 Mbit", f"{binary.bits / 1e6:.1f} Mbit"),
        ("memory usage, ResNet-18", "374.1 Mbit", f"{real.bits / 1e6:.1f} Mbit"),
        ("memory saving", "11.10x", f"{real.bits / binary.bits:.2f}x"),
        ("FLOPs, RBCN", "1.67e8", f"{binary.multiplications:.2e}"),
        ("FLOPs, ResNet-18", "1.81e9", f"{real.multiplications:.2e}"),
        ("speedup", "10.86x", f"{real.multiplications / binary.multiplications:.2f}x"),
    )
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (("", "paper", "ours"), ("---", "---:", "---:"), *rows))
    return f"Table 6: memory and multiplications; 224 x 224\n\n{lines}\n"


def main(argv: list[str] | None = None) -> int:
    """Train what is missing, print and write the table; 0 when all of it is done."""
    args = parse_args(argv)
    if args.name == "table6":
        text, code = table6(), 0
    else:
        from tools.tables import as_markdown, plot_curves, read_table

        table = select(read_table(args.name, {"root": str(args.root), **parse_settings(args.set)}), args.only)
        if args.list:
            list_cells(table, args.seeds, args.out)
            return 0
        code = train_cells(table, args.seeds, args.out)
        text = as_markdown(table, args.seeds, args.out)
        picture = args.out / "figure2.png"
        if args.name == "figure2" and plot_curves(table, args.seeds[0], args.out, picture):
            text += f"\nCurves: {picture}\n"
    print(text)
    write_atomically(args.out / f"{args.name}.md", text.encode())
    return code


if __name__ == "__main__":
    run(main)
