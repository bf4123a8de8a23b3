"""The trackers that benchmarks run.

A kind of tracker is one file here, with a subclass of `TrackerSpec`, and one place in `KINDS`.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rbsf.eval.trackers.network import NetworkSpec
from rbsf.eval.trackers.onnx_pair import PairSpec
from rbsf.eval.trackers.opencv import OpenCVSpec
from rbsf.eval.trackers.own import OwnSpec
from rbsf.eval.trackers.spec import Kind, Tracker, TrackerSpec
from rbsf.eval.trackers.static import StaticSpec
from rbsf.shipped import find_weights, shipped_trackers
from rbsf.tracker.engines import choose_engine
from rbsf.tracker.flags import read_constants, with_redetect
from rbsf.tracker.loading import constants_of

__all__ = [
    "NetworkSpec",
    "Tracker",
    "TrackerSpec",
    "check_labels",
    "parse_tracker",
    "parse_trackers",
]

# All but our own networks, which take the flags of the command line as well.
KINDS: tuple[Kind, ...] = (StaticSpec, OpenCVSpec, PairSpec, OwnSpec)


def check_labels(labels: Iterable[str]) -> None:
    """Raise ValueError if two trackers have one label: one's results would replace the other's."""
    for label, count in Counter(labels).items():
        if count > 1:
            raise ValueError(
                f"{count} trackers are called {label}; give them labels: --tracker LABEL=WHAT"
            )


def parse_trackers(texts: Iterable[str], args: Namespace) -> list[TrackerSpec]:
    """Read each of `texts` by `parse_tracker`, with its errors.

    `args` have the flags of `rbsf.tracker.flags` for the network, the constants and the search for
    lost targets. Also raises ValueError for constants or `redetect` if no tracker takes them.
    """
    how = args.precision, args.device, args.constants, args.engine, args.redetect
    specs = [parse_tracker(text, *how) for text in texts]
    flags = {"--constants": args.constants, "--redetect": args.redetect}
    given = [flag for flag, value in flags.items() if value]
    if given and not any(isinstance(spec, NetworkSpec) for spec in specs):
        raise ValueError(f"{given[0]} is for our own networks, and no --tracker is one")
    return specs


def parse_tracker(
    text: str,
    precision: str = "float32",
    device: str = "cpu",
    constants: Path | None = None,
    engine: str = "auto",
    redetect: str | None = None,
) -> TrackerSpec:
    """Read `[LABEL=]WHAT`, where WHAT is one of the `FORMS` of a kind, or a weights file.

    `constants`: file of the constants. `engine`: see `rbsf.tracker.engines.choose_engine`.
    `redetect`: see `StateConfig`. They change our own networks alone. Raises ValueError for a
    mistake in `text`, for constants of another network and where the engine cannot be had;
    FileNotFoundError for a missing file.
    """
    label, what = _split_label(text)
    for kind in KINDS:
        if spec := kind.read(what, label):
            return spec
    path = find_weights(what)
    if not path.is_file():
        forms = [*shipped_trackers(), *(form for kind in KINDS for form in kind.FORMS)]
        known = ", ".join(forms)
        raise FileNotFoundError(f"--tracker {what!r}: no such weights file; give one, or {known}")
    label = label or path.stem
    path, engine = choose_engine(path, engine)
    config = with_redetect(read_constants(constants, constants_of(path)), redetect)
    names = [constants.name if constants else "", f"redetect {redetect}" if redetect else ""]
    named = ", ".join(name for name in names if name)
    return NetworkSpec(label, (path,), named, precision, device, config, engine)


def _split_label(text: str) -> tuple[str, str]:
    """The label, empty where there is none, and what it stands for."""
    label, equals, what = text.partition("=")
    if not equals or Path(text).is_file():  # such as lr=0.1/last.safetensors
        return "", text
    if not label:
        raise ValueError(f"--tracker {text!r}: the label before = is empty")
    return label, what
