"""Compare two versions of this project: are boxes and logits equal to the bit, which is faster?

    git worktree add ../before COMMIT
    (cd ../before && python setup.py build_ext --inplace)
    python benchmarks/two_trees.py --other ../before --sequence OTB/David --network net.safetensors

Each round starts a process in each tree, one after the other. It runs the shipped tracker with
three scales and with one on the first --frames of each sequence, which are stored as PNG before,
and then each packed classifier on one image. A process reports the median of its times. The ratio
divides this tree's least median over all rounds by the other tree's. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: use this checkout if the project is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import positive_int, run

# The program that runs in each tree.
WORKER = """
import hashlib, json, sys, time
from pathlib import Path
sys.path.insert(0, ".")
import cv2
import numpy as np
from rbsf.tools.classify import load
from rbsf.tracker.flags import read_constants
from rbsf.tracker.loading import load_network
from rbsf.tracker.siamfc import SiamFC, TrackerConfig

folders, networks, repeat = json.loads(sys.argv[1])
digest, found = hashlib.sha256(), {}
backbone = load_network("weights/rbsf.safetensors", threads=1)
for scales, config in (("three scales", "siamfc.yaml"), ("one scale", "fast.yaml")):
    times = []
    for folder in folders:
        tracker = SiamFC(backbone, read_constants(Path("configs/track") / config, TrackerConfig))
        box = json.loads((Path(folder) / "box.json").read_text())
        for path in sorted(Path(folder).glob("*.png")):
            image = cv2.imread(str(path))[..., ::-1].copy()
            start = time.perf_counter()
            if path.stem == "0000":
                tracker.init(image, box)
            else:
                result = np.asarray(tracker.update(image).box, np.float64)
                times.append(time.perf_counter() - start)
                digest.update(result.tobytes())
    if times:
        found[scales] = 1000 * float(np.median(times))
for path in networks:
    network = load(Path(path), "packed", 1)
    size, channels = network.input["size"], len(network.input["mean"])
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, channels), dtype=np.uint8)
    digest.update(network.run(image).tobytes())
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        network.run(image)
        times.append(time.perf_counter() - start)
    found[Path(path).stem] = 1000 * float(np.median(times))
print(json.dumps({"digest": digest.hexdigest(), "ms": found}))
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--other",
        type=Path,
        required=True,
        metavar="TREE",
        help="a work tree of this project, its extension built",
    )
    add(
        "--sequence",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="of OTB or UAV123; repeatable",
    )
    add(
        "--network",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a packed classifier; repeatable",
    )
    add(
        "--frames",
        type=positive_int,
        default=60,
        metavar="N",
        help="of each sequence (default: %(default)s)",
    )
    add("--rounds", type=positive_int, default=5, metavar="N", help="default: %(default)s")
    add(
        "--repeat",
        type=positive_int,
        default=50,
        metavar="N",
        help="runs of a classifier (default: %(default)s)",
    )
    add(
        "--isa",
        action="append",
        default=[],
        help="instruction set; repeatable (default: the fastest)",
    )
    return parser.parse_args(argv)


def store_frames(sequence: Path, folder: Path, frames: int) -> None:
    """Store the first frames of a sequence as PNG files, and its first box."""
    import cv2

    from rbsf.datasets.video.sequences import load_sequences

    (found,) = load_sequences(sequence)
    for number in range(min(frames, len(found))):
        cv2.imwrite(str(folder / f"{number:04}.png"), found.image(number)[..., ::-1])
    (folder / "box.json").write_text(json.dumps([float(v) for v in found.boxes[0]]))


def measure(tree: Path, work: str, isa: str) -> dict:
    """The worker's results in one tree. Raises ValueError if it fails."""
    env = os.environ | {"RBSF_ISA": isa, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, work]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{tree}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Measure, compare, print."""
    args = parse_args(argv)
    from rbsf.engine.cpu import choose_isa
    from rbsf.system.environment import environment

    here = Path(__file__).resolve().parents[1]
    print(json.dumps(environment()))
    with tempfile.TemporaryDirectory() as temporary:
        folders = []
        for number, sequence in enumerate(args.sequence):
            folder = Path(temporary) / f"{number}"
            folder.mkdir()
            store_frames(sequence, folder, args.frames)
            folders.append(str(folder))
        networks = [str(network.resolve()) for network in args.network]
        work = json.dumps([folders, networks, args.repeat])
        for isa in args.isa or [choose_isa()]:
            ours, others = [], []
            for _ in range(args.rounds):
                ours.append(measure(here, work, isa))
                others.append(measure(args.other, work, isa))
            print_comparison(isa, ours, others)


def print_comparison(isa: str, ours: list[dict], others: list[dict]) -> None:
    """Print whether all rounds of both trees agree, and the least times with their ratios."""
    digests = {found["digest"] for found in (*ours, *others)}
    print(f"{isa}: boxes and logits {'equal to the bit' if len(digests) == 1 else 'DIFFER'}")
    for name in ours[0]["ms"]:
        own = min(found["ms"][name] for found in ours)
        other = min(found["ms"][name] for found in others)
        times = f"{own:.3f} ms, the other {other:.3f} ms"
        print(f"  {name}: {times}, ratio {own / other:.3f}", flush=True)


if __name__ == "__main__":
    run(main)
