"""Measure the CPU time per image of a classifier's training, here and in another work tree.

    git worktree add ../before COMMIT
    python benchmarks/training_cost.py --root data --against ../before --isa avx2 --isa avx512

Each round starts a process for each part of the method and each tree, one after the other. It
trains ResNet-18 32-32-64-128 on CIFAR-100 with configs/classify/resnet18_cifar_small.yaml on one
thread. The time of a step is measured from batch to batch, so it includes data, optimizers and
logs. A process reports the median of its steps without the first ones; the result is the least over
all rounds. The results so far are written to --out after each process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.environment import environment
from rbsf.system.files import write_atomically
from rbsf.system.program import positive_int, run

HERE = Path(__file__).resolve().parents[1]
CONFIG = HERE / "configs" / "classify" / "resnet18_cifar_small.yaml"
BATCH, STEPS, NORM_STEPS = 32, 16, 6
WARM_UP = 4  # steps that do not count
NORM_SHARE = 0.1  # norm steps per training step in the complete method
PLAIN = ["--no-gan", "--bn-pass", "0", "--lambda-match", "0"]
PARTS = {  # name: flags of train_classifier.py
    "float": ["--method", "float", *PLAIN],
    "R": PLAIN,
    "R+G+B": ["--bn-pass", str(NORM_STEPS / STEPS)],
}
ISAS = {"avx2": ("avx2", "AVX2"), "avx512": ("avx512", "AVX512_CORE_BF16")}
# The program that runs in each tree. It writes a teacher with random weights, trains with it,
# records when each batch is requested, and stops after the first epoch.
WORKER = """
import json, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, ".")
import torch
from rbsf.models import build
from rbsf.train.loop import Loop
from rbsf.weights import save_weights

times = []

class Done(Exception):
    pass

def placed(self, batches, plain=Loop._placed):
    for batch in plain(self, batches):
        times.append(time.process_time())
        yield batch
    times.append(time.process_time())
    raise Done

Loop._placed = placed
from tools.train_classifier import main

with tempfile.TemporaryDirectory() as folder:
    teacher = str(Path(folder) / "teacher.safetensors")
    torch.manual_seed(0)
    net = build("resnet18", stages="32-32-64-128", stem="cifar", classes=100)
    save_weights(net, "resnet18", teacher)
    given = [] if "float" in sys.argv else ["--teacher", teacher]
    try:
        main([*sys.argv[1:], *given, "--out", folder + "/run"])
    except Done:
        print(json.dumps(times))
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", default="data", metavar="DIR", help="folder of CIFAR-100 (default: %(default)s)")
    add("--against", type=Path, metavar="TREE", help="another work tree of this project")
    add("--part", action="append", choices=PARTS, help="repeatable (default: all)")
    add("--isa", action="append", choices=ISAS, help="repeatable (default: avx2)")
    add("--rounds", type=positive_int, default=3, metavar="N", help="default: %(default)s")
    add("--precision", default="float32", choices=("float32", "bfloat16"), help="of this tree")
    add("--out", type=Path, default=Path("runs/training_cost.json"), metavar="FILE")
    return parser.parse_args(argv)


def measure(tree: Path, flags: list[str], isa: str) -> dict[str, float]:
    """Milliseconds of CPU time per image, in training steps and in batch-norm steps.

    Raises ValueError if the training fails.
    """
    aten, onednn = ISAS[isa]
    limits = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "RBSF_ISA": isa}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, *flags]
    env = os.environ | limits | threads | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{tree}: {done.stderr.strip().splitlines()[-1]}")
    times = json.loads(done.stdout.splitlines()[-1])
    steps = [1000 * (after - before) / BATCH for before, after in itertools.pairwise(times)]
    return {"step": median(steps[WARM_UP:STEPS]), "norm": median(steps[STEPS:] or [0.0])}


def flags_of(part: str, root: str, precision: str) -> list[str]:
    """The command line that trains one part."""
    flags = ["--config", str(CONFIG), "--root", str(Path(root).resolve())]
    flags += ["--images", str(BATCH * STEPS), "--batch-size", str(BATCH), "--epochs", "1"]
    flags += ["--device", "cpu", "--threads", "1", "--precision", precision]
    return flags + PARTS[part]


def rows_of(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Least milliseconds per image over all rounds, by part."""
    least = {
        part: {kind: min(each[kind] for each in rounds) for kind in ("step", "norm")}
        for part, rounds in found.items()
        if rounds
    }
    rows = {part: times["step"] for part, times in least.items()}
    if whole := least.get("R+G+B"):
        rows["R+G"] = whole["step"]
        rows["R+G+B"] = whole["step"] + NORM_SHARE * whole["norm"]
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    args = parse_args(argv)
    trees = {"here": HERE} | ({"there": args.against.resolve()} if args.against else {})
    parts, isas = args.part or list(PARTS), args.isa or ["avx2"]
    found: dict = {isa: {name: {part: [] for part in parts} for name in trees} for isa in isas}
    for _ in range(args.rounds):
        for isa, part, (name, tree) in itertools.product(isas, parts, trees.items()):
            precision = args.precision if name == "here" else "float32"
            times = measure(tree, flags_of(part, args.root, precision), isa)
            found[isa][name][part].append(times)
            result = {"environment": environment(), "found": found}
            write_atomically(args.out, json.dumps(result, indent=1).encode())
        for isa in isas:
            print_table(isa, {name: rows_of(each) for name, each in found[isa].items()})


def print_table(isa: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a row for each part: milliseconds per image in each tree, and their ratio."""
    print(f"{isa}: milliseconds of CPU time of an image")
    for part, here in rows["here"].items():
        line = f"  {part:6} {here:7.3f}"
        if there := rows.get("there", {}).get(part):
            line += f", the other {there:7.3f}, ratio {here / there:.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    run(main)
