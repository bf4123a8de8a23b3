"""The archive that comes home: what is in it, how it is divided, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rbsf.tools.gpu.home import choose_files, pack_home, unpack_home

FILES = {
    "list.json": 20,
    "items/a/log.txt": 500,
    "tables/done/result.json": 30,
    "tables/done/checkpoint.pt": 40_000,
    "tables/done/losses.png": 9_000,
    "tables/half/checkpoint.pt": 20_000,
    "tables/half/log.csv": 400,
    "tables/other/checkpoint.pt": 30_000,
    "tables/teachers/x/resnet18.safetensors": 8_000,
    "data/cifar-100-binary/train.bin": 70_000,
    "data/cifar-100-binary/fine_label_names.txt": 700,
    "raw/cifar-100-python/train": 600,
    "parts/cifar100-1-of-3.part.npz": 500,
    "items/.lock": 1,
    "tables/half/tensorboard/events.out": 900,
}
STAYS = (".png", ".lock", "done/checkpoint.pt", "events.out")  # endings
COMES = {
    name
    for name in FILES
    if not name.endswith(STAYS) and not name.startswith(("data/", "raw/", "parts/"))
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = random.Random(0)
    for name, size in FILES.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(size))
    return tmp_path / "run"


def names_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_archive_gives_every_file_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbsf.tools.gpu.home.PART_BYTES", 25_000)
    for _ in range(2):  # the second replaces the first and does not contain it
        parts, left = pack_home(folder, folder / "home")
        assert not left
        assert [part.name for part in parts] == [f"home-{n}-of-3.part" for n in (1, 2, 3)]
        assert names_of(folder / "home") == {part.name for part in parts}
    assert unpack_home(folder / "home", tmp_path / "new")
    assert names_of(tmp_path / "new") == COMES
    for name in COMES:
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


def test_results_come_before_weights_and_weights_before_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbsf.tools.gpu.home.ALL_BYTES", 30_000)
    chosen, left = choose_files(folder, folder / "home")
    assert [path.relative_to(folder).as_posix() for path in left] == ["tables/other/checkpoint.pt"]
    assert [path.suffix for path in chosen[-2:]] == [".safetensors", ".pt"]


def test_parts_that_are_missing_or_damaged_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not unpack_home(tmp_path, tmp_path / "new")
    monkeypatch.setattr("rbsf.tools.gpu.home.PART_BYTES", 25_000)
    parts, _ = pack_home(folder, folder / "home")
    content = bytearray(parts[1].read_bytes())
    content[1000] ^= 255
    parts[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"the archive is damaged .* copy its parts again"):
        unpack_home(folder / "home", tmp_path / "new")
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks home-2-of-3\.part"):
        unpack_home(folder / "home", tmp_path / "new")
