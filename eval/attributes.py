"""What is hard about each sequence: the attributes by which benchmarks break their scores down.

UAV123 publishes 12 of them for each video, GOT-10k labels two in each frame; elsewhere those that
OTB's authors define by boxes alone (Wu, Lim and Yang, 2015) are computed.  The size of the target,
in COCO's three classes, is computed for every data set whose boxes are known.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from rbsf.datasets.video.sequences import Sequence, span_of, whole_name
from rbsf.eval.results import annotated
from rbsf.system.text import read_text

UAV123 = {  # in the order of its files
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
    "SV": "scale variation: the box's area is beyond half or twice the first one's in some frame (computed)",
    "FM": "fast motion: the centre moves by more than 20 pixels between two frames (computed)",
    "LR": "low resolution: the box has fewer than 400 pixels in some frame (computed)",
    "OV": "the target is absent in some frame (computed)",
}
SIZES = {
    "small": "the box has fewer than 32 x 32 pixels in the median frame (computed)",
    "medium": "the box has 32 x 32 to 96 x 96 pixels in the median frame (computed)",
    "large": "the box has more than 96 x 96 pixels in the median frame (computed)",
}


def attributes_of(
    dataset: str, root: Path | None, sequences: list[Sequence]
) -> tuple[dict[str, str], dict[str, set]]:
    """Explanations of the attributes, and those of each sequence: ({short name: words}, {sequence:
    {short names}}).
    """
    if dataset == "GOT-10k-test":  # its boxes are not published
        return {}, {}
    words, found = _hardships(dataset, root, sequences)
    return words | SIZES, {s.name: found[s.name] | _size(s) for s in sequences}


def _hardships(
    dataset: str, root: Path | None, sequences: list[Sequence]
) -> tuple[dict[str, str], dict[str, set]]:
    if dataset in ("UAV123", "UAV20L") and root is not None:
        folder = root / "anno" / dataset / "att"
        files = {s.name: folder / f"{whole_name(s.name)}.txt" for s in sequences}
        if all(file.is_file() for file in files.values()):
            parts = any(whole_name(name) != name for name in files)
            words = {
                key: f"{text} (somewhere in the whole video)" if parts else text
                for key, text in UAV123.items()
            }
            return words, {name: _read_uav123(file) for name, file in files.items()}
    if dataset == "GOT-10k-val":
        return GOT10K, {
            s.name: _read_got10k(Path(s.frames[0]).parent, span_of(s.name)) for s in sequences
        }
    return COMPUTED, {s.name: _computed(s) for s in sequences}


def _size(sequence: Sequence) -> set[str]:
    """The class of the target's size, one of SIZES; none where there is no box."""
    boxes = sequence.boxes[annotated(sequence)]
    if not len(boxes):
        return set()
    pixels = np.median(boxes[:, 2] * boxes[:, 3])
    if pixels < 32 * 32:
        return {"small"}
    return {"medium"} if pixels <= 96 * 96 else {"large"}


def _read_uav123(path: Path) -> set[str]:
    flags = _read_flags(path)
    if len(flags) != len(UAV123) or not set(flags) <= {"0", "1"}:
        warnings.warn(
            f"{path} is damaged: expected {len(UAV123)} flags of 0 or 1, found"
            f" {' '.join(flags)[:60]!r}; its sequence counts for no attribute",
            stacklevel=2,
        )
        return set()
    return {name for name, flag in zip(UAV123, flags, strict=True) if flag == "1"}


def _read_got10k(folder: Path, span: slice) -> set[str]:
    """What the labels, one a frame, say of the frames of ``span``."""
    files = {"absent": folder / "absence.label", "cut": folder / "cut_by_image.label"}
    return {
        name for name, file in files.items() if file.is_file() and "1" in _read_flags(file)[span]
    }


def _read_flags(path: Path) -> list[str]:
    """The words of a file; none, with a warning, where it cannot be read."""
    try:
        return read_text(path).replace(",", " ").split()
    except (ValueError, OSError) as error:
        warnings.warn(f"{error}; its sequence counts for no attribute", stacklevel=2)
        return []


def _computed(sequence: Sequence) -> set[str]:
    boxes = sequence.boxes[annotated(sequence)]
    areas, centers = boxes[:, 2] * boxes[:, 3], boxes[:, :2] + boxes[:, 2:] / 2
    ratio = areas / areas[:1]
    moved = np.linalg.norm(np.diff(centers, axis=0), axis=1)[np.diff(annotated(sequence)) == 1]
    found = {
        "SV": bool(((ratio < 0.5) | (ratio > 2)).any()),
        "FM": bool((moved > 20).any()),
        "LR": bool((areas < 400).any()),
        "OV": len(boxes) < len(sequence),
    }
    return {name for name, there in found.items() if there}
