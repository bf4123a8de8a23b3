"""Work through this project's list for a GPU, in the minutes for which there is one.

First run --pack here: it writes CIFAR-100, or what RB-SF 2 learns from, as parts of at most 40 MB.
Then run --data with these parts on the machine with the GPU, as often as needed; each run goes on
where the last one ended. On any machine, --rehearse runs every item in seconds on the CPU, and
--summary prints a table of all results that came home.

--data is a folder with the parts, or with CIFAR-100 itself. Results, logs and weights of all items
are packed into the archive OUT/home, in parts of at most 15 MiB. To continue on another machine,
put them beside the parts in --data, and give an empty --out. --list names the items. SIGTERM and
Ctrl-C keep all work so far, as the end of the minutes does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.flags import make_parser
from rbsf.system.program import positive_int, run

if TYPE_CHECKING:
    from rbsf.tools.gpu.sharing import Mps
    from rbsf.train.worklist import Item

EXAMPLES = """
--pack parts --root data
--pack parts --pairs pairs.db --teacher backbone.onnx,head.onnx
--data parts --out run --minutes 9
--rehearse
--summary run
"""
STARTED = time.monotonic()  # the minutes count from here
ROOT = Path(__file__).resolve().parents[1]
PART_BYTES = 40_000_000
CLOSING_SECONDS = 45  # last seconds of --minutes, for stopping and the archive
LEAST_MINUTES = 1.0
LEAST_DISK_BYTES = 2 << 30
LEAST_GPU_BYTES = 6 << 30
PROBE = "import torch; print(torch.cuda.get_device_name(), *torch.cuda.mem_get_info(), sep=chr(10))"
ALWAYS = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}  # for all items
REHEARSAL = Path("runs/gpu_rehearsal")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser, first = make_parser(__doc__, EXAMPLES)
    what = first.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--pack",
        type=Path,
        metavar="PATH",
        help="Write the data as parts into this folder (default: none; give one of --pack, --data,"
        " --rehearse, --summary and --list)",
    )
    what.add_argument("--data", type=Path, metavar="PATH", help="Work on the data in this folder")
    what.add_argument(
        "--rehearse", action="store_true", help="Run every item, shrunk, on made-up data"
    )
    what.add_argument(
        "--summary",
        type=Path,
        metavar="PATH",
        help="Print the results in this folder, an --out or its home",
    )
    what.add_argument(
        "--list", action="store_true", help="Print the items, what they need and are worth"
    )
    add = first.add_argument
    add(
        "--out",
        type=Path,
        metavar="PATH",
        help=f"Write the runs to this folder (default: runs/gpu; of a rehearsal {REHEARSAL})",
    )
    add(
        "--minutes",
        type=float,
        metavar="MINUTES",
        help="End after this many minutes (default: when all is done)",
    )
    add(
        "--beside",
        type=positive_int,
        default=4,
        metavar="N",
        help="Run N trainings at once",
    )
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="Run the items whose names hold TEXT; repeatable (default: all)",
    )
    add = parser.add_argument_group("what --pack packs").add_argument
    add(
        "--root",
        type=Path,
        default=Path("data"),
        metavar="PATH",
        help="Read CIFAR-100 from this folder",
    )
    add(
        "--pairs",
        type=Path,
        metavar="PATH",
        help="Pack what RB-SF 2 learns from, a crop store, in place of CIFAR-100",
    )
    add(
        "--teacher",
        metavar="BACKBONE.onnx,HEAD.onnx",
        help="Pack the teacher that goes with --pairs",
    )
    return parser.parse_args(argv)


def pack(args: argparse.Namespace) -> int:
    """Write the parts and say how large they are."""
    from rbsf.datasets.images.cifar_parts import pack_cifar100
    from rbsf.tools.gpu import distil

    if bool(args.pairs) != bool(args.teacher):
        raise ValueError("--pairs and --teacher go together: RB-SF 2 learns from both")
    paths = distil.pack(args.pairs, args.teacher, args.pack, PART_BYTES) if args.pairs else []
    for path in paths or pack_cifar100(args.root, args.pack, PART_BYTES):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def print_list(only: list[str]) -> int:
    """Print the items."""
    from rbsf.tools.gpu.items import make_items

    for item in make_items(Path("DATA"), only=only):
        alone = ", alone" if item.alone else ""
        needs = f"; needs {', '.join(item.needs)}" if item.needs else ""
        print(f"{item.name}: about {item.minutes:g} minutes{alone}; {item.worth}{needs}")
    return 0


def check_clone() -> None:
    """Raise ValueError if this is an installed package, which lacks some of the items' programs."""
    if not (ROOT / "benchmarks").is_dir():
        raise ValueError(
            "gpu-run needs the project's benchmarks/: clone it and run tools/gpu_run.py there"
        )


def work(args: argparse.Namespace) -> int:
    """Run the list on the GPU for the minutes given."""
    check_clone()
    from rbsf.system.lock import locked
    from rbsf.tools.gpu import distil
    from rbsf.tools.gpu.items import any_reads_cifar, make_items

    folder = (args.out or Path("runs/gpu")).resolve()
    check_minutes(args.minutes)
    check_disk(folder)
    print(f"GPU: {probe_gpu()}")
    parts = args.data.resolve()
    with locked(folder):
        data = find_data(parts, folder)
        rbsf2 = distil.unpack(parts, folder)
        if not rbsf2:
            print(f"{args.data}: holds no {distil.STEM}-1-of-N.part; RB-SF 2 is left out")
        items = make_items(data, only=args.only, rbsf2=rbsf2)
        if any_reads_cifar(items):
            unpack_data(parts, data)
        end = None if args.minutes is None else STARTED + 60 * args.minutes - CLOSING_SECONDS
        with Sharing(folder) as sharing:
            return work_down(items, folder, args.beside, sharing.variables, end)


def rehearse(args: argparse.Namespace) -> int:
    """Pack and unpack made-up data, run every item shrunk, and summarise what came home."""
    check_clone()
    from rbsf.datasets.images.cifar_parts import pack_cifar100
    from rbsf.datasets.images.made_up_cifar import write_made_up_cifar
    from rbsf.system.lock import locked
    from rbsf.tools.gpu import distil
    from rbsf.tools.gpu.items import RBSF2, any_reads_cifar, make_items
    from rbsf.tools.gpu.summary import summarise

    folder = (args.out or REHEARSAL).resolve()
    parts, data = folder / "parts", folder / "data"
    items = make_items(data, rehearse=True, only=args.only)
    end = None if args.minutes is None else STARTED + 60 * args.minutes
    with locked(folder):
        if any_reads_cifar(items):
            if not parts.is_dir():
                write_made_up_cifar(folder / "raw")
                pack_cifar100(folder / "raw", parts, PART_BYTES)
            unpack_data(parts, data)
        if {entry.name for entry in RBSF2} & {item.name for item in items}:
            distil.make_up(folder)
        beside = min(2, args.beside)
        code = work_down(items, folder, beside, lambda item: {"OMP_NUM_THREADS": "1"}, end)
    print(summarise(folder / "home"))
    return code


def work_down(
    items: list[Item],
    folder: Path,
    beside: int,
    variables: Callable[[Item], dict[str, str]],
    end: float | None,
) -> int:
    """Run the items until `end` of the monotonic clock; returns the exit code.

    `variables` gives the environment variables of an item. The archive is written in any case.
    """
    from rbsf.system.environment import cores
    from rbsf.tools.gpu.home import pack_home
    from rbsf.tools.gpu.summary import write_list
    from rbsf.train.worklist import Worklist

    def environment(item: Item) -> dict[str, str]:
        threads = cores() if item.alone else max(1, cores() // beside)
        return {"OMP_NUM_THREADS": str(threads), **ALWAYS, **variables(item)}

    write_list(folder, items)
    try:
        seconds = None if end is None else end - time.monotonic()
        return Worklist(items, folder, beside, environment, say).run(seconds)
    finally:
        parts, left = pack_home(folder, folder / "home")
        sizes = [f"{path} ({path.stat().st_size / 1e6:.1f} MB)" for path in parts]
        say(f"archive: {', '.join(sizes)}")
        if left:
            say(f"no room in it for: {', '.join(str(path.relative_to(folder)) for path in left)}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def check_minutes(minutes: float | None) -> None:
    """Raise ValueError if --minutes is too short for anything, or not a number."""
    if minutes is not None and not minutes >= LEAST_MINUTES:
        advice = f"give at least {LEAST_MINUTES:g}"
        raise ValueError(f"--minutes {minutes:g}: too short to start anything; {advice}")


def check_disk(folder: Path) -> None:
    """Raise ValueError if there is little room for the runs."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK_BYTES:
        advice = f"make room for {LEAST_DISK_BYTES / 1e9:.1f} GB"
        raise ValueError(f"{folder}: {free / 1e9:.1f} GB are free on its disk; {advice}")


def probe_gpu() -> str:
    """Name and memory of the GPU.

    Raises ValueError if PyTorch finds no GPU, or one with too little free memory. A separate
    process asks, so that this one takes no memory of the GPU.
    """
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"PyTorch finds no GPU here ({reason}); --rehearse runs on the CPU")
    name, *sizes = done.stdout.strip().splitlines()[-3:]
    free, total = map(int, sizes)
    if free < LEAST_GPU_BYTES:
        there = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
        needed = f"{LEAST_GPU_BYTES / 1e9:.1f} are needed"
        raise ValueError(f"{name}: {there}, {needed}; end what else runs there")
    return f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"


def find_data(folder: Path, out: Path) -> Path:
    """The folder of CIFAR-100: `folder`, or `out`/data, where its parts will be put together.

    If an archive that came home lies beside the parts, it is put back into an `out` without runs.
    Raises FileNotFoundError if there is no `folder`.
    """
    from rbsf.tools.gpu.home import unpack_home
    from rbsf.tools.gpu.summary import LIST

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; make one with --pack")
    if not (out / LIST).is_file() and unpack_home(folder, out):
        print(f"goes on from the archive in {folder}")
    return folder if _is_data(folder) else out / "data"


def unpack_data(folder: Path, data: Path) -> None:
    """Put the parts in `folder` together in `data`, unless the data set is there."""
    from rbsf.datasets.images.cifar_parts import unpack_cifar100

    if data != folder:
        unpack_cifar100(folder, data)


def _is_data(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("cifar-100-python", "cifar-100-binary"))


class Sharing:
    """How processes share the GPU: the way that the item `speed` measured to be faster.

    They take turns until that is measured, and if NVIDIA's multi-process service is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service: Mps | None = None
        self.chosen: dict[str, str] | None = None  # variables for processes that share the GPU

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *_: object) -> None:
        if self.service is not None:
            self.service.stop()

    def variables(self, item: Item) -> dict[str, str]:
        """Variables for an item about to start; none if it runs alone."""
        if item.alone:
            return {}
        if self.chosen is None:
            rates = self._measured_rates()
            self.chosen = self._choose(rates) if rates else None
        return self.chosen or {}

    def _choose(self, rates: dict[str, float]) -> dict[str, str]:
        from rbsf.tools.gpu.sharing import Mps

        in_turns = [rate for name, rate in rates.items() if name.endswith(" processes")]
        at_once = [rate for name, rate in rates.items() if name.endswith("MPS")]
        is_faster = max(at_once, default=0.0) > max(in_turns, default=0.0)  # False if either is NaN
        if not is_faster:
            return {}
        self.service = Mps()
        reason = self.service.start()
        say(f"processes share the GPU by MPS: {reason or 'measured faster'}")
        return {} if reason else self.service.environment

    def _measured_rates(self) -> dict[str, float]:
        report = self.folder / "items" / "speed" / "report.json"
        return json.loads(report.read_text()).get("rates", {}) if report.is_file() else {}


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says.

    Returns 0 when all is well, 1 if an item failed, and 128 + signal when stopped.
    """
    args = parse_args(argv)
    if args.pack:
        return pack(args)
    if args.list:
        return print_list(args.only)
    if args.summary:
        from rbsf.tools.gpu.summary import summarise

        print(summarise(args.summary))
        return 0
    return rehearse(args) if args.rehearse else work(args)


if __name__ == "__main__":
    run(main)
