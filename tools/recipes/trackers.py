"""The recipe by which a network that tracks is trained: the one of its --model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rbsf.models import WHOLE
from rbsf.shipped import find_config
from rbsf.tools.recipes import rbsf2, siamese_config
from rbsf.tools.recipes.pairs import PairRecipe
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.train.config import read_unchecked

EXAMPLE_OF_RBSF2 = "--model rbsf2 --data pairs.db --teacher b.onnx,h.onnx --out runs/rbsf2"


def read_recipe(
    argv: list[str] | None, description: str, example: str
) -> tuple[type[PairRecipe[Any]], Any]:
    """The recipe that a command line asks for, and its settings.

    `description` and `example` are for --help. Raises ValueError for settings that are wrong.
    """
    if _model(argv) in WHOLE:  # it has its own settings
        return rbsf2.DistilledRecipe, rbsf2.read_config(argv, description, EXAMPLE_OF_RBSF2)
    return SiameseRecipe, siamese_config.read_config(argv, description, example)


def _model(argv: list[str] | None) -> str | None:
    """The model that --model names, else the file of --config or the training to resume."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--model", "--config", "--out"):
        parser.add_argument(flag)
    parser.add_argument("--resume", action="store_true")
    flags, _ = parser.parse_known_args(argv)
    if flags.model:
        return str(flags.model)
    resumed = Path(flags.out or SiameseConfig.out) / "config.yaml" if flags.resume else None
    written = find_config(flags.config) if flags.config else resumed
    if not written or not written.is_file():
        return None  # the training itself will say what is missing
    return read_unchecked(written).get("model")
