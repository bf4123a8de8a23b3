"""Folders of images: layouts, refusals, crops of every kind of file, and passes that resume."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st
from requirements import needs

from rbsf.datasets.images.class_folders import FOLDER, FolderSet, open_image_folder
from rbsf.datasets.images.decode import AREA, RATIO, CentreCrop, RandomCrop, decode_crop, jpeg_size
from rbsf.datasets.images.labelled import open_labelled
from rbsf.system.program import run

CLASSES = ("n01", "n02", "n03")
SMALL = FolderSet(size=16)


def encode(image, suffix=".jpg"):
    return cv2.imencode(suffix, image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def plain(value, width=40, height=30):
    return np.full((height, width, 3), value, np.uint8)


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


def test_folders_of_classes(tmp_path):
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
def test_a_flat_folder_with_its_labels(tmp_path, name, text):
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


def test_tiny_imagenets_and_kaggles_layouts(tmp_path):
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


# ---- crops


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 1000))
def test_random_crops_lie_inside_and_keep_their_promises(width, height, seed):
    crop = RandomCrop.draw(np.random.default_rng(seed))
    x, y, w, h = crop.box(width, height)
    assert 0 <= x <= x + w <= width
    assert 0 <= y <= y + h <= height
    assert min(w, h) >= 1
    if min(width, height) >= 200 and 0.6 < width / height < 1.6:
        assert AREA[0] * 0.97 <= w * h / (width * height) <= AREA[1]
        assert RATIO[0] * 0.97 <= w / h <= RATIO[1] * 1.03


def test_a_long_image_gets_the_largest_crop_of_its_middle():
    crop = dataclasses.replace(RandomCrop.draw(np.random.default_rng(0)), areas=np.full(10, 1.0))
    assert crop.box(1000, 90) == (440, 0, 120, 90)
    assert crop.box(90, 1000) == (0, 440, 90, 120)


def test_the_centre_crop_is_that_of_resize_256_and_cut_224():
    assert CentreCrop(224 / 256).box(500, 400) == (75, 25, 350, 350)
    assert CentreCrop(0.1).box(3, 3) == (1, 1, 1, 1)


def quarters(width=512, height=384):
    """An image of red, green, blue and gray quarters."""
    image = plain(128, width, height)
    colors = ((220, 30, 30), (30, 220, 30), (30, 30, 220))
    for (y, x), color in zip(((0, 0), (0, 1), (1, 0)), colors, strict=True):
        image[y * height // 2 : (y + 1) * height // 2, x * width // 2 : (x + 1) * width // 2] = (
            color
        )
    return image


def corners(crop):
    last = len(crop) - 3
    return [crop[y, x].astype(int) for y in (2, last) for x in (2, last)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("reduced", [True, False])
def test_colours_are_rgb_and_the_crop_is_where_it_should_be(suffix, reduced):
    crop = decode_crop(encode(quarters(), suffix), CentreCrop(1.0), 32, reduced)
    assert (crop.shape, crop.dtype) == ((32, 32, 3), np.uint8)
    for found, expected in zip(
        corners(crop), ((220, 30, 30), (30, 220, 30), (30, 30, 220), (128,) * 3), strict=True
    ):
        assert np.abs(found - expected).max() < 12
    mirrored = decode_crop(encode(quarters(), suffix), CentreCrop(1.0, mirror=True), 32, reduced)
    assert np.array_equal(mirrored, crop[:, ::-1])


def test_reduced_decoding_shows_the_same_crop(monkeypatch):
    photo = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8), (0, 0), 20
    )
    photo = cv2.normalize(photo, None, 0, 255, cv2.NORM_MINMAX)
    flags, imdecode = [], cv2.imdecode
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, flag: flags.append(flag) or imdecode(data, flag)
    )
    for seed in range(20):
        crop = RandomCrop.draw(np.random.default_rng(seed))
        small, full = (
            decode_crop(encode(photo), crop, 64, reduced).astype(int) for reduced in (True, False)
        )
        assert np.abs(small - full).mean() < 8  # the place may differ by half a reduced pixel
        assert np.abs(small - full[:, ::-1]).mean() > 20
    assert {cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4} <= set(flags)
    assert decode_crop(encode(photo), CentreCrop(1.0), 299).shape == (299, 299, 3)
    assert flags[-1] == cv2.IMREAD_REDUCED_COLOR_2  # 300 of 600 pixels are left
    decode_crop(encode(photo), CentreCrop(1.0), 301)
    assert flags[-1] == cv2.IMREAD_COLOR


def test_gray_cmyk_and_rotated_jpegs():
    image_module = pytest.importorskip(
        "PIL.Image", reason=needs("pillow", "it writes the CMYK file")
    )
    gray = cv2.imencode(".jpg", plain(77)[:, :, 0])[1].tobytes()
    assert np.abs(decode_crop(gray, CentreCrop(1.0), 16).astype(int) - 77).max() <= 1
    buffer = io.BytesIO()
    image_module.fromarray(quarters()).convert("CMYK").save(buffer, "JPEG", quality=95)
    crop = decode_crop(buffer.getvalue(), CentreCrop(1.0), 32)
    red, green, blue, _ = (corner.argmax() for corner in corners(crop))
    assert (red, green, blue) == (0, 1, 2)
    # This orientation asks for a turn clockwise.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + b"\0\0\0\0"
    jpeg = encode(quarters())
    rotated = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert jpeg_size(rotated) == (512, 384)
    found = corners(decode_crop(rotated, CentreCrop(1.0), 32))
    assert np.abs(found[1] - (220, 30, 30)).max() < 12  # red moved from the left to the right
    assert np.abs(found[0] - (30, 30, 220)).max() < 12


def test_sizes_in_headers():
    assert jpeg_size(encode(plain(1, 33, 21))) == (33, 21)
    jpeg = encode(plain(1, 33, 21))
    assert jpeg_size(jpeg[:2] + b"\xff\xff" + jpeg[3:]) == (33, 21)  # a fill byte
    assert jpeg_size(encode(plain(1), ".png")) is None
    for cut in range(30):
        jpeg_size(jpeg[:cut])


@given(st.binary(max_size=60))
def test_any_bytes_are_an_image_or_none(data):
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\0\x11\x08"):
        assert decode_crop(start + data, CentreCrop(1.0), 8) is None


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
        path.write_bytes(
            encode(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8))
        )
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
    assert train.batch_count(4) == 3
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
    refused(lambda: read(train), f"{path}: {reason}")
    refused(lambda: read(val, train=False), "n01_0.JPEG", reason)
    train, val = small(tmp_path, skip_broken=True)
    for _ in range(2):
        batches = read(train)
        assert [len(batch["label"]) for batch in batches] == [
            4,
            4,
            4,
        ]  # the last batch is filled up
    assert train.broken == {str(path): reason}
    assert f"warning: {path}: {reason}; skipped, 1 so far" in capsys.readouterr().err
    assert [len(batch["label"]) for batch in read(val, train=False)] == [3, 2]


def test_a_batch_of_nothing_but_broken_images(tmp_path):
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
    assert error.startswith(f"error: {tmp_path / 'train' / 'n03' / 'n03_0.JPEG'}: is not an image")
    assert error.count("\n") == 1
