"""Train RB-SF, the 1-bit SiamFC tracker, or its float and XNOR-Net twins, from pairs of frames.

Without --data it trains on synthetic videos that it makes itself: a try-out, no more.  For a tracker to use give real
data: --data GOT-10k/train, or any folder of sequences, still images, or a crop store of tools/prepare_pairs.py.
RB-SF and XNOR-SF start from a float teacher: --teacher FILE, or one that is trained first.
Several GPUs: torchrun --nproc-per-node N tools/train_rbsf.py ...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder, installed or not

from tools.cli import run


def main(argv: list[str] | None = None) -> int:
    """Train; 0 when done, 128 + signal when stopped."""
    from tools.tracker_config import read_config  # not above: `run` words what can fail in these imports
    from tools.training import train_all

    return train_all(read_config(argv, __doc__ or ""))


if __name__ == "__main__":
    run(main)
