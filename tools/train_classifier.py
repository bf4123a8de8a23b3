"""Train a 1-bit classifier by RBCN or one of its rivals, or the real network.

It learns from MNIST, CIFAR, ImageNet or a folder of images.

configs/classify/ has the paper's settings; tools/reproduce.py runs whole tables of the paper.

RBCN needs a float teacher: give --teacher PATH, or one is trained first. It is kept in
OUT/teachers, or with --cache PATH in PATH/teachers, where other runs find it. --method trains a
rival without RBCN's discriminators, feature regression and batch-norm pass, unless you ask for
them. With --start random, a rival needs no teacher.

Several GPUs: torchrun --nproc-per-node N tools/train_classifier.py ...
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout is used if nothing is installed
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from rbsf.system.program import require, run

EXAMPLE = "--config mnist --root data --out runs/mnist"


def main(argv: list[str] | None = None) -> int:
    """Train; 0 when done, 128 + signal when stopped."""
    require("train")
    from rbsf.tools.recipes.classifier import ClassifierRecipe
    from rbsf.tools.recipes.classifier_config import read_config
    from rbsf.train.trainer import run as train

    return train(ClassifierRecipe, read_config(argv, __doc__ or "", EXAMPLE))


if __name__ == "__main__":
    run(main)
