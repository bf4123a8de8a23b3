"""ImageNet, Tiny-ImageNet and any folder of images by class: where the files are, and what their
labels are.

ROOT/train/CLASS/IMAGE or ROOT/train/CLASS/images/IMAGE (Tiny-ImageNet), and for validation ROOT/val
(or ROOT/validation, ROOT/test): folders of classes likewise, or one flat folder (val or val/images)
whose labels are in one of these files, in that folder or in ROOT, ROOT/devkit/data or
ROOT/ILSVRC2012_devkit_t12/data:

    val_annotations.txt                           IMAGE CLASS ... a line (Tiny-ImageNet)
    LOC_val_solution.csv                          IMAGE,CLASS ... after a heading (ImageNet as Kaggle has it)
    imagenet_2012_validation_synset_labels.txt    CLASS a line, by ascending name of image
    ILSVRC2012_validation_ground_truth.txt        a number a line, likewise; beside map_clsloc.txt: CLASS NUMBER NAME

ROOT may also have these below ILSVRC/Data/CLS-LOC (Kaggle) or tiny-imagenet-200.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.video.frames import IMAGE_SUFFIXES

PLACES = (".", "ILSVRC/Data/CLS-LOC", "tiny-imagenet-200")
VALIDATION = ("val", "validation", "test")
DEVKITS = (".", "devkit/data", "ILSVRC2012_devkit_t12/data")
MANY = 100  # classes, from which on a bar shows the progress of listing them

Listing = tuple[list[str], list[str]]  # files below a folder, the class of each


@dataclass(frozen=True)
class FolderSet:
    """What is to be in a data set (None: anything) and how its images are cropped."""

    size: int = 224
    share: float = 224 / 256  # of the short side, for evaluation
    classes: int | None = None
    train: int | None = None
    val: int | None = None


IMAGENET = FolderSet(classes=1000, train=1_281_167, val=50_000)
TINY_IMAGENET = FolderSet(size=64, share=1.0, classes=200, train=100_000, val=10_000)
FOLDER = FolderSet()


def open_image_folder(
    root: Path, kind: FolderSet = FOLDER, check: str = "auto", skip_broken: bool = False
) -> tuple[FolderData, FolderData]:
    """Training and validation images of ROOT; classes are those of the training folder, in order of
    their names.

    `check` other than "off": the numbers of classes and images must be those of `kind`.
    FileNotFoundError or ValueError for folders, labels and classes that are missing, empty or
    unknown. No image is opened.
    """
    base = next((root / place for place in PLACES if (root / place / "train").is_dir()), None)
    if base is None:
        raise FileNotFoundError(
            f"no folder {root / 'train'}; images are expected as {root}/train/CLASS/IMAGE"
        )
    val = next((base / name for name in VALIDATION if (base / name).is_dir()), None)
    if val is None:
        raise FileNotFoundError(
            f"no folder {base / 'val'} beside {base / 'train'}; validation images are expected there"
        )
    listings = {"train": _by_class(base / "train"), "val": _validation(val, root)}
    classes = tuple(sorted(set(listings["train"][1])))
    _check_classes(base / "train", val, classes, set(listings["val"][1]))
    if check != "off":
        _check_counts(
            base, kind, len(classes), {split: len(files) for split, (files, _) in listings.items()}
        )
    number = {name: label for label, name in enumerate(classes)}
    train, test = (
        FolderData(
            folder,
            files,
            np.array([number[name] for name in names], np.int64),
            classes,
            kind.size,
            kind.share,
            skip_broken,
        )
        for folder, (files, names) in zip((base / "train", val), listings.values(), strict=True)
    )
    return train, test


def _by_class(folder: Path) -> Listing:
    """Images of a folder of classes; ValueError where there is no class, or one without images."""
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise ValueError(
            f"{folder} has no folders of classes; images are expected as {folder}/CLASS/IMAGE"
        )
    files, labels, empty = [], [], []
    for name in tqdm(
        names, f"listing {folder.name}", leave=False, disable=len(names) < MANY or None
    ):
        below = _images(folder, name) or _images(folder, f"{name}/images")
        empty += [] if below else [name]
        files += below
        labels += [name] * len(below)
    if empty:
        raise ValueError(
            f"{folder / empty[0]} has no images ({len(empty)} of {len(names)} classes are empty)"
        )
    return files, labels


def _images(folder: Path, below: str) -> list[str]:
    """Paths below `folder` of the image files in one of its folders, ascending; none where it is
    not there.
    """
    if not (folder / below).is_dir():
        return []
    names = (entry.name for entry in os.scandir(folder / below))
    names = sorted(
        name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    return names if below == "." else [f"{below}/{name}" for name in names]


def _validation(val: Path, root: Path) -> Listing:
    folders = {entry.name for entry in os.scandir(val) if entry.is_dir()}
    flat = [] if folders - {"images"} else _images(val, ".") or _images(val, "images")
    return _flat(val, root, flat) if flat else _by_class(val)


def _flat(val: Path, root: Path, files: list[str]) -> Listing:
    """Labels of a flat folder of images, from whichever of the known files is there."""
    for folder in (val, val.parent, *(root / place for place in DEVKITS)):
        for name, read in READERS.items():
            if (folder / name).is_file():
                return files, _match(folder / name, read(folder / name), files)
    places = f"{val} or {root}"
    raise FileNotFoundError(
        f"{val} is a flat folder of images, and none of {', '.join(READERS)} is in {places}"
    )


def _match(path: Path, labels: dict[str, str] | list[str], files: list[str]) -> list[str]:
    """The class of each file: by its name without suffix, or by its position."""
    if isinstance(labels, list):
        if len(labels) != len(files):
            raise ValueError(f"{path}: {len(labels)} labels for {len(files)} images")
        return labels
    stems = [Path(file).stem for file in files]
    for wrong, what in (
        (set(stems) - labels.keys(), "without a label"),
        (labels.keys() - set(stems), "not there"),
    ):
        if wrong:
            raise ValueError(f"{path}: image {min(wrong)} is {what} ({len(wrong)} are)")
    return [labels[stem] for stem in stems]


def _lines(path: Path) -> list[str]:
    return [
        line
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]


def _pairs(path: Path, lines: Iterable[str], separator: str | None) -> dict[str, str]:
    """Image (without suffix) and class of each line, its first two words; `separator` ends the
    image's name.
    """
    labels = {}
    for line in lines:
        image, *rest = line.split(separator, 1)
        if not rest or not rest[0].split():
            raise ValueError(f"{path}: no image and class in the line {line[:60]!r}")
        labels[Path(image).stem] = rest[0].split()[0]
    return labels


def _ground_truth(path: Path) -> list[str]:
    synsets = path.with_name("map_clsloc.txt")
    if not synsets.is_file():
        raise FileNotFoundError(
            f"{path} has numbers of classes; {synsets}, which names them, is missing"
        )
    names = {words[1]: words[0] for words in map(str.split, _lines(synsets)) if len(words) > 1}
    unknown = sorted(set(map(str.strip, _lines(path))) - names.keys())
    if unknown:
        raise ValueError(f"{path}: class {unknown[0][:40]!r} is not in {synsets}")
    return [names[number.strip()] for number in _lines(path)]


READERS: dict[str, Callable[[Path], dict[str, str] | list[str]]] = {
    "val_annotations.txt": lambda path: _pairs(path, _lines(path), None),
    "LOC_val_solution.csv": lambda path: _pairs(path, _lines(path)[1:], ","),
    "imagenet_2012_validation_synset_labels.txt": lambda path: [
        line.strip() for line in _lines(path)
    ],
    "ILSVRC2012_validation_ground_truth.txt": _ground_truth,
}


def _check_classes(train: Path, val: Path, classes: tuple[str, ...], found: set[str]) -> None:
    missing, unknown = sorted(set(classes) - found), sorted(found - set(classes))
    if unknown:
        raise ValueError(
            f"{val}: class {unknown[0][:60]} is not in {train} ({len(unknown)} classes are not)"
        )
    if missing:
        raise ValueError(
            f"{val}: class {missing[0]} of {train} has no images here ({len(missing)} classes have none)"
        )


def _check_counts(base: Path, kind: FolderSet, classes: int, images: dict[str, int]) -> None:
    wanted = {"classes": (classes, kind.classes)}
    wanted |= {
        f"images in {split}": (images[split], getattr(kind, split)) for split in ("train", "val")
    }
    for what, (found, expected) in wanted.items():
        if expected is not None and found != expected:
            raise ValueError(
                f"{base}: {found} {what}, not {expected}; open a part of it as data set 'folder'"
            )
