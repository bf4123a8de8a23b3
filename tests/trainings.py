"""Short trainings, for the tests of their results and of refusals."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

from rbsf.tools import train_classifier

NET = shlex.split("--model resnet18 --stages 8-8-8-8 --stem cifar --dataset folder --size 32")
QUICK = shlex.split("--batch-size 4 --epochs 2 --warmup 0 --log-every 1 --workers 0 --bn-pass 0.5")
QUICK += ["--lambda-match", "0", "--precision", "float32", "--device", "cpu"]


def train_resnet(root: Path, out: Path, *flags: str) -> int:
    """Train a ResNet on folders of images for two epochs; the exit status."""
    words = ["--root", str(root), "--out", str(out)]
    return train_classifier.main([*NET, *words, *QUICK, *flags])


def rows_of(log: Path) -> list[dict[str, str]]:
    with open(log, newline="") as file:
        return list(csv.DictReader(file))


def run_processes(
    count: int, program: Path, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in `count` processes that train together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), str(program), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr
    return done
