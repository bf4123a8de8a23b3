"""Flags of programs that track: the network, its engine, the constants. Imports nothing slow."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbsf.shipped import DEFAULT, find_constants, find_weights
from rbsf.system.flags import Flags
from rbsf.system.program import thread_count
from rbsf.tracker import ENGINES, PRECISIONS
from rbsf.tracker.states import REDETECT

if TYPE_CHECKING:
    from rbsf.tracker.loading import Constants


def add_weights_flag(flags: Flags) -> None:
    """Add --weights."""
    flags.add_argument(
        "--weights",
        type=find_weights,
        default=find_weights(DEFAULT),
        metavar="PATH",
        help="Use the network in this file, or the shipped one of this name: rbsf2, rbsf or siamfc"
        f" (default: {DEFAULT})",
    )


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add --threads, --engine, --precision and --device, in their own group."""
    flags = parser.add_argument_group("what the network runs on")
    flags.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="Run the network on N threads of the CPU (default: one for each core)",
    )
    flags.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="Run the network in the packed engine, which counts bits on the CPU, or in PyTorch;"
        " auto takes the packed engine for packed files, which the shipped weights are",
    )
    flags.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="Let PyTorch compute with numbers of 32 or of 16 bits; bfloat16 is faster on GPUs and"
        " on CPUs with AMX; the packed engine takes no notice",
    )
    flags.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="Let PyTorch run on cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one",
    )


def add_constants_flag(flags: Flags, choose: bool = False) -> None:
    """Add --constants; `choose` says that they choose the network if none is named."""
    chosen = ". If no network is named, they choose it too"
    flags.add_argument(
        "--constants",
        type=find_constants,
        metavar="PATH",
        help="Track with the constants in this YAML file, which tools/tune.py writes, or with the"
        " shipped ones of this name: fast, bits or siamfc (default: the tracker's own)"
        + (chosen if choose else ""),
    )


def add_redetect_flag(flags: Flags) -> None:
    """Add --redetect."""
    flags.add_argument(
        "--redetect",
        choices=REDETECT,
        help="Look for a lost target where it was last (off), around that place (local), or in the"
        " whole frame (frame) (default: what --constants says, else frame)",
    )


def with_redetect(constants: Constants, redetect: str | None) -> Any:
    """The constants with the value of --redetect; unchanged if the flag is not given."""
    return replace(constants, redetect=redetect) if redetect else constants


def read_constants(path: Path | None, kind: type[Constants]) -> Any:
    """The constants of the class `kind` in a file, or its defaults if there is no file.

    Raises FileNotFoundError for a missing file, and ValueError that names file and key for a wrong
    file or another tracker's file.
    """
    from rbsf.train.config import read_yaml

    if not path:
        return kind()
    other = _most_known(path, kind)
    if other is not kind:
        name = _shipped_kinds()[other]
        raise ValueError(f"{path}: has constants of the tracker {name}, which no other can use")
    settings = read_yaml(kind, path)
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def default_tracker(constants: Path | None) -> str:
    """The name of the shipped tracker that runs if none is named.

    It is DEFAULT, unless the file `constants` has more constants of another one. Raises
    FileNotFoundError for a missing file, and ValueError for one that cannot be read.
    """
    if not constants:
        return DEFAULT
    default = next(kind for kind, name in _shipped_kinds().items() if name == DEFAULT)
    return _shipped_kinds()[_most_known(constants, default)]


def _shipped_kinds() -> dict[type[Constants], str]:
    """The shipped 1-bit trackers, by the class of their constants."""
    from rbsf.tracker.loading import KINDS

    return {kind.constants: kind.shipped for kind in KINDS}


def _most_known(path: Path, first: type[Constants]) -> type[Constants]:
    """The class that has the most of the constants in a file; `first`, if no other has more."""
    from rbsf.train.config import read_unchecked

    names = read_unchecked(path).keys()
    kinds = [first, *(kind for kind in _shipped_kinds() if kind is not first)]
    return max(kinds, key=lambda kind: len(names & kind.__dataclass_fields__.keys()))
