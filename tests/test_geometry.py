"""Boxes and crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rbsf.tracker.geometry import box_around, box_center, check_box, crop_square, exemplar_side
from rbsf.tracker.target import Target


def test_a_box_has_its_center_and_comes_back_from_it():
    assert box_center([10, 20, 5, 4]).tolist() == [12, 21.5]  # pixels 10..14 and 20..23
    assert box_around([12, 21.5], [5, 4]).tolist() == [10, 20, 5, 4]


def test_exemplar_side_is_that_of_siamfc():
    assert exemplar_side([40, 40]) == pytest.approx(80)
    assert exemplar_side([10, 40]) == pytest.approx(np.sqrt(35 * 65))


def test_a_crop_at_full_size_is_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    crop = crop_square(image, (20, 15), 9, 9)
    np.testing.assert_array_equal(crop, image[11:20, 16:25])


def test_outside_is_the_mean_colour_or_what_is_asked():
    image = np.full((20, 20, 3), (10, 100, 200), np.uint8)
    assert crop_square(image, (-50, -50), 10, 8)[0, 0].tolist() == [10, 100, 200]
    assert crop_square(image, (-50, -50), 10, 8, fill=(1, 2, 3))[4, 4].tolist() == [1, 2, 3]


@pytest.mark.parametrize("center", [(20.3, 15.7), (-9.2, 3), (55.5, 44.1), (200, 15)])
@pytest.mark.parametrize("side", [3.7, 31, 160, np.array([31, 15.5]), np.array([9.3, 40])])
def test_a_crop_is_the_whole_image_warped(center, side):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    scale = np.broadcast_to(side, 2) / 31
    start = np.array(center) - scale * 15
    matrix = np.array([[scale[0], 0, start[0]], [0, scale[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, matrix, (31, 31), flags=flags, borderValue=(1.0, 2.0, 3.0))
    crop = crop_square(image, center, side, 31, fill=(1, 2, 3))
    # The tolerance is for float32 coordinates.
    np.testing.assert_allclose(crop.astype(int), expected, atol=1)


def test_the_center_of_a_crop_is_that_of_the_target():
    image = np.zeros((101, 101, 3), np.uint8)
    image[40:61, 60:81] = 255  # centre (70, 50)
    crop = crop_square(image, box_center([60, 40, 21, 21]), 42, 127)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    assert (rows.mean(), columns.mean()) == (63, 63)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, 3], "has 3 numbers; give four: x,y,w,h"),
        ([1, 2, float("nan"), 4], "not finite"),
        ("1,2,3,4", "give four numbers x,y,w,h"),
        (None, "box is None"),
        ([1, 2, 0, 4], "has no area"),
        ([1, 2, 5, -4], "has no area"),
        ([100, 2, 5, 5], "lies outside the 100x50 frame"),
        ([-30, 2, 30, 5], "lies outside the 100x50 frame"),
        ([-30, 2, 30.5, 5], "too small: less than one pixel wide or high inside the 100x50 frame"),
        ([10, 49.5, 20, 20], "too small"),
        ([10, 10, 20, 0.5], "too small"),
    ],
)
def test_bad_boxes_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        check_box(box, 100, 50)


def test_a_box_of_one_plain_colour_has_a_note():
    wall = np.full((90, 120, 3), 90, np.uint8)
    wall += np.random.default_rng(0).integers(0, 2, wall.shape, np.uint8)  # noise of a codec
    _, note = Target.of(wall, [40, 30, 20, 20])
    assert note is not None
    assert "one plain colour: there is nothing to follow" in note
    wall[30:50, 40:60] += 8  # a faint square
    assert Target.of(wall, [40, 30, 20, 20])[1] is None


def test_boxes_partly_outside_are_clipped_with_a_note():
    box, note = check_box([0, 0, 100, 50], 100, 50)
    assert box.tolist() == [0, 0, 100, 50]
    assert note is None
    # The x + w - x of this box differs from w by a rounding.
    _, note = check_box([45.4381, 37.7274, 29.4065, 55.8059], 320, 240)
    assert note is None
    assert check_box([99, 49, 1, 1], 100, 50)[1] is None
    box, note = check_box([-10, 40, 30, 30], 100, 50)
    assert box.tolist() == [0, 40, 20, 10]
    assert note is not None
    assert "clipped to 0,40,20,10" in note
