"""Attributes of sequences, such as fast motion, by which reports break scores down.

UAV123 publishes 12 attributes of each video, and GOT-10k labels two in each frame. For other data
sets, the attributes that only need boxes are computed, as OTB's authors define them (Wu, Lim and
Yang, 2015). The size of the target, in COCO's three classes, is computed wherever boxes are known.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from rbsf.datasets.video.sequences import Sequence, span_of, whole_name
from rbsf.system.text import read_text

UAV123 = {  # in the order of the flags in its files
    "SV": "scale variation",
    "ARC": "aspect ratio change",
    "LR": "low resolution",
    "FM": "fast motion",
    "FOC": "full occlusion",
    "POC": "partial occlusion",
    "OV": "out of view",
    "BC": "background clutter",
    "IV": "illumination variation",
    "VC": "viewpoint change",
    "CM": "camera motion",
    "SOB": "similar object",
}
GOT10K = {
    "absent": "the target is gone in some frames",
    "cut": "the frame's edge cuts the target in some frames",
}
COMPUTED = {
    "SV": (
        "scale variation: the box's area is beyond half or twice the first one's in some frame"
        " (computed)"
    ),
    "FM": "fast motion: the centre moves by more than 20 pixels between two frames (computed)",
    "LR": "low resolution: the box has fewer than 400 pixels in some frame (computed)",
    "OV": "the target is absent in some frame (computed)",
}
SIZES = {
    "small": "the box has fewer than 32 x 32 pixels in the median frame (computed)",
    "medium": "the box has 32 x 32 to 96 x 96 pixels in the median frame (computed)",
    "large": "the box has more than 96 x 96 pixels in the median frame (computed)",
}
Words = dict[str, str]  # {short name of an attribute: explanation}
Found = dict[str, set[str]]  # {name of a sequence: short names of its attributes}


def attributes_of(
    dataset: str, root: Path | None, sequences: list[Sequence]
) -> tuple[Words, Found]:
    """Explanations of the attributes of a data set, and the attributes of each sequence.

    Warns of a damaged file of attributes; its sequence then has none of them.
    """
    if dataset == "GOT-10k-test":  # its boxes are not published
        return {}, {}
    words, found = _hardships(dataset, root, sequences)
    for sequence in sequences:
        found[sequence.name] |= _size(sequence)
    return words | SIZES, found


def _hardships(dataset: str, root: Path | None, sequences: list[Sequence]) -> tuple[Words, Found]:
    """The published attributes, or the computed ones if none are published."""
    if dataset == "GOT-10k-val":
        return GOT10K, {s.name: _read_got10k(s) for s in sequences}
    files = _uav123_files(dataset, root, sequences)
    if files:
        found = {name: _read_uav123(file) for name, file in files.items()}
        return _uav123_words(sequences), found
    return COMPUTED, {s.name: _computed(s) for s in sequences}


def _uav123_files(dataset: str, root: Path | None, sequences: list[Sequence]) -> dict[str, Path]:
    """The files of attributes of UAV123, by sequence; none where one is missing."""
    if dataset not in ("UAV123", "UAV20L") or root is None:
        return {}
    folder = root / "anno" / dataset / "att"
    files = {s.name: folder / f"{whole_name(s.name)}.txt" for s in sequences}
    return files if all(file.is_file() for file in files.values()) else {}


def _uav123_words(sequences: list[Sequence]) -> Words:
    """Explanations of UAV123's attributes, which are published only for whole videos."""
    if all(s.name == whole_name(s.name) for s in sequences):
        return UAV123
    return {name: f"{text} (somewhere in the whole video)" for name, text in UAV123.items()}


def _size(sequence: Sequence) -> set[str]:
    """The class of the target's size, a key of SIZES; empty if no frame has a box."""
    boxes = sequence.boxes[sequence.annotated()]
    if not len(boxes):
        return set()
    pixels = np.median(boxes[:, 2] * boxes[:, 3])
    if pixels < 32 * 32:
        return {"small"}
    if pixels <= 96 * 96:
        return {"medium"}
    return {"large"}


def _read_uav123(path: Path) -> set[str]:
    """The attributes that a file flags; none, with a warning, if it is damaged."""
    flags = _read_flags(path)
    if len(flags) != len(UAV123) or not set(flags) <= {"0", "1"}:
        found = " ".join(flags)[:60]
        warnings.warn(
            f"{path} is damaged: expected {len(UAV123)} flags of 0 or 1, found {found!r};"
            " its sequence counts for no attribute",
            stacklevel=2,
        )
        return set()
    return {name for name, flag in zip(UAV123, flags, strict=True) if flag == "1"}


def _read_got10k(sequence: Sequence) -> set[str]:
    """The attributes that some frame of the sequence is labelled with."""
    folder = Path(sequence.frames[0]).parent
    span = span_of(sequence.name)
    found = set()
    for name, label in (("absent", "absence"), ("cut", "cut_by_image")):
        file = folder / f"{label}.label"
        if file.is_file() and "1" in _read_flags(file)[span]:
            found.add(name)
    return found


def _read_flags(path: Path) -> list[str]:
    """The words of a file; none, with a warning, if it cannot be read."""
    try:
        return read_text(path).replace(",", " ").split()
    except (ValueError, OSError) as error:
        warnings.warn(f"{error}; its sequence counts for no attribute", stacklevel=2)
        return []


def _computed(sequence: Sequence) -> set[str]:
    """The attributes of COMPUTED that a sequence has."""
    known = sequence.annotated()
    boxes = sequence.boxes[known]
    areas = boxes[:, 2] * boxes[:, 3]
    ratios = areas / areas[:1]
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    distances = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    moves = distances[np.diff(known) == 1]  # only between neighbouring frames
    found = {
        "SV": ((ratios < 0.5) | (ratios > 2)).any(),
        "FM": (moves > 20).any(),
        "LR": (areas < 400).any(),
        "OV": len(boxes) < len(sequence),
    }
    return {name for name, there in found.items() if there}
