"""MNIST and CIFAR: layouts, refusals, hostile pickles; batches, shares and limits; real data."""

from __future__ import annotations

import dataclasses
import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from conftest import part_of, refused

from rbsf.datasets.images import mnist
from rbsf.datasets.images.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, open_cifar
from rbsf.datasets.images.labelled import LABELLED, open_labelled
from rbsf.datasets.images.mnist import open_mnist
from rbsf.datasets.images.published import verify

COUNTS = {"train": 20, "t10k": 10}  # in place of MNIST's own
SMALL10 = dataclasses.replace(CIFAR10, counts={"train": 100, "test": 20})
SMALL100 = dataclasses.replace(CIFAR100, counts={"train": 200, "test": 100})


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch):
    monkeypatch.setattr(mnist, "COUNTS", COUNTS)


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}i", *array.shape)
        + array.tobytes()
    )


def write_mnist(folder, pack=True):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(COUNTS.items()):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (
            (f"{split}-images-idx3-ubyte", images),
            (f"{split}-labels-idx1-ubyte", labels),
        ):
            path = folder / (name + ".gz" if pack else name)
            path.write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    return folder


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def write_cifar100(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 200), ("test", 100)):
        fine = [i % 100 for i in range(count)]
        batch = {
            "data": pixels(count),
            "fine_labels": fine,
            "coarse_labels": [i // 5 for i in fine],
            **changes,
        }
        (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
    names = {
        "fine_label_names": [f"f{i}" for i in range(100)],
        "coarse_label_names": [f"c{i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


def write_cifar10(folder, binary):
    folder.mkdir(parents=True, exist_ok=True)
    end = ".bin" if binary else ""
    for seed, name in enumerate((*CIFAR10.files["train"], *CIFAR10.files["test"])):
        images, labels = pixels(20, seed), [i % 10 for i in range(20)]
        records = b"".join(
            bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)
        )
        content = records if binary else pickle.dumps({b"data": images, b"labels": labels})
        (folder / (name + end)).write_bytes(content)
    names = [f"n{i}" for i in range(10)]
    meta = "\n".join([*names, ""]).encode() if binary else pickle.dumps({"label_names": names})
    (folder / ("batches.meta.txt" if binary else "batches.meta")).write_bytes(meta)
    return folder


# ---- MNIST


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_mnist_is_found_packed_or_not(tmp_path, place, pack):
    write_mnist(tmp_path / place, pack)
    train, test = open_mnist(tmp_path)
    assert train.images.shape == (20, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert test.labels.tolist() == list(range(10))
    assert train.classes == tuple("0123456789")
    assert not train.flip
    assert (train.size, train.mean, train.std) == (28, (0.1307,), (0.3081,))


def change(path, edit):
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(edit(raw)))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda raw: raw[:-1], "less than the 15696 bytes"),
        (lambda raw: raw + b"x", "more than the 15696 bytes"),
        (lambda raw: b"\x89PNG" + raw[4:], "not an idx file of bytes with 3 dimensions"),
        (
            lambda raw: raw[:4] + struct.pack(">i", 21) + raw[8:],
            r"its header says [21, 28, 28], expected [20, 28, 28]",
        ),
        (lambda raw: raw[:4] + struct.pack(">i", -1) + raw[8:], "its header says [-1, 28, 28]"),
        (lambda raw: raw[:7], "its header says"),
        (lambda raw: b"", "not an idx file"),
    ],
)
def test_a_wrong_idx_file_is_refused_by_name(tmp_path, edit, words):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    change(path, edit)
    refused(lambda: open_mnist(tmp_path), path, words)


@pytest.mark.parametrize("cut", [0.5, 0.01])
def test_a_cut_gzip_file_is_refused_by_name(tmp_path, cut):
    path = write_mnist(tmp_path) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * cut)])
    refused(lambda: open_mnist(tmp_path), path)


def test_a_flipped_byte_in_a_gzip_file_is_refused_by_name(tmp_path):
    path = write_mnist(tmp_path) / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    refused(lambda: open_mnist(tmp_path), path, "damaged")


def test_a_digit_above_nine_and_missing_files_are_refused(tmp_path):
    write_mnist(tmp_path)
    change(tmp_path / "train-labels-idx1-ubyte.gz", lambda raw: raw[:-1] + b"\x0a")
    refused(lambda: open_mnist(tmp_path), "train-labels-idx1-ubyte", "label 10 at 19")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    refused(lambda: open_mnist(tmp_path), "train-labels-idx1-ubyte.gz is missing")
    refused(lambda: open_labelled("mnist", tmp_path / "raw"), "no folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: open_labelled("mnist", tmp_path / "empty"), "no train-images-idx3-ubyte")


# ---- CIFAR


def test_cifar100_python_layout_gives_fine_or_coarse_labels(tmp_path):
    write_cifar100(tmp_path / "cifar-100-python")
    train, test = open_cifar(tmp_path, SMALL100)
    assert train.images.shape == (200, 3, 32, 32)
    assert train.images[3].flatten().tolist() == pixels(200)[3].tolist()
    assert train.labels[:3].tolist() == [0, 1, 2]
    assert test.classes[99] == "f99"
    coarse = dataclasses.replace(CIFAR100_COARSE, counts=SMALL100.counts)
    assert open_cifar(tmp_path / "cifar-100-python", coarse)[0].labels[[0, 4, 5, 99]].tolist() == [
        0,
        0,
        1,
        19,
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_both_layouts_of_cifar10_are_read(tmp_path, binary):
    write_cifar10(tmp_path / CIFAR10.folders[binary], binary)
    train, test = open_cifar(tmp_path, SMALL10)
    assert train.images.shape == (100, 3, 32, 32)
    assert train.images[20].flatten().tolist() == pixels(20, seed=1)[0].tolist()
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert test.images[0].flatten().tolist() == pixels(20, seed=5)[0].tolist()
    assert train.classes[9] == "n9"


def test_cifar100_binary_layout_has_two_labels_a_record(tmp_path):
    for split, count in (("train", 200), ("test", 100)):
        records = (
            bytes([i % 100 // 5, i % 100]) + pixels(count)[i].tobytes() for i in range(count)
        )
        (tmp_path / f"{split}.bin").write_bytes(b"".join(records))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"f{i}" for i in range(100)) + "\n")
    train, _ = open_cifar(tmp_path, SMALL100)
    assert train.labels[[0, 7, 107]].tolist() == [0, 7, 7]
    assert train.images[199].flatten().tolist() == pixels(200)[199].tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": pixels(199)}, "199 images, but as labels 200"),
        ({"data": pixels(200).astype(np.float32)}, "float32 [200, 3072], not uint8"),
        ({"data": pixels(200)[:, :3000]}, "uint8 [200, 3000]"),
        ({"data": [1, 2, 3]}, "'data' is list"),
        ({"data": np.zeros((), np.uint8)}, "'data' is uint8 []"),
        ({"fine_labels": [100] * 200}, "label 100 of image 0; 0 to 99 exist"),
        ({"fine_labels": [0] * 199 + [-1]}, "label -1 of image 199"),
        ({"fine_labels": [0.5] * 200}, "label 0.5 of image 0"),
        ({"fine_labels": "x" * 200}, "as labels 200"),
        ({"fine_labels": None}, "as labels NoneType"),
        ({"fine_labels": [0] * 200}, "class 0 (f0) has 200 images, not 2"),
    ],
)
def test_a_wrong_batch_is_refused_by_name(tmp_path, changes, words):
    write_cifar100(tmp_path, **changes)
    refused(lambda: open_cifar(tmp_path, SMALL100), tmp_path / "train", words)


def test_wrong_counts_are_refused(tmp_path):
    write_cifar100(tmp_path)
    refused(
        lambda: open_labelled("cifar100", tmp_path), tmp_path / "train", "200 images, not 50000"
    )
    refused(
        lambda: open_labelled("cifar100", tmp_path, check="strict"),
        tmp_path / "train",
        "not the published file",
    )
    write_cifar10(tmp_path / "b", binary=True)
    path = tmp_path / "b" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-5])
    refused(
        lambda: open_cifar(tmp_path / "b", SMALL10),
        path,
        "61455 bytes are no whole number of 3073-byte records",
    )
    path.unlink()
    refused(lambda: open_cifar(tmp_path / "b", SMALL10), path, "missing")


def test_the_other_set_in_its_place_is_refused(tmp_path):
    write_cifar10(tmp_path, binary=False)
    for split in ("train", "test"):
        (tmp_path / split).write_bytes((tmp_path / "test_batch").read_bytes())
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 100}))
    refused(
        lambda: open_cifar(tmp_path, SMALL100),
        tmp_path / "train",
        "fine_labels",
        "CIFAR-10 or CIFAR-100",
    )
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 99}))
    refused(lambda: open_cifar(tmp_path, SMALL100), tmp_path / "meta", "names of 100 classes")
    (tmp_path / "meta").unlink()
    refused(lambda: open_cifar(tmp_path, SMALL100), tmp_path / "meta", "missing")


def test_checksums_bind_as_asked(tmp_path):
    published = (5, "5d41402abc4b2a76b9719d911017c592")  # of "hello"
    for check in ("auto", "strict", "off"):
        verify(tmp_path / "f", b"hello", published, check)
    for content, refusing in ((b"hallo", ("auto", "strict")), (b"repacked", ("strict",))):
        for check in ("auto", "strict", "off"):
            if check in refusing:
                refused(
                    lambda c=content, k=check: verify(tmp_path / "f", c, published, k),
                    tmp_path / "f",
                    "md5",
                )
            else:
                verify(tmp_path / "f", content, published, check)
    refused(lambda: verify(tmp_path / "f", b"", None, "strict"), "no checksum")
    refused(lambda: open_labelled("mnist", tmp_path, check="maybe"), "'maybe'", "auto, strict, off")


def test_unknown_names_are_refused_and_known_ones_listed(tmp_path):
    text = refused(lambda: open_labelled("cifar", tmp_path), "'cifar'")
    assert all(name in text for name in LABELLED)


# ---- the real sets


def test_real_mnist_has_its_known_numbers(real_data, monkeypatch):
    monkeypatch.undo()  # MNIST has its own counts here
    train, test = open_labelled("mnist", part_of(real_data, "MNIST"), check="strict")
    assert (len(train), len(test)) == (60_000, 10_000)
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(train.labels).tolist() == expected
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    values = train.images.double() / 255
    assert round(values.mean().item(), 4) == 0.1307
    assert round(values.std().item(), 4) == 0.3081


def test_real_cifar100_has_its_known_numbers(real_data):
    train, test = open_labelled("cifar100", part_of(real_data, "cifar-100-python"))
    assert torch.bincount(train.labels).tolist() == [500] * 100
    assert torch.bincount(test.labels).tolist() == [100] * 100
    means = [round(train.images[:, c].double().mean().item() / 255, 4) for c in range(3)]
    stds = [round(train.images[:, c].double().std().item() / 255, 4) for c in range(3)]
    assert means == [0.5071, 0.4865, 0.4409]
    assert stds == [0.2673, 0.2564, 0.2762]
    assert train.classes[:2] == ("apple", "aquarium_fish")
