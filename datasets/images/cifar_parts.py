"""CIFAR-100 in a few small files, to be carried to a machine in pieces and put together there.

A part is a zip file, which has a checksum of each member. Its members are lossless WebP pictures,
each of up to 2,500 images side by side, and the images' coarse and fine labels. Together the parts
give the binary layout of `rbsf.datasets.images.cifar`.
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
PICTURE = SIDE * SIDE  # images in a picture
LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100, OpenCV writes WebP without loss
NAME = re.compile(r"cifar100-(\d+)-of-(\d+)\.zip")
SPLITS = ("train", "test")
MEMBER_BYTES = 200  # the most that a zip file adds to a member's content
OPENCV_ADVICE = "install opencv-python of the version in constraints.txt"


@dataclass(frozen=True)
class Member:
    """One file of a part."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Part:
    """A part, and the number of parts in its set, taken from its name."""

    path: Path
    count: int


def pack_cifar100(root: Path, folder: Path, most_bytes: int) -> list[Path]:
    """Write CIFAR-100 in `root` as parts of at most `most_bytes` each into `folder`.

    Returns the parts' paths. Raises what `open_cifar` does, and OSError if `folder` cannot be
    written.
    """
    fine, coarse = open_cifar(root, CIFAR100), open_cifar(root, CIFAR100_COARSE)
    members = [Member("classes.txt", "\n".join(fine[0].classes).encode())]
    for split, images, groups in zip(SPLITS, fine, coarse, strict=True):
        members += _members(split, images, groups)
    shares = _divide(members, most_bytes)
    paths = []
    for number, share in enumerate(shares, 1):
        path = folder / _part_name(number, len(shares))
        write_atomically(path, partial(_write_zip, share))
        paths.append(path)
    return paths


def unpack_cifar100(parts: Path, root: Path) -> None:
    """Put the parts in the folder `parts` together as `root`/cifar-100-binary.

    Does nothing if all files are there already. Raises FileNotFoundError, naming the parts, if some
    are missing, and ValueError, naming the part, if one is damaged.
    """
    folder = root / "cifar-100-binary"
    names = folder / "fine_label_names.txt"  # written last
    files = [folder / f"{split}.bin" for split in SPLITS]
    if all(file.is_file() for file in (names, *files)):
        return
    members: dict[str, bytes] = {}
    for path in find_parts(parts):
        members |= {member.name: member.content for member in _read_zip(path)}
    for split, file in zip(SPLITS, files, strict=True):
        write_atomically(file, _split_records(split, members).tobytes())
    write_atomically(names, members["classes.txt"] + b"\n")


def find_parts(folder: Path) -> list[Path]:
    """Find all parts of a set in `folder`, in order.

    Raises FileNotFoundError if there are none or not all, and ValueError for parts of two sets.
    """
    found = _named_as_parts(folder)
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no cifar100-1-of-N.zip; make the parts with --pack"
        )
    count = next(iter(found.values())).count
    mixed = [part.path.name for part in found.values() if part.count != count]
    if mixed:
        raise ValueError(
            f"{folder} holds parts of two sets, such as {mixed[0]}; leave those of one"
        )
    numbers = range(1, count + 1)
    missing = [_part_name(number, count) for number in numbers if number not in found]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
    return [found[number].path for number in numbers]


def _named_as_parts(folder: Path) -> dict[int, Part]:
    """The files in `folder` that are named like parts, by number."""
    found = {}
    for path in folder.glob("*.zip"):
        if match := NAME.match(path.name):
            found[int(match[1])] = Part(path, count=int(match[2]))
    return found


def _part_name(number: int, count: int) -> str:
    return f"cifar100-{number}-of-{count}.zip"


def _members(split: str, fine: ArrayData, coarse: ArrayData) -> Iterator[Member]:
    """Yield pictures of a split's images, each followed by the labels of its images."""
    labels = np.stack([coarse.labels.numpy(), fine.labels.numpy()], axis=1)
    labels = labels.astype(np.uint8)  # [N, 2]
    for number, start in enumerate(range(0, len(fine), PICTURE)):
        images = fine.images[start : start + PICTURE].numpy()  # [n, 3, 32, 32]
        yield Member(f"{split}-{number:02d}.webp", _encode(images))
        yield Member(f"{split}-{number:02d}.labels", labels[start : start + PICTURE].tobytes())


def _split_records(split: str, members: dict[str, bytes]) -> np.ndarray:
    """Records of the binary layout, uint8 `[N, 2 + 3072]`, of all of a split's pictures."""
    records = []
    for name in sorted(members):
        if name.startswith(split) and name.endswith(".webp"):
            labels = members[name.replace(".webp", ".labels")]
            records.append(_records(members[name], labels))
    return np.concatenate(records)


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


def _records(picture: bytes, labels: bytes) -> np.ndarray:
    """Records of the binary layout, uint8 `[n, 2 + 3072]`, of one picture and its labels."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"OpenCV cannot read WebP here; {OPENCV_ADVICE}")
    grid = pixels[:, :, ::-1].reshape(SIDE, 32, SIDE, 32, 3)  # row, y, column, x, channel
    images = grid.transpose(0, 2, 4, 1, 3).reshape(PICTURE, -1)  # [2500, 3072]
    pairs = np.frombuffer(labels, np.uint8).reshape(-1, 2)
    return np.concatenate([pairs, images[: len(pairs)]], axis=1)


def _divide(members: list[Member], most_bytes: int) -> list[list[Member]]:
    """Divide the members, in order, into shares of at most `most_bytes`."""
    shares: list[list[Member]] = [[]]
    size = 0
    for member in members:
        length = len(member.content) + MEMBER_BYTES
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
            infos = file.infolist()
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            if not stored or sum(info.file_size for info in infos) > path.stat().st_size:
                raise zipfile.BadZipFile("its members are not stored as they are")
            return [Member(info.filename, file.read(info)) for info in infos]
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:  # RuntimeError: encrypted
        raise ValueError(f"{path}: damaged ({error}); copy it again") from None
