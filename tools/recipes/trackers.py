"""The recipe by which a network that tracks is trained: the one of its --model."""

from __future__ import annotations

import argparse
from typing import Any

from rbsf.tools.recipes.pairs import PairRecipe
from rbsf.tools.recipes.rbsf2 import DistilledRecipe, read_settings
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import read_config

EXAMPLE_OF_RBSF2 = "--model rbsf2 --data pairs.db --teacher b.onnx,h.onnx --out runs/rbsf2"


def read_recipe(
    argv: list[str] | None, description: str, example: str
) -> tuple[type[PairRecipe[Any]], Any]:
    """The recipe that a command line asks for, and its settings.

    `description` and `example` are for --help. Raises ValueError for settings that are wrong.
    """
    family = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    family.add_argument("--model")
    known, others = family.parse_known_args(argv)
    if known.model == "rbsf2":  # it has its own settings
        return DistilledRecipe, read_settings(others, description, EXAMPLE_OF_RBSF2)
    return SiameseRecipe, read_config(argv, description, example)
