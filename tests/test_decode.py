"""Crops of images: where they lie, and what they show of every kind of file."""

from __future__ import annotations

import dataclasses
import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requirements import needs

from rbsf.datasets.images.decode import AREA, RATIO, CentreCrop, RandomCrop, decode_crop, jpeg_size
from rbsf.datasets.video.images import read_image


def encode(image, suffix=".jpg"):
    return cv2.imencode(suffix, image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def plain(value, width=40, height=30):
    return np.full((height, width, 3), value, np.uint8)


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
    h, w = height // 2, width // 2
    for (y, x), color in zip(((0, 0), (0, 1), (1, 0)), colors, strict=True):
        image[y * h : (y + 1) * h, x * w : (x + 1) * w] = color
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
    whole = np.ones(1), np.ones(1), np.zeros(2)
    plain, mirrored = (
        decode_crop(encode(quarters(), suffix), RandomCrop(*whole, mirror), 32, reduced)
        for mirror in (False, True)
    )
    assert np.array_equal(mirrored, plain[:, ::-1])


def test_reduced_decoding_shows_the_same_crop(monkeypatch):
    photo = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8), (0, 0), 20
    )
    photo = cv2.normalize(photo, None, 0, 255, cv2.NORM_MINMAX)
    flags, imdecode = [], cv2.imdecode

    def decode(data, flag):
        flags.append(flag & ~cv2.IMREAD_ANYDEPTH)
        return imdecode(data, flag)

    monkeypatch.setattr(cv2, "imdecode", decode)
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


def test_gray_cmyk_and_rotated_jpegs_are_read():
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


@pytest.mark.filterwarnings("ignore:.*stretched")
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_read_as_tracking_reads_them(channels, tmp_path):
    ramp = np.linspace(-3, 500, 32 * 32 * channels, dtype=np.float32).reshape(32, 32, channels)
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), ramp)
    crop = decode_crop(path.read_bytes(), CentreCrop(1.0), 32, path=path)
    assert np.array_equal(crop, read_image(path))
    assert np.ptp(crop.astype(int)) > 200


def test_sizes_are_read_from_headers():
    assert jpeg_size(encode(plain(1, 33, 21))) == (33, 21)
    jpeg = encode(plain(1, 33, 21))
    assert jpeg_size(jpeg[:2] + b"\xff\xff" + jpeg[3:]) == (33, 21)  # a fill byte
    assert jpeg_size(encode(plain(1), ".png")) is None
    for cut in range(30):
        jpeg_size(jpeg[:cut])


@given(st.binary(max_size=60))
def test_any_bytes_are_an_image_or_refused(data):
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\0\x11\x08"):
        with pytest.raises(ValueError, match=r"is empty|is not an image|larger than OpenCV"):
            decode_crop(start + data, CentreCrop(1.0), 8)
