"""The recipe by which a network that tracks is trained: the one of its --model."""

from __future__ import annotations

import argparse
from typing import Any

from rbsf.tools.recipes import rbsf2, siamese_config
from rbsf.tools.recipes.pairs import PairRecipe
from rbsf.tools.recipes.siamese import SiameseRecipe

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
        return rbsf2.DistilledRecipe, rbsf2.read_config(others, description, EXAMPLE_OF_RBSF2)
    return SiameseRecipe, siamese_config.read_config(argv, description, example)
