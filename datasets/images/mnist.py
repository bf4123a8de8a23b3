"""MNIST: the four idx files, gzipped or not, in ROOT, ROOT/raw or ROOT/MNIST/raw.

Archives have them as `train-images-idx3-ubyte` or `train-images.idx3-ubyte`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from rbsf.datasets.images.in_memory import ArrayData
from rbsf.datasets.images.published import find_folder, verify

FOLDERS = (".", "raw", "MNIST/raw")
COUNTS = {"train": 60_000, "t10k": 10_000}
SIDE = 28
MEAN, STD = (0.1307,), (0.3081,)  # measured on the 60,000 training images, also by tests
# Size and md5 of the published files, unpacked: gzip packs the same content in many ways.
PUBLISHED = {
    "train-images-idx3-ubyte": (47040016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7840016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10008, "27ae3e4e09519cfbb04c329615203637"),
}


def open_mnist(root: Path, check: str = "auto") -> tuple[ArrayData, ArrayData]:
    """Open the training and test images, `[N, 1, 28, 28]`.

    For training they are shifted by up to 2 pixels but not mirrored, which would change the digits.
    Checks the header, sizes, counts, range of the labels and, as `verify` does, the checksums.
    Raises FileNotFoundError or ValueError, naming the file.
    """
    folder = find_folder(root, FOLDERS, _forms("train-images-idx3-ubyte"))
    train = _open_split(folder, "train", COUNTS["train"], check)
    test = _open_split(folder, "t10k", COUNTS["t10k"], check)
    return train, test


def _open_split(folder: Path, split: str, count: int, check: str) -> ArrayData:
    images = _read_idx(folder, f"{split}-images-idx3-ubyte", (count, SIDE, SIDE), check)
    labels = _read_idx(folder, f"{split}-labels-idx1-ubyte", (count,), check)
    if labels.max() > 9:
        wrong = f"label {labels.max()} at {labels.argmax()}"
        raise ValueError(f"{folder / split}-labels-idx1-ubyte: {wrong}; 0 to 9 exist")
    digits = tuple(map(str, range(10)))
    image_tensor = torch.from_numpy(images).unsqueeze(1)  # [N, 1, 28, 28]
    label_tensor = torch.from_numpy(labels.astype(np.int64))
    return ArrayData(image_tensor, label_tensor, digits, MEAN, STD, crop_padding=2, flip=False)


def _forms(name: str) -> tuple[str, ...]:
    """The names that a file may have."""
    dotted = name.replace("-idx", ".idx")
    return name, dotted, f"{dotted}.gz", f"{name}.gz"


def _read_idx(folder: Path, name: str, shape: tuple[int, ...], check: str) -> np.ndarray:
    """Read an idx file of bytes.

    It begins with the bytes 0, 0, 8 (for unsigned bytes) and the number of dimensions. Their sizes
    follow as big-endian int32, then the content.
    """
    paths = [folder / form for form in _forms(name)]
    path = next((path for path in paths if path.is_file()), paths[-1])
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    size = len(header) + int(np.prod(shape))
    content = _read(path, size + 1)
    _check_idx(path, content, header, shape, size)
    verify(path, content, PUBLISHED[name], check)
    writable = bytearray(content)
    return np.frombuffer(writable, np.uint8, offset=len(header)).reshape(shape)


def _check_idx(
    path: Path, content: bytes, header: bytes, shape: tuple[int, ...], size: int
) -> None:
    """Raise ValueError unless the content has this header and `size` bytes in all."""
    if content[:4] != header[:4]:
        kind = f"an idx file of bytes with {len(shape)} dimensions"
        raise ValueError(f"{path}: not {kind} (starts {content[:4].hex()})")
    if content[: len(header)] != header:
        sizes = content[4 : len(header)].ljust(len(header) - 4, b"\0")
        found = np.frombuffer(sizes, ">i4").tolist()
        raise ValueError(f"{path}: its header says {found}, expected {list(shape)}")
    if len(content) != size:
        less = "less" if len(content) < size else "more"
        promised = f"the {size} bytes that its header promises"
        raise ValueError(f"{path}: {less} than {promised}; fetch it again")


def _read(path: Path, most: int) -> bytes:
    """Read at most `most` bytes of a file; unpack it if its name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, packed or not")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(most)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or cut short ({error}); fetch it again") from None
