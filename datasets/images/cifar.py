"""CIFAR-10 and CIFAR-100 in both layouts offered at cs.toronto.edu/~kriz/cifar.html.

The python layout, in ROOT/cifar-10-batches-py or ROOT/cifar-100-python, has pickles of `data`
`[n, 3072]` (uint8: red, green and blue planes of 32 x 32) and of lists of labels. The binary
layout, in ROOT/cifar-10-batches-bin or ROOT/cifar-100-binary, has records of one label (CIFAR-100:
coarse and fine) and 3072 pixels. ROOT may be that folder itself. If both layouts are present, the
python layout is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rbsf.datasets.images.in_memory import ArrayData
from rbsf.datasets.images.pickles import parse_pickle
from rbsf.datasets.images.published import find_folder, read_bytes, verify
from rbsf.system.text import read_text

PIXELS = 3 * 32 * 32
# Size in bytes and md5 of the python layout's files. None were published for the binary layout.
PUBLISHED = {
    "data_batch_1": (31035704, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": (31035320, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": (31035999, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": (31035696, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": (31035623, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": (31035526, "40351d587109b95175f43aff81a1287e"),
    "train": (155249918, "16019d7e3df5f24257cddd939b257f8d"),
    "test": (31049908, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
}


@dataclass(frozen=True)
class Cifar:
    """The folders, files, contents and statistics of one of the two data sets."""

    folders: tuple[str, str]  # the folder of the python layout and that of the binary one
    files: dict[str, tuple[str, ...]]  # names by split; the binary layout adds .bin
    counts: dict[str, int]  # images by split; all classes have equally many
    labels: str  # key of the labels in the python layout
    label_bytes: int  # labels in a record of the binary layout, one byte each
    label_at: int  # position of the label to use among them
    names: tuple[str, str, str]  # class names: the python layout's file and key, the binary's file
    classes: int
    mean: tuple[float, float, float]  # means of the channels of the training images
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    counts={"train": 50_000, "test": 10_000},
    labels="labels",
    label_bytes=1,
    label_at=0,
    names=("batches.meta", "label_names", "batches.meta.txt"),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Cifar(
    folders=("cifar-100-python", "cifar-100-binary"),
    files={"train": ("train",), "test": ("test",)},
    counts={"train": 50_000, "test": 10_000},
    labels="fine_labels",
    label_bytes=2,
    label_at=1,
    names=("meta", "fine_label_names", "fine_label_names.txt"),
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),  # tests check mean and deviation
    std=(0.2673, 0.2564, 0.2762),
)
CIFAR100_COARSE = dataclasses.replace(
    CIFAR100,
    labels="coarse_labels",
    label_at=0,
    names=("meta", "coarse_label_names", "coarse_label_names.txt"),
    classes=20,
)


def open_cifar(root: Path, cifar: Cifar, check: str = "auto") -> tuple[ArrayData, ArrayData]:
    """Open the training and test images, `[N, 3, 32, 32]` RGB.

    Checks the counts, the class balance, the range of the labels and, as `verify` does, the
    checksums. Raises FileNotFoundError or ValueError, naming the file.
    """
    first = cifar.files["train"][0]
    folder = find_folder(root, (*cifar.folders, "."), (first, f"{first}.bin"))
    binary = not (folder / first).is_file()
    classes = _class_names(folder, cifar, binary)
    train = _open_split(folder, cifar, "train", classes, check, binary)
    test = _open_split(folder, cifar, "test", classes, check, binary)
    return train, test


def _open_split(
    folder: Path, cifar: Cifar, split: str, classes: tuple[str, ...], check: str, binary: bool
) -> ArrayData:
    read, suffix = (_read_binary, ".bin") if binary else (_read_python, "")
    paths = [folder / f"{name}{suffix}" for name in cifar.files[split]]
    batches = [read(path, cifar, check) for path in paths]
    images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    where = ", ".join(map(str, paths))
    _check_counts(where, labels, classes, cifar.counts[split])
    image_tensor, label_tensor = torch.from_numpy(images), torch.from_numpy(labels)
    return ArrayData(image_tensor, label_tensor, classes, cifar.mean, cifar.std)


def _read_python(path: Path, cifar: Cifar, check: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 3072]` uint8 and labels `[n]` int64 of one file."""
    content = read_bytes(path)
    verify(path, content, PUBLISHED[path.name], check)
    batch = parse_pickle(content, path)
    if not isinstance(batch, dict) or not {"data", cifar.labels} <= batch.keys():
        lacks = f"no 'data' and {cifar.labels!r}"
        raise ValueError(f"{path}: not a batch of CIFAR ({lacks}); is it CIFAR-10 or CIFAR-100?")
    images = batch["data"]
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{path}: 'data' is {type(images).__name__}, not uint8 [n, {PIXELS}]")
    if images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        found = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{path}: 'data' is {found}, not uint8 [n, {PIXELS}]")
    return images, _check_labels(path, batch[cifar.labels], len(images), cifar.classes)


def _read_binary(path: Path, cifar: Cifar, check: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 3072]` uint8 and labels `[n]` int64 of one file."""
    content = read_bytes(path)
    verify(path, content, None, check)
    record = cifar.label_bytes + PIXELS
    if not content or len(content) % record:
        found = f"{len(content)} bytes are no whole number of {record}-byte records"
        raise ValueError(f"{path}: {found}; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    images = records[:, cifar.label_bytes :]
    labels = records[:, cifar.label_at].tolist()
    return images, _check_labels(path, labels, len(records), cifar.classes)


def _check_labels(path: Path, labels: Any, count: int, classes: int) -> np.ndarray:
    """Labels as `[count]` int64. Raises ValueError if their number, type or range is wrong."""
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != count:
        found = len(labels) if isinstance(labels, Sequence) else type(labels).__name__
        raise ValueError(f"{path}: {count} images, but as labels {found}")
    for index, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            short = isinstance(label, int | float) and abs(label) < 1e9
            shown = label if short else type(label).__name__
            wrong = f"label {shown} of image {index}"
            raise ValueError(f"{path}: {wrong}; 0 to {classes - 1} exist")
    return np.array(labels, np.int64)


def _check_counts(paths: str, labels: np.ndarray, classes: tuple[str, ...], expected: int) -> None:
    """Raise ValueError unless there are `expected` images, equally many of each class."""
    if len(labels) != expected:
        raise ValueError(f"{paths}: {len(labels)} images, not {expected}")
    share = expected // len(classes)
    counts = np.bincount(labels, minlength=len(classes))
    wrong = np.flatnonzero(counts != share)
    if len(wrong):
        first = wrong[0]
        fault = f"class {first} ({classes[first]}) has {counts[first]} images, not {share}"
        raise ValueError(f"{paths}: {fault}; {len(wrong)} classes are wrong in number")


def _class_names(folder: Path, cifar: Cifar, binary: bool) -> tuple[str, ...]:
    python, key, text = cifar.names
    path = folder / (text if binary else python)
    if binary:
        names: Any = read_text(path).split()
    else:
        meta = parse_pickle(read_bytes(path), path)
        names = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != cifar.classes:
        raise ValueError(f"{path}: not the names of {cifar.classes} classes")
    if not all(isinstance(name, str | bytes) for name in names):
        raise ValueError(f"{path}: a class has no name that is text")
    return tuple(name if isinstance(name, str) else name.decode("latin1") for name in names)
