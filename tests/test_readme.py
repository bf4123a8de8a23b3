"""Every command and program of the README runs, in a folder with the files that they name."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import NARROW, ROOT, write_teacher

from rbsf.datasets.synthetic.videos import make_sequence, video_name, write_got10k, write_video
from rbsf.eval.evaluation import SYNTHETIC
from rbsf.export.modules import CALLS, FORMS

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines() if line]
PROGRAMS = [body for kind, body in BLOCKS if kind == "python"]
SMALL = shlex.split("--epochs 1 --pairs 2 --batch-size 2 --val-sequences 1 --val-frames 2")
SMALL += ["--workers", "0", "--threads", "1", "--device", "cpu", "--width", str(NARROW)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    write_video(folder / "in.mp4", seed=3, frames=8)
    for split in ("train", "val"):
        write_got10k(folder / "GOT-10k" / split, count=2, frames=3, size=(160, 120))
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("OTB/Basketball/img", "photos", "weights"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "photos" / "a.jpg"), image)
    boxes = []
    for number, (frame, box) in enumerate(make_sequence(1, frames=3, size=(160, 120)), 1):
        cv2.imwrite(str(folder / "OTB/Basketball/img" / f"{number:04d}.jpg"), frame)
        boxes.append(",".join(str(round(v + (i < 2))) for i, v in enumerate(box)))
    (folder / "OTB/Basketball/groundtruth_rect.txt").write_text("\n".join(boxes) + "\n")
    for name in ("truth", "boxes"):
        (folder / name).mkdir()
        (folder / name / "Basketball.txt").write_text("\n".join(boxes) + "\n")
    # These are short, and the program takes them as made already.
    for seed in range(SYNTHETIC["seed"], SYNTHETIC["seed"] + SYNTHETIC["count"]):
        write_video(
            folder / f"runs/benchmarks/synthetic/{video_name(seed)}.mp4",
            seed,
            frames=2,
            size=(96, 80),
        )
    for name in ("rbsf.safetensors", "rbsf-train.safetensors", "siamfc.safetensors"):
        (folder / "weights" / name).symlink_to(ROOT / "weights" / name)
    (folder / "runs/rbsf").mkdir()
    shutil.copy(ROOT / "weights/rbsf-train.safetensors", folder / "runs/rbsf/rbsf.safetensors")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_mnist(folder / "data" / "MNIST" / "raw")
    write_teacher(folder / "teacher.safetensors", NARROW)
    return folder


def write_mnist(folder):
    """Write MNIST's files with its numbers of images, one page of noise many times over."""
    folder.mkdir(parents=True)
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        labels = np.arange(count, dtype=np.uint8) % 10
        page = np.random.default_rng(1).integers(0, 256, 28 * 28 * 100, np.uint8).tobytes()
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + page * (count // 100), 1)
        )
        header = struct.pack(">2i", 0x801, count)
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(header + labels.tobytes(), 1)
        )


def run_in(folder, *command, path=""):
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=env)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, folder):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert words[0] == "python"
    if "train_rbsf" in command and "--resume" not in command:
        words += SMALL if "--data" not in command else [*SMALL, "--teacher", "teacher.safetensors"]
    if "train_classifier" in command:
        words += shlex.split("--epochs 1 --subset 60 --batch-size 60 --warmup 0 --threads 1")
    if "mnist" in command and "photos" not in command:
        words += ["--check", "off"]  # noise has another checksum than MNIST
    if "make_synthetic" in command:
        words += ["--count", "1", "--frames", "2"]
    # Its 40 videos take a while; test_train.py runs it with fewer.
    if command == "python tools/train_rbsf.py":
        words += ["--data", "GOT-10k/train"]
    if "tune.py" in command:
        words += ["--trials", "2", "--threads", "1"]
    done = run_in(folder, sys.executable, str(ROOT / words[1]), *words[2:])
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.splitlines()[0])
def test_every_program_runs(program, folder):
    done = run_in(folder, sys.executable, "-c", program, path=str(ROOT))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_what_a_packed_file_can_hold_is_listed():
    named = {*re.findall(r"`(\w+)`", TEXT)}
    assert {kind.__name__ for kind in FORMS if kind.__module__.startswith("torch.")} <= named
    assert {name.rstrip("_") for name in CALLS} <= named


def test_every_named_file_is_there():
    for path in re.findall(r"\]\((docs/[^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:tools|tracker|eval|configs|rbsf)/[\w./]*)`", TEXT):
        assert (ROOT / path).exists(), path
