"""Flags of programs that track: the network, its engine, the constants. Imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbsf.shipped import find_constants, find_weights
from rbsf.system.program import positive_int
from rbsf.tracker.states import REDETECT

if TYPE_CHECKING:
    from rbsf.tracker.loading import Constants


def add_weights_flag(parser: argparse.ArgumentParser) -> None:
    """Add --weights."""
    parser.add_argument(
        "--weights",
        type=find_weights,
        default=find_weights("rbsf"),
        metavar="FILE",
        help="network: a file, or the name of shipped weights, such as rbsf (default: rbsf)",
    )


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add --threads, --engine, --precision and --device."""
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads of the network (default: all cores)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "packed", "torch"),
        default="auto",
        help="what runs the network: the packed 1-bit engine, which counts bits on the CPU,"
        " or PyTorch (default: auto = the packed one for packed files, as the shipped weights are)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="arithmetic in PyTorch, so with --engine torch or float weights;"
        " bfloat16 is faster on CPUs with AMX and on GPUs (default: float32)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="of PyTorch: cpu, cuda, cuda:1 ... (default: auto = a GPU if there is one)",
    )


def add_constants_flag(parser: argparse.ArgumentParser) -> None:
    """Add --constants."""
    parser.add_argument(
        "--constants",
        type=find_constants,
        metavar="FILE",
        help="YAML of tracking constants, as rbsf tune writes it,"
        " or the name of shipped ones, such as fast",
    )


def add_redetect_flag(parser: argparse.ArgumentParser) -> None:
    """Add --redetect."""
    parser.add_argument(
        "--redetect",
        choices=REDETECT,
        help="where a lost target is looked for: where it is, around its last place, or in the"
        " whole frame (default: as --constants says, else frame)",
    )


def with_redetect(constants: Constants, redetect: str | None) -> Any:
    """The constants with the value of --redetect, as they are where the flag is not given."""
    return replace(constants, redetect=redetect) if redetect else constants


def read_constants(path: Path | None, kind: type[Constants] | None = None) -> Any:
    """The constants of a file, or the defaults without one.

    `kind`: class of the constants, by default SiamFC's. Raises FileNotFoundError for a missing
    file, and ValueError, naming file and key, for a wrong one.
    """
    from rbsf.tracker.siamfc import TrackerConfig
    from rbsf.train.config import read_yaml

    kind = kind or TrackerConfig
    if not path:
        return kind()
    settings = read_yaml(kind, path)
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
