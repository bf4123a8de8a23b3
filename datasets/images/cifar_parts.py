"""CIFAR-100 in a few small files, to be carried to a machine in pieces and put together there.

A part is a zip file, which has a checksum of each member: lossless WebP pictures of up to 2,500
images side by side, and their coarse and fine labels.  Together the parts give the binary layout of
`rbsf.datasets.images.cifar`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from rbsf.datasets.images.cifar import CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.system.files import write_atomically

SIDE = 50  # images along each side of a picture
PICTURE = SIDE * SIDE
LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]  # OpenCV's way to ask WebP for no loss
NAME = re.compile(r"cifar100-(\d+)-of-(\d+)\.zip")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Member:
    """One file of a part."""

    name: str
    content: bytes


def pack_cifar100(root: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Write CIFAR-100 in `root` as parts of at most `most_bytes` each into `folder`; their paths.

    Raises what `open_cifar` does; OSError where `folder` cannot be written.
    """
    fine, coarse = open_cifar(root, CIFAR100), open_cifar(root, CIFAR100_COARSE)
    members = [Member("classes.txt", "\n".join(fine[0].classes).encode())]
    for split, images, groups in zip(SPLITS, fine, coarse, strict=True):
        members += _members(split, images, groups)
    shares = _divide(members, most_bytes)
    paths = [
        folder / f"cifar100-{number}-of-{len(shares)}.zip" for number in range(1, len(shares) + 1)
    ]
    for path, share in zip(paths, shares, strict=True):
        write_atomically(path, partial(_write_zip, share))
    return paths


def unpack_cifar100(parts: Path, root: Path) -> None:
    """Put the parts in the folder `parts` together as `root`/cifar-100-binary, unless that is there
    already.

    FileNotFoundError names the parts that are missing, ValueError one that is damaged.
    """
    folder = root / "cifar-100-binary"
    files = {split: folder / f"{split}.bin" for split in SPLITS}
    names = folder / "fine_label_names.txt"
    if names.is_file() and all(
        file.is_file() for file in files.values()
    ):  # the names are written last
        return
    members = {
        member.name: member.content for path in find_parts(parts) for member in _read_zip(path)
    }
    for split, file in files.items():
        pictures = sorted(
            name for name in members if name.startswith(split) and name.endswith(".webp")
        )
        records = [
            _records(members[name], members[name.replace(".webp", ".labels")]) for name in pictures
        ]
        write_atomically(file, np.concatenate(records).tobytes())
    write_atomically(names, members["classes.txt"] + b"\n")


def find_parts(folder: Path) -> list[Path]:
    """All parts of a set in `folder`, in order.  FileNotFoundError where there are none, or not all
    of them.
    """
    found = {
        int(match[1]): (path, int(match[2]))
        for path in folder.glob("*.zip")
        if (match := NAME.match(path.name))
    }
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no cifar100-1-of-N.zip; make the parts with --pack"
        )
    count = next(iter(found.values()))[1]
    if mixed := [path.name for path, parts in found.values() if parts != count]:
        raise ValueError(
            f"{folder} holds parts of two sets, such as {mixed[0]}; leave those of one"
        )
    if missing := [
        f"cifar100-{number}-of-{count}.zip" for number in range(1, count + 1) if number not in found
    ]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return [found[number][0] for number in range(1, count + 1)]


def _members(split: str, fine: ArrayData, coarse: ArrayData) -> Iterator[Member]:
    labels = np.stack([coarse.labels.numpy(), fine.labels.numpy()], axis=1).astype(
        np.uint8
    )  # [N, 2]
    for number, start in enumerate(range(0, len(fine), PICTURE)):
        images = fine.images[start : start + PICTURE].numpy()  # [n, 3, 32, 32]
        yield Member(f"{split}-{number:02d}.webp", _encode(images))
        yield Member(f"{split}-{number:02d}.labels", labels[start : start + PICTURE].tobytes())


def _encode(images: np.ndarray) -> bytes:
    """Up to 2,500 images [n, 3, 32, 32] RGB as one lossless picture, what is left of it black."""
    full = np.zeros((PICTURE, 3, 32, 32), np.uint8)
    full[: len(images)] = images
    grid = full.reshape(SIDE, SIDE, 3, 32, 32).transpose(
        0, 3, 1, 4, 2
    )  # row, y, column, x, channel
    picture = grid.reshape(SIDE * 32, SIDE * 32, 3)[:, :, ::-1]  # BGR, for OpenCV
    done, content = cv2.imencode(".webp", picture, LOSSLESS)
    if not done:
        raise ValueError(
            "OpenCV cannot write WebP here; install opencv-python of the version in constraints.txt"
        )
    return content.tobytes()


def _records(picture: bytes, labels: bytes) -> np.ndarray:
    """Records of the binary layout, uint8 [n, 2 + 3072], of one picture and its labels."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(
            "OpenCV cannot read WebP here; install opencv-python of the version in constraints.txt"
        )
    grid = (
        pixels[:, :, ::-1].reshape(SIDE, 32, SIDE, 32, 3).transpose(0, 2, 4, 1, 3)
    )  # row, column, channel, y, x
    pairs = np.frombuffer(labels, np.uint8).reshape(-1, 2)
    return np.concatenate([pairs, grid.reshape(PICTURE, -1)[: len(pairs)]], axis=1)


def _divide(members: list[Member], most_bytes: int) -> list[list[Member]]:
    """Members in order, in shares of at most `most_bytes`."""
    shares: list[list[Member]] = [[]]
    size = 0
    for member in members:
        length = len(member.content) + 200  # and what a zip file says of a member
        if shares[-1] and size + length > most_bytes:
            shares.append([])
            size = 0
        shares[-1].append(member)
        size += length
    return shares


def _write_zip(members: list[Member], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for member in members:
            file.writestr(zipfile.ZipInfo(member.name), member.content)


def _read_zip(path: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as file:
            return [Member(name, file.read(name)) for name in file.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged ({error}); copy it again") from None
