"""Folders of images: layouts, refusals, crops of every kind of file, and passes that resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from test_decode import encode, plain, quarters

from rbsf.datasets.images.class_folders import FOLDER, FolderSet, open_image_folder
from rbsf.datasets.images.labelled import open_labelled
from rbsf.system.program import run

CLASSES = ("n01", "n02", "n03")
SMALL = FolderSet(size=16)


def write(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(plain(value)))


def make(root, train=4, val=2):
    """Write ROOT/train and ROOT/val; the gray value of an image tells its class and number."""
    for label, name in enumerate(CLASSES):
        for split, count in (("train", train), ("val", val)):
            for i in range(count):
                write(root / split / name / f"{name}_{i}.JPEG", 20 + 80 * label + 10 * i)
    return root


def flat(root, name, text):
    """Move the validation images into one folder, with a file of labels."""
    for label, wnid in enumerate(CLASSES):
        for path in sorted((root / "val" / wnid).iterdir()):
            path.rename(root / "val" / f"val_{label}{path.name[-6]}.JPEG")
        (root / "val" / wnid).rmdir()
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


IMAGES = ("val_00", "val_01", "val_10", "val_11", "val_20", "val_21")
BY_NAME = dict(zip(IMAGES, ("n01", "n01", "n02", "n02", "n03", "n03"), strict=True))


# ---- layouts


def test_folders_of_classes_are_read(tmp_path):
    train, val = open_image_folder(make(tmp_path))
    assert (len(train), len(val)) == (12, 6)
    assert train.classes == val.classes == CLASSES
    assert train.files[:2] == ["n01/n01_0.JPEG", "n01/n01_1.JPEG"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (train.crop_padding, train.flip) == (0, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(f"{i},{c} 1 2 3 4\n" for i, c in BY_NAME.items()),
        ),
        (
            "val/val_annotations.txt",
            "".join(f"{i}.JPEG\t{c}\t0\t32\t44\t62\n" for i, c in BY_NAME.items()),
        ),
        ("imagenet_2012_validation_synset_labels.txt", "n01\nn01\nn02\nn02\nn03\nn03\n"),
    ],
)
def test_a_flat_folder_is_read_with_its_labels(tmp_path, name, text):
    _, val = open_image_folder(flat(make(tmp_path), name, text))
    assert [Path(file).stem for file in val.files] == list(IMAGES)
    assert val.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_devkit_numbers_classes_its_own_way(tmp_path):
    devkit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    truth = "ILSVRC2012_validation_ground_truth.txt"
    flat(make(tmp_path), f"ILSVRC2012_devkit_t12/data/{truth}", "2\n2\n1\n1\n3\n3\n")
    refused(lambda: open_image_folder(tmp_path), devkit / truth, "map_clsloc.txt", "missing")
    (devkit / "map_clsloc.txt").write_text("n02 1 kit_fox\nn01 2 setter\nn03 3 husky\n")
    assert open_image_folder(tmp_path)[1].labels.tolist() == [0, 0, 1, 1, 2, 2]
    (devkit / truth).write_text("2\n2\n1\n1\n3\n4\n")
    refused(lambda: open_image_folder(tmp_path), devkit / truth, "class '4'")


def test_layouts_of_tiny_imagenet_and_kaggle_are_read(tmp_path):
    for label, name in enumerate(CLASSES):
        write(tmp_path / "tiny-imagenet-200" / "train" / name / "images" / f"{name}_0.JPEG")
        write(tmp_path / "tiny-imagenet-200" / "val" / "images" / f"val_{label}.JPEG")
    lines = "".join(f"val_{label}.JPEG\t{name}\t0\t0\t9\t9\n" for label, name in enumerate(CLASSES))
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(lines)
    train, val = open_image_folder(tmp_path)
    assert train.files == [f"{name}/images/{name}_0.JPEG" for name in CLASSES]
    assert val.files == [f"images/val_{label}.JPEG" for label in range(3)]
    assert next(val.batches(3, 0, 0, train=False))["label"].tolist() == [0, 1, 2]
    make(tmp_path / "k" / "ILSVRC" / "Data" / "CLS-LOC")
    assert len(open_image_folder(tmp_path / "k")[0]) == 12


def test_what_is_no_image_is_left_out(tmp_path):
    make(tmp_path)
    for name in (".hidden.JPEG", "notes.txt", "Thumbs.db"):
        (tmp_path / "train" / "n01" / name).write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(open_image_folder(tmp_path)[0]) == 12


def test_missing_and_empty_folders_are_refused(tmp_path):
    refused(lambda: open_image_folder(tmp_path), f"no folder {tmp_path / 'train'}")
    (tmp_path / "train").mkdir()
    refused(lambda: open_image_folder(tmp_path), f"no folder {tmp_path / 'val'}")
    (tmp_path / "val").mkdir()
    refused(lambda: open_image_folder(tmp_path), tmp_path / "train", "no folders of classes")
    make(tmp_path)
    for name in ("n04", "n05"):
        (tmp_path / "train" / name).mkdir()
    refused(
        lambda: open_image_folder(tmp_path),
        tmp_path / "train" / "n04",
        "no images",
        "2 of 5 classes",
    )


def test_classes_that_are_missing_or_unknown_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "val" / "n02").rename(tmp_path / "n02")
    refused(
        lambda: open_image_folder(tmp_path),
        tmp_path / "val",
        "class n02 of",
        "has no images here (1 classes",
    )
    write(tmp_path / "val" / "n09" / "x.jpg")
    refused(
        lambda: open_image_folder(tmp_path),
        tmp_path / "val",
        "class n09 is not in",
        tmp_path / "train",
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nval_00,n01 1\n",
            "image val_01 is without a label (5 are)",
        ),
        (
            "val/val_annotations.txt",
            "val_00.JPEG\n",
            "no image and class in the line 'val_00.JPEG'",
        ),
        ("imagenet_2012_validation_synset_labels.txt", "n01\nn02\n", "2 labels for 6 images"),
        (
            "imagenet_2012_validation_synset_labels.txt",
            "n01\n" * 5 + "n07\n",
            "class n07 is not in",
        ),
        ("other.txt", "", "none of val_annotations.txt, LOC_val_solution.csv"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(f"{i},{c} 1\n" for i, c in {**BY_NAME, "val_99": "n01"}.items()),
            "image val_99 is not there (1 are)",
        ),
    ],
)
def test_wrong_labels_of_a_flat_folder_are_refused(tmp_path, name, text, words):
    refused(lambda: open_image_folder(flat(make(tmp_path), name, text)), words)


def test_published_numbers_bind_unless_the_check_is_off(tmp_path):
    make(tmp_path)
    refused(lambda: open_labelled("imagenet", tmp_path), "3 classes, not 1000", "'folder'")
    kind = dataclasses.replace(FOLDER, classes=3, train=12, val=7)
    refused(lambda: open_image_folder(tmp_path, kind), "6 images in val, not 7")
    assert len(open_labelled("imagenet", tmp_path, check="off")[0]) == 12
    assert open_labelled("tiny-imagenet", tmp_path, check="off")[0].size == 64
    assert open_labelled("folder", tmp_path)[0].size == 224


def test_size_and_workers_are_those_of_the_caller(tmp_path):
    for data in open_labelled("folder", make(tmp_path), size=96, workers=3):
        assert (data.size, data.workers) == (96, 3)
    refused(lambda: open_labelled("folder", tmp_path, workers=-1), "workers -1")
    refused(lambda: open_labelled("folder", tmp_path, size=0), "size 0")


# ---- passes


def small(root, **changes):
    return [dataclasses.replace(data, size=16, **changes) for data in open_image_folder(root)]


def read(data, **numbers):
    return list(data.batches(4, **{"seed": 1, "epoch": 0, **numbers}))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[key], b[key])
        for a, b in zip(first, second, strict=True)
        for key in ("image", "label")
    )


def test_batches_have_the_promised_form(tmp_path):
    train, val = small(make(tmp_path))
    batches = read(train)
    assert [batch["image"].shape for batch in batches] == [(4, 3, 16, 16)] * 3
    assert batches[0]["image"].dtype == torch.uint8
    assert batches[0]["image"].is_contiguous(memory_format=torch.channels_last)
    assert batches[0]["label"].dtype == torch.int64
    for batch in batches:
        assert set(batch) == {"image", "label"}
        assert ((batch["image"][:, 0, 8, 8].int() - 12) // 80).tolist() == batch["label"].tolist()
    batches = read(val, train=False)
    assert [len(batch["label"]) for batch in batches] == [4, 2]
    expected = [20, 30, 100, 110, 180, 190]
    assert torch.cat([batch["image"][:, 1, 8, 8] for batch in batches]).tolist() == expected


def textured(root):
    make(root)
    for seed, path in enumerate(sorted((root / "train").rglob("*.JPEG"))):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        path.write_bytes(encode(noise))
    return root


def test_a_pass_is_a_function_of_seed_and_epoch_and_resumes(tmp_path):
    train, _ = small(textured(tmp_path))
    whole = read(train)
    torch.manual_seed(3)
    assert same(read(train), whole)
    assert same(read(train, start=2), whole[2:])
    assert not same(read(train, epoch=1), whole)
    assert not same(read(train, seed=2), whole)
    of_ranks = [read(train, rank=rank, world=3) for rank in range(3)]
    assert same([batches[0] for batches in of_ranks], whole)
    assert len(whole) == 3
    assert len(read(train, limit=5)) == 1
    refused(lambda: train.batches(13, 0, 0), "12 images do not fill 1 x 13")


def test_worker_processes_read_the_same_pass_after_pass(tmp_path):
    train, _ = small(textured(tmp_path))
    parallel = dataclasses.replace(train, workers=2)
    assert same(read(parallel), read(train))
    next(parallel.batches(4, 1, 5))  # this pass is given up
    assert same(read(parallel, epoch=1), read(train, epoch=1))
    assert same(read(parallel, train=False), read(train, train=False))


def test_a_pass_ends_where_another_begins(tmp_path):
    train, _ = small(make(tmp_path))
    first = train.batches(4, 0, 0)
    next(first)
    next(train.batches(4, 0, 1))
    with pytest.raises(RuntimeError, match="another pass"):
        next(first)


BROKEN = {
    "empty": (b"", "is empty (0 bytes)"),
    "text": (b"<html>not found</html>", "is not an image, or is cut short"),
    "cut": (encode(quarters())[:3000], "is not an image, or is cut short"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_or_skipped_when_asked(tmp_path, capsys, kind):
    content, reason = BROKEN[kind]
    make(tmp_path)
    for split, name in (("train", "n01_1"), ("val", "n01_0")):
        (tmp_path / split / "n01" / f"{name}.JPEG").write_bytes(content)
    train, val = small(tmp_path)
    path = tmp_path / "train" / "n01" / "n01_1.JPEG"
    refused(
        lambda: read(train),
        f"image {path} {reason}; replace or remove it; ",
        "by --skip-broken",
    )
    refused(lambda: read(val, train=False), "n01_0.JPEG", reason)
    train, val = small(tmp_path, skip_broken=True)
    for _ in range(2):
        batches = read(train)
        sizes = [len(batch["label"]) for batch in batches]
        assert sizes == [4, 4, 4]  # the last batch is filled up
    assert train.broken == {str(path): f"image {path} {reason}; replace or remove it"}
    warned = f"warning: {train.broken[str(path)]}; skipped, 1 so far"
    assert warned in capsys.readouterr().err
    assert [len(batch["label"]) for batch in read(val, train=False)] == [3, 2]


def test_a_batch_of_nothing_but_broken_images_is_left_out_or_refused(tmp_path):
    make(tmp_path)
    for path in (tmp_path / "val").rglob("*.JPEG"):
        path.write_bytes(b"")
    _, val = small(tmp_path, skip_broken=True)
    assert read(val, train=False) == []
    assert len(val.broken) == 6
    refused(lambda: read(val), "the rest of its batch", "is the folder whole?")


def test_a_file_that_has_gone_is_named(tmp_path):
    train, _ = small(make(tmp_path))
    (tmp_path / "train" / "n02" / "n02_3.JPEG").unlink()
    refused(lambda: read(train), "n02_3.JPEG: No such file or directory")


def test_an_error_in_a_worker_process_ends_a_program_in_one_line(tmp_path, capsys):
    make(tmp_path)
    (tmp_path / "train" / "n03" / "n03_0.JPEG").write_bytes(b"x")
    train, _ = small(tmp_path, workers=1)
    with pytest.raises(SystemExit) as ended:
        run(lambda: len(read(train)))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: image {tmp_path / 'train' / 'n03' / 'n03_0.JPEG'} is not an image"
    )
    assert error.count("\n") == 1
