"""Every command and program of the README and the guides runs, with the files that they name.

Those of the guides are slow: `make test-all` runs them. Each page has its own folder, in which its
commands and programs run in order.
"""

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
from documents import GUIDES, page_name, program_of, steps, words_of
from requirements import peers

from rbsf.datasets.synthetic.videos import make_sequence, video_name, write_got10k, write_video
from rbsf.eval.evaluation import SYNTHETIC
from rbsf.export.modules import CALLS, FORMS

README = ROOT / "README.md"
SMALL = shlex.split("--epochs 1 --pairs 2 --batch-size 2 --val-sequences 1 --val-frames 2")
SMALL += ["--workers", "0", "--threads", "1", "--device", "cpu", "--width", str(NARROW)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that gives a page its folder, with the files that commands name."""
    first = make_folder(tmp_path_factory.mktemp("readme"))
    made = {}

    def folder_of(page):
        if page not in made:
            made[page] = tmp_path_factory.mktemp(page.stem) / "folder"
            shutil.copytree(first, made[page], symlinks=True)
        return made[page]

    return folder_of


def make_folder(folder):
    write_video(folder / "in.mp4", seed=3, frames=8)
    write_video(folder / "unlabelled" / "a.mp4", seed=4, frames=2)
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
    write_mnist(folder.with_name(f"{folder.name}_data") / "MNIST" / "raw")
    (folder / "data").symlink_to(folder.with_name(f"{folder.name}_data"))
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


def prepared(module, given):
    """The flags `given` of a program, with those that make it quick."""
    if module.endswith("train_rbsf") and "--resume" not in given:
        given += [*SMALL, "--teacher", "teacher.safetensors"] if "--data" in given else SMALL
        given += [] if "--data" in given else ["--data", "GOT-10k/train"]  # 40 videos take a while
    if module.endswith("train_classifier"):
        given += shlex.split("--epochs 1 --subset 60 --batch-size 60 --warmup 0 --threads 1")
    if "mnist" in given and "--root" in given:
        given += ["--check", "off"]  # noise has another checksum than MNIST
    if module.endswith("make_synthetic"):
        given += ["--count", "1", "--frames", "2"]
    if module.endswith("run_long_term"):
        given += ["--as-they-are"]  # three frames are too few to depart
    if module.endswith("tune"):
        given += ["--trials", "2", "--threads", "1"]
    return given


def all_steps():
    """The steps of all pages; those of guides are slow."""
    for page in (README, *GUIDES):
        slow = [] if page == README else [pytest.mark.slow]
        for kind, step in steps(page.read_text()):
            name = f"{page.stem}: {step.splitlines()[0]}"
            yield pytest.param(page, kind, step, marks=slow, id=name)


def link_published_tracker(folder, real_data):
    for name in ("backbone.onnx", "head.onnx"):
        (published,) = peers(real_data, f"nano3_{name}")
        (folder / name).symlink_to(published)


@pytest.mark.parametrize(("page", "kind", "step"), all_steps())
def test_every_command_and_program_runs(page, kind, step, folders, request):
    folder = folders(page)
    if "backbone.onnx,head.onnx" in step:
        link_published_tracker(folder, request.getfixturevalue("real_data"))
    command = ["-c", step]
    if kind == "sh":
        program = program_of(words_of(step))
        # test_documents.py checks what can be checked of others, test_page.py runs the server.
        if program is None or program[0] == "rbsf.tools.serve":
            return
        command = ["-m", program[0], *prepared(*program)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() or kind == "sh"


def test_what_a_packed_file_can_hold_is_listed():
    named = {*re.findall(r"`(\w+)`", (ROOT / "docs/guide/binarize.md").read_text())}
    assert {kind.__name__ for kind in FORMS if kind.__module__.startswith("torch.")} <= named
    assert {name.rstrip("_") for name in CALLS} <= named


@pytest.mark.parametrize("page", [README, *GUIDES], ids=page_name)
def test_every_named_file_is_there(page):
    for path in re.findall(
        r"`((?:tools|tracker|eval|configs|rbsf|docs)/[\w./]*)`", page.read_text()
    ):
        assert (ROOT / path).exists(), path
