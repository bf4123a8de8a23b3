"""CIFAR-100 in parts: put together again it is the same; bad parts are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rbsf.datasets.images import cifar, cifar_parts
from rbsf.datasets.images.cifar import CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.cifar_parts import STEM, pack_cifar100, unpack_cifar100
from rbsf.datasets.images.made_up_cifar import write_made_up_cifar
from rbsf.system.archive_parts import find_parts

COUNTS = {"train": 5200, "test": 300}  # 2 whole pictures and a part; a part of 1


@pytest.fixture(scope="module")
def small():
    """CIFAR-100 with fewer images, as this test module reads and writes it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (cifar, cifar_parts):
            for name in ("CIFAR100", "CIFAR100_COARSE"):
                fewer = dataclasses.replace(getattr(cifar, name), counts=COUNTS)
                patch.setattr(module, name, fewer)
        patch.setattr("rbsf.datasets.images.made_up_cifar.CIFAR100", cifar.CIFAR100)
        yield


@pytest.fixture(scope="module")
def parts(small, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made-up")
    write_made_up_cifar(root)
    paths = pack_cifar100(root, root / "parts", 150_000)
    assert [path.name for path in paths] == [
        f"cifar100-{n}-of-{len(paths)}.part" for n in range(1, len(paths) + 1)
    ]
    assert len(paths) > 1
    assert all(path.stat().st_size <= 150_000 for path in paths)
    return root / "parts"


def test_the_parts_give_every_pixel_and_label_again(parts: Path, tmp_path: Path) -> None:
    unpack_cifar100(parts, tmp_path)
    pairs = zip(
        open_cifar(tmp_path, cifar.CIFAR100), open_cifar(parts.parent, cifar.CIFAR100), strict=True
    )
    for found, expected in pairs:
        assert found.images.equal(expected.images)
        assert found.labels.equal(expected.labels)
        assert found.classes == expected.classes


def test_coarse_labels_travel_too(parts: Path, tmp_path: Path) -> None:
    unpack_cifar100(parts, tmp_path)
    binary = [
        np.fromfile(root / "cifar-100-binary" / "test.bin", np.uint8)
        for root in (tmp_path, parts.parent)
    ]
    np.testing.assert_array_equal(*binary)


def test_unpacking_again_does_nothing(parts: Path, tmp_path: Path) -> None:
    unpack_cifar100(parts, tmp_path)
    before = (tmp_path / "cifar-100-binary" / "train.bin").stat().st_mtime_ns
    unpack_cifar100(tmp_path / "no such folder", tmp_path)
    assert (tmp_path / "cifar-100-binary" / "train.bin").stat().st_mtime_ns == before


def copy_of(parts: Path, folder: Path) -> list[Path]:
    for path in parts.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return find_parts(folder, STEM)


def test_missing_parts_are_named(parts: Path, tmp_path: Path) -> None:
    message = r"holds no cifar100-1-of-N\.part; make the parts with --pack"
    with pytest.raises(FileNotFoundError, match=message):
        unpack_cifar100(tmp_path, tmp_path)
    copies = copy_of(parts, tmp_path)
    copies[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {copies[1].name}$"):
        unpack_cifar100(tmp_path, tmp_path)
    copies[1].with_name("cifar100-2-of-9.part").write_bytes(b"")
    with pytest.raises(ValueError, match="holds parts of two sets"):
        unpack_cifar100(tmp_path, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_part_is_noticed_and_nothing_is_made(
    parts: Path, tmp_path: Path, damage: str
) -> None:
    path = copy_of(parts, tmp_path)[0]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "changed":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"not an archive")
    path.write_bytes(content)
    fault = r"cifar100-\*\.part: the archive is damaged \(.*\); copy its parts again$"
    with pytest.raises(ValueError, match=fault):
        unpack_cifar100(tmp_path, tmp_path)
    assert not (tmp_path / "cifar-100-binary").exists()


@pytest.mark.slow
def test_real_images_come_back_from_their_parts(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar_parts, "CIFAR100", CIFAR100)  # all images again
    monkeypatch.setattr(cifar_parts, "CIFAR100_COARSE", CIFAR100_COARSE)
    paths = pack_cifar100(real_data, tmp_path / "parts", 40_000_000)
    assert len(paths) == 3
    unpack_cifar100(tmp_path / "parts", tmp_path)
    for found, expected in zip(
        open_cifar(tmp_path, CIFAR100), open_cifar(real_data, CIFAR100), strict=True
    ):
        assert found.images.equal(expected.images)
        assert found.labels.equal(expected.labels)
