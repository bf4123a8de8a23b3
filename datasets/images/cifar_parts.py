"""CIFAR-100 in a few small files, to be carried to a machine in pieces and put together there.

The parts are an archive of `rbsf.system.archive_parts`. It holds the class names and, of each
split, the images' coarse and fine labels, and lossless WebP pictures of up to 2,500 images side by
side. Together they give the binary layout of `rbsf.datasets.images.cifar`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from rbsf.datasets.images.cifar import CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.system.archive_parts import read_parts, write_parts
from rbsf.system.files import write_atomically

SIDE = 50  # images along each side of a picture
PICTURE = SIDE * SIDE  # images in a picture
LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100, OpenCV writes WebP without loss
STEM = "cifar100"  # beginning of the parts' names
NAMES = "fine_label_names.txt"
SPLITS = ("train", "test")
OPENCV_ADVICE = "install opencv-python of the version in constraints.txt"


def pack_cifar100(root: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Write CIFAR-100 in `root` as parts of at most `most_bytes` each into `folder`.

    Returns the parts' paths. Raises what `open_cifar` does, and OSError if `folder` cannot be
    written.
    """
    fine, coarse = open_cifar(root, CIFAR100), open_cifar(root, CIFAR100_COARSE)
    with TemporaryDirectory() as name:
        made = Path(name)
        (made / NAMES).write_bytes("\n".join([*fine[0].classes, ""]).encode())
        for split, images, groups in zip(SPLITS, fine, coarse, strict=True):
            _write_split(made, split, images, groups)
        files = {path.name: path for path in sorted(made.iterdir())}
        # Level 0 compresses nothing: pictures are compressed already.
        return write_parts(files, folder, STEM, most_bytes, level=0)


def unpack_cifar100(parts: Path, root: Path) -> None:
    """Put the parts in the folder `parts` together as `root`/cifar-100-binary.

    Does nothing if all files are there already. Raises FileNotFoundError, naming the parts, if some
    are missing, and ValueError if one is damaged or they are of two sets.
    """
    folder = root / "cifar-100-binary"
    files = {split: folder / f"{split}.bin" for split in SPLITS}
    names = folder / NAMES  # written last
    if all(file.is_file() for file in (names, *files.values())):
        return
    with TemporaryDirectory() as name:
        made = Path(name)
        if not read_parts(parts, STEM, made):
            advice = "make the parts with --pack"
            raise FileNotFoundError(f"{parts} holds no {STEM}-1-of-N.part; {advice}")
        for split, file in files.items():
            write_atomically(file, _split_records(made, split).tobytes())
        write_atomically(names, (made / NAMES).read_bytes())


def _write_split(folder: Path, split: str, fine: ArrayData, coarse: ArrayData) -> None:
    """Write a split's labels and pictures into `folder`."""
    labels = np.stack([coarse.labels.numpy(), fine.labels.numpy()], axis=1)  # [N, 2]
    (folder / f"{split}.labels").write_bytes(labels.astype(np.uint8).tobytes())
    for number, start in enumerate(range(0, len(fine), PICTURE)):
        images = fine.images[start : start + PICTURE].numpy()  # [n, 3, 32, 32]
        (folder / f"{split}-{number:02d}.webp").write_bytes(_encode(images))


def _split_records(folder: Path, split: str) -> np.ndarray:
    """Records of the binary layout, uint8 `[N, 2 + 3072]`, of a split's labels and pictures."""
    labels = np.fromfile(folder / f"{split}.labels", np.uint8).reshape(-1, 2)
    pictures = sorted(folder.glob(f"{split}-*.webp"))
    images = np.concatenate([_decode(path.read_bytes()) for path in pictures])
    return np.concatenate([labels, images[: len(labels)]], axis=1)


def _encode(images: np.ndarray) -> bytes:
    """One lossless picture of up to 2,500 RGB images, uint8 `[n, 3, 32, 32]`; the rest is black."""
    full = np.zeros((PICTURE, 3, 32, 32), np.uint8)
    full[: len(images)] = images
    grid = full.reshape(SIDE, SIDE, 3, 32, 32)  # row, column, channel, y, x
    grid = grid.transpose(0, 3, 1, 4, 2)  # row, y, column, x, channel
    picture = grid.reshape(SIDE * 32, SIDE * 32, 3)[:, :, ::-1]  # BGR, for OpenCV
    done, content = cv2.imencode(".webp", picture, LOSSLESS)
    if not done:
        raise ValueError(f"OpenCV cannot write WebP here; {OPENCV_ADVICE}")
    return content.tobytes()


def _decode(picture: bytes) -> np.ndarray:
    """The 2,500 images of a picture, uint8 `[2500, 3072]`."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"OpenCV cannot read WebP here; {OPENCV_ADVICE}")
    grid = pixels[:, :, ::-1].reshape(SIDE, 32, SIDE, 32, 3)  # row, y, column, x, channel
    return grid.transpose(0, 2, 4, 1, 3).reshape(PICTURE, -1)
