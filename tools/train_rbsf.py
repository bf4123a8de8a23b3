"""Train RB-SF, the 1-bit SiamFC tracker, or its float and XNOR-Net twins, from pairs of frames.

Without --data it trains on synthetic videos that it makes itself, which is only a try-out. For a
usable tracker give real data: --data GOT-10k/train, or any folder of sequences or still images, or
a crop store of rbsf prepare-pairs.

RB-SF and XNOR-SF start from a float teacher: the shipped one, the one of --teacher PATH, or with
--own-teacher one that is trained first. RB-SF 2 learns from a published tracker: --model rbsf2
--teacher BACKBONE.onnx,HEAD.onnx. --model rbsf2 --help lists its settings.

Several GPUs: torchrun --nproc-per-node N tools/train_rbsf.py ...
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import require, run

EXAMPLE = "--data GOT-10k/train --out runs/got10k"


def main(argv: list[str] | None = None) -> int:
    """Train; 0 when done, 128 + signal when stopped."""
    require("train")
    from rbsf.tools.recipes.trackers import read_recipe
    from rbsf.train.trainer import run as train

    return train(*read_recipe(argv, __doc__ or "", EXAMPLE))


if __name__ == "__main__":
    run(main)
