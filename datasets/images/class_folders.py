"""ImageNet, Tiny-ImageNet and any folder of images by class: the files and their labels.

Training images are ROOT/train/CLASS/IMAGE, or in any folders below CLASS (Tiny-ImageNet: images).
Validation images are in ROOT/val (or ROOT/validation or ROOT/test): in folders of classes too, or
all in one flat folder, val or val/images. The labels of a flat folder are in one of these files,
which lies in val, beside val, or in ROOT, ROOT/devkit/data or ROOT/ILSVRC2012_devkit_t12/data:

    val_annotations.txt                           lines IMAGE CLASS ... (Tiny-ImageNet)
    LOC_val_solution.csv                          a heading, lines IMAGE,CLASS ... (Kaggle)
    imagenet_2012_validation_synset_labels.txt    lines CLASS, by ascending name of image
    ILSVRC2012_validation_ground_truth.txt        lines NUMBER, by ascending name of image; next to
                                                  map_clsloc.txt with lines CLASS NUMBER NAME

ROOT may also have train and val below ILSVRC/Data/CLS-LOC (Kaggle) or tiny-imagenet-200.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rbsf.datasets.images.in_files import FolderData
from rbsf.datasets.images.published import CROP_SHARE
from rbsf.datasets.video.images import encodable, is_image, list_images, warn_of_other_files
from rbsf.system.text import read_text

PLACES = (".", "ILSVRC/Data/CLS-LOC", "tiny-imagenet-200")
VALIDATION = ("val", "validation", "test")
DEVKITS = (".", "devkit/data", "ILSVRC2012_devkit_t12/data")
MANY = 100  # with at least so many classes, listing them shows a progress bar

Listing = tuple[list[str], list[str]]  # files below a folder, and each file's class


@dataclass(frozen=True)
class FolderSet:
    """What a data set has to hold (None: anything), and how its images are cropped."""

    size: int = 224
    share: float = CROP_SHARE
    classes: int | None = None
    train: int | None = None  # number of training images
    val: int | None = None  # number of validation images


IMAGENET = FolderSet(classes=1000, train=1_281_167, val=50_000)
TINY_IMAGENET = FolderSet(size=64, share=1.0, classes=200, train=100_000, val=10_000)
FOLDER = FolderSet()


def open_image_folder(
    root: Path, kind: FolderSet = FOLDER, check: str = "auto", skip_broken: bool = False
) -> tuple[FolderData, FolderData]:
    """Open the training and validation images in `root`; no image is read.

    The classes are those of the training folder, in order of their names. Unless `check` is "off",
    the numbers of classes and images must be those of `kind`. Raises FileNotFoundError or
    ValueError for folders, labels and classes that are missing, empty or unknown.
    """
    train, val = _find_splits(root)
    train_files, train_names = _by_class(train)
    val_files, val_names = _validation(val, root)
    classes = tuple(sorted(set(train_names)))
    _check_classes(train, val, classes, set(val_names))
    if check != "off":
        _check_count(train.parent, "classes", len(classes), kind.classes)
        _check_count(train.parent, "images in train", len(train_files), kind.train)
        _check_count(train.parent, "images in val", len(val_files), kind.val)

    def open_split(folder: Path, files: list[str], names: list[str]) -> FolderData:
        labels = _numbers(names, classes)
        return FolderData(folder, files, labels, classes, kind.size, kind.share, skip_broken)

    return open_split(train, train_files, train_names), open_split(val, val_files, val_names)


def _find_splits(root: Path) -> tuple[Path, Path]:
    """The folders of training and validation images. Raises FileNotFoundError without them."""
    train = _first_folder(root / place / "train" for place in PLACES)
    if train is None:
        raise FileNotFoundError(
            f"no folder {root / 'train'}; images are expected as {root}/train/CLASS/IMAGE"
        )
    val = _first_folder(train.parent / name for name in VALIDATION)
    if val is None:
        raise FileNotFoundError(
            f"no folder {train.parent / 'val'} beside {train}; validation images are expected there"
        )
    return train, val


def _first_folder(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_dir()), None)


def _numbers(names: list[str], classes: tuple[str, ...]) -> np.ndarray:
    """Numbers of the classes of these names, int64 `[N]`."""
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of[name] for name in names], np.int64)


def _by_class(folder: Path) -> Listing:
    """Images of a folder of classes. Raises ValueError if there is no class or an empty one."""
    names = _subfolders(folder)
    if not names:
        raise ValueError(
            f"{folder} has no folders of classes; images are expected as {folder}/CLASS/IMAGE"
        )
    _warn_of_loose_images(folder)
    files, labels, empty = [], [], []
    hidden = True if len(names) < MANY else None  # None: the bar is shown on terminals only
    for name in tqdm(names, f"listing {folder.name}", leave=False, disable=hidden):
        below = _images_below(folder, name)
        if not below:
            empty.append(name)
        files += below
        labels += [name] * len(below)
    if empty:
        raise ValueError(
            f"{folder / empty[0]} has no images ({len(empty)} of {len(names)} classes are empty)"
        )
    return files, labels


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, ascending, without hidden ones.

    Raises ValueError for a name that is not UTF-8, because weights could not store it.
    """
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return sorted(encodable(entry.name) for entry in entries if entry.is_dir())


def _images_below(folder: Path, name: str) -> list[str]:
    """Image files in the folder `name` of `folder` and in all folders below it.

    They are paths below `folder`, ascending in each folder. Hidden files and folders are left out,
    and links to folders are followed once.
    """
    found: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder / name, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        inside = sorted(n for n in names if real not in seen and not n.startswith("."))
        seen.add(real)
        below = Path(place).relative_to(folder).as_posix()
        found += [f"{below}/{n}" for n in inside if is_image(n)]
        others += [n for n in inside if not is_image(n)]
    warn_of_other_files(folder / name, others)
    return found


def _images(folder: Path, below: str) -> list[str]:
    """Image files in the folder `below` of `folder`, ascending, as paths below `folder`.

    The list is empty if that folder does not exist.
    """
    if not (folder / below).is_dir():
        return []
    names = sorted(list_images(folder / below))
    return names if below == "." else [f"{below}/{name}" for name in names]


def _warn_of_loose_images(folder: Path) -> None:
    """Warn of images that lie beside the folders of classes."""
    if loose := _images(folder, "."):
        fault = f"{len(loose)} images beside the folders of classes are left out"
        warnings.warn(f"{folder}: {fault}, such as {loose[0]}", stacklevel=2)


def _validation(val: Path, root: Path) -> Listing:
    if set(_subfolders(val)) - {"images"}:
        return _by_class(val)
    flat = _images(val, ".") or _images(val, "images")
    return _flat(val, root, flat) if flat else _by_class(val)


def _flat(val: Path, root: Path, files: list[str]) -> Listing:
    """Read the labels of a flat folder of images from the first known file that exists."""
    for folder in (val, val.parent, *(root / place for place in DEVKITS)):
        for name, read in READERS.items():
            table = folder / name
            if table.is_file():
                return files, _match(table, read(table), files)
    places = f"{val} or {root}"
    raise FileNotFoundError(
        f"{val} is a flat folder of images, and none of {', '.join(READERS)} is in {places}"
    )


def _match(path: Path, labels: dict[str, str] | list[str], files: list[str]) -> list[str]:
    """Find the class of each file by its name without suffix, or by its position."""
    if isinstance(labels, list):
        if len(labels) != len(files):
            raise ValueError(f"{path}: {len(labels)} labels for {len(files)} images")
        return labels
    stems = [Path(file).stem for file in files]
    _refuse_any(
        path, {stem for stem, count in Counter(stems).items() if count > 1}, "of several files"
    )
    _refuse_any(path, set(stems) - labels.keys(), "without a label")
    _refuse_any(path, labels.keys() - set(stems), "not there")
    return [labels[stem] for stem in stems]


def _refuse_any(path: Path, images: set[str], fault: str) -> None:
    if images:
        raise ValueError(f"{path}: image {min(images)} is {fault} ({len(images)} are)")


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without white space around them."""
    lines = map(str.strip, read_text(path).splitlines())
    return [line for line in lines if line]


def _pairs(path: Path, lines: Iterable[str], separator: str | None) -> dict[str, str]:
    """Read the image (without suffix) and the class from the first two words of each line.

    `separator` ends the image's name; None: white space does.
    """
    labels: dict[str, str] = {}
    for line in lines:
        image, *rest = line.split(separator, 1)
        words = "".join(rest).split()
        if not words:
            raise ValueError(f"{path}: no image and class in the line {line[:60]!r}")
        name, label = Path(image).stem, words[0]
        if labels.setdefault(name, label) != label:
            raise ValueError(f"{path}: image {name} has two classes; keep one line")
    return labels


def _ground_truth(path: Path) -> list[str]:
    synsets = path.with_name("map_clsloc.txt")
    if not synsets.is_file():
        raise FileNotFoundError(
            f"{path} has numbers of classes; {synsets}, which names them, is missing"
        )
    names = {words[1]: words[0] for words in map(str.split, _lines(synsets)) if len(words) > 1}
    numbers = _lines(path)
    unknown = sorted(set(numbers) - names.keys())
    if unknown:
        raise ValueError(f"{path}: class {unknown[0][:40]!r} is not in {synsets}")
    return [names[number] for number in numbers]


READERS: dict[str, Callable[[Path], dict[str, str] | list[str]]] = {
    "val_annotations.txt": lambda path: _pairs(path, _lines(path), None),
    "LOC_val_solution.csv": lambda path: _pairs(path, _lines(path)[1:], ","),
    "imagenet_2012_validation_synset_labels.txt": _lines,
    "ILSVRC2012_validation_ground_truth.txt": _ground_truth,
}


def _check_classes(train: Path, val: Path, classes: tuple[str, ...], found: set[str]) -> None:
    """Raise ValueError unless the validation images have the classes of the training images."""
    unknown = sorted(found - set(classes))
    if unknown:
        others = f"{len(unknown)} classes are not"
        raise ValueError(f"{val}: class {unknown[0][:60]} is not in {train} ({others})")
    missing = sorted(set(classes) - found)
    if missing:
        others = f"{len(missing)} classes have none"
        raise ValueError(f"{val}: class {missing[0]} of {train} has no images here ({others})")


def _check_count(base: Path, what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise ValueError(
            f"{base}: {found} {what}, not {expected}; open a part of it as data set 'folder'"
        )
