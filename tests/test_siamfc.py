"""The tracker on a backbone of a few lines, whose answers are known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rbsf.engine.correlate import correlate_signs
from rbsf.engine.cpu import available_isas
from rbsf.eval.metrics import overlaps
from rbsf.tracker.backbones import torch_backbone
from rbsf.tracker.box_regression import COPY_SIZE, BoxRegression, stretch
from rbsf.tracker.geometry import EXEMPLAR_SIZE, crop_square, exemplar_side
from rbsf.tracker.got10k_adapter import GOT10kTracker
from rbsf.tracker.siamfc import SiamFC, TrackerConfig, _upsampling
from rbsf.tracker.states import State
from rbsf.tracker.template import correlate, look_at


def contrast_backbone(crops: np.ndarray) -> np.ndarray:
    """Local contrast with the stride and field of SiamFC.

    A crop of 127 pixels has 6 x 6 features, one of 255 has 22 x 22.
    """
    maps = [
        cv2.blur(c.astype(np.float32), (7, 7)) - cv2.blur(c.astype(np.float32), (61, 61))
        for c in crops
    ]
    return np.ascontiguousarray(np.stack(maps)[:, 43:-43:8, 43:-43:8].transpose(0, 3, 1, 2))


def texture(seed: int, width: int, height: int, cell: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // cell + 2, width // cell + 2, 3), np.uint8
    )
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


BACKGROUND = texture(0, 320, 240, 40) // 3 + 60
TARGET = texture(1, 48, 36, 8)


def frame(x: float, y: float, scale: float = 1.0) -> np.ndarray:
    """The background, and the target with its top left pixel at (x, y)."""
    image = BACKGROUND.copy()
    patch = cv2.resize(TARGET, None, fx=scale, fy=scale)
    x, y = round(x), round(y)
    image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return image


@pytest.fixture
def tracker() -> SiamFC:
    tracker = SiamFC(contrast_backbone)
    tracker.init(frame(100, 80), (100, 80, 48, 36))
    return tracker


def test_still_target_keeps_its_box_with_score_one(tracker: SiamFC) -> None:
    for _ in range(5):
        result = tracker.update(frame(100, 80))
    np.testing.assert_allclose(result.box, [100, 80, 48, 36], atol=0.7)
    assert result.score == pytest.approx(1, abs=0.02)
    assert not result.lost
    assert result.box.dtype == np.float64


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (-3, 2), (0, -2), (5, 3)])
def test_follows_a_moving_target(tracker: SiamFC, dx: int, dy: int) -> None:
    for i in range(1, 16):
        result = tracker.update(frame(100 + dx * i, 80 + dy * i))
    np.testing.assert_allclose(result.box[:2], [100 + dx * 15, 80 + dy * 15], atol=4)
    assert not result.lost


@pytest.mark.parametrize("growth", [1.02, 0.98])
@pytest.mark.parametrize("share", [0, 0.6])
@pytest.mark.parametrize(("box_share", "tolerance"), [(0, 1e-6), (0.6, 0.03)])
def test_follows_a_change_of_size(
    growth: float, share: float, box_share: float, tolerance: float
) -> None:
    tracker = SiamFC(contrast_backbone, TrackerConfig(memory_share=share, box_share=box_share))
    tracker.init(frame(100, 80), (100, 80, 48, 36))
    for i in range(1, 21):
        scale = growth**i
        result = tracker.update(frame(124 - 24 * scale, 98 - 18 * scale, scale))
    assert result.box[2] == pytest.approx(48 * scale, rel=0.15)
    assert result.box[3] / result.box[2] == pytest.approx(36 / 48, rel=tolerance)


@pytest.mark.parametrize("growth", [1.01, 0.99])
def test_one_scale_follows_a_change_of_size(growth: float) -> None:
    errors = {}
    for rate in (0.0, 0.05):
        tracker = SiamFC(contrast_backbone, TrackerConfig(scales=1, follow_rate=rate))
        tracker.init(frame(100, 80), (100, 80, 48, 36))
        for i in range(1, 51):
            scale = growth**i
            result = tracker.update(frame(124 - 24 * scale, 98 - 18 * scale, scale))
        errors[rate] = abs(np.log(result.box[2:] / (48 * scale, 36 * scale))).max()
    assert errors[0.05] < 0.15
    assert errors[0.05] < 0.6 * errors[0.0]


@pytest.mark.parametrize("wider", [1.3, 0.75])
@pytest.mark.parametrize("scales", [1, 3])
def test_follows_a_change_of_proportions(wider: float, scales: int) -> None:
    boxes = {}
    for share in (0.0, 0.6):
        tracker = SiamFC(contrast_backbone, TrackerConfig(scales=scales, box_share=share))
        tracker.init(frame(100, 80), (100, 80, 48, 36))
        for i in range(1, 41):
            wide = cv2.resize(TARGET, (round(48 * wider ** min(i / 20, 1)), 36))
            image = BACKGROUND.copy()
            image[80:116, 100 : 100 + wide.shape[1]] = wide
            boxes[share] = tracker.update(image).box
    truth = np.array([[100, 80, wide.shape[1], 36]])
    fitted, fixed = (overlaps(boxes[share][None], truth)[0] for share in (0.6, 0.0))
    assert fitted > fixed + 0.05
    assert boxes[0.0][3] / boxes[0.0][2] == pytest.approx(36 / 48)


def test_a_memory_follows_a_change_of_looks() -> None:
    """Half of another texture, which alone draws the box aside, is learned."""
    first, last = frame(100, 80), frame(100, 80)
    last[80:116, 100:148] = texture(7, 48, 36, 8)
    memories = {}
    for share in (0.0, 0.6):
        tracker = SiamFC(contrast_backbone, TrackerConfig(memory_share=share))
        tracker.init(first, (100, 80, 48, 36))
        for i in range(100):
            change = min(i / 100, 0.5)
            image = cv2.addWeighted(last, change, first, 1 - change, 0)
            result = tracker.update(image)
        np.testing.assert_allclose(result.box[:2], [100, 80], atol=6)  # it drifts a little
        memories[share] = tracker._learned.template
    crop = crop_square(image, (123.5, 97.5), exemplar_side((48, 36)), EXEMPLAR_SIZE)
    look = contrast_backbone(crop[None])[0]
    fixed, learned = (np.linalg.norm(memories[share].memory - look) for share in (0.0, 0.6))
    assert learned < 0.5 * fixed


@pytest.mark.parametrize(
    ("size", "aspect"), [(0, 0), (0.15, 0), (-0.15, 0), (0, 0.1), (0, -0.1), (0.1, 0.1)]
)
def test_box_regression_tells_what_a_crop_shows(size: float, aspect: float) -> None:
    image, center, target = frame(100, 80), np.array([123.5, 97.5]), np.array([48, 36])
    regression = BoxRegression(contrast_backbone, image, center, target, (0.0, 0.0, 0.0))
    # This is the size of a crop pixel in image pixels.
    step = exemplar_side(target) / EXEMPLAR_SIZE / stretch(size, aspect)
    crop = crop_square(image, center - step * (2, -3), COPY_SIZE * step, COPY_SIZE)
    misfit = regression(contrast_backbone(crop[None])[0])
    np.testing.assert_allclose(misfit[:2], [2, -3], atol=1.5)
    np.testing.assert_allclose(misfit[2:], [size, aspect], atol=0.05)


def test_a_plain_picture_teaches_no_misfit() -> None:
    plain = np.full((100, 100, 3), 90, np.uint8)
    regression = BoxRegression(
        contrast_backbone, plain, np.array([50, 50]), np.array([20, 20]), (90.0, 90.0, 90.0)
    )
    assert np.isfinite(regression(np.zeros((3, 8, 8), np.float32))).all()


def test_what_is_not_sure_is_not_remembered(tracker: SiamFC) -> None:
    memory = tracker._learned.template.memory
    size = tracker.update(BACKGROUND).box[2:]
    np.testing.assert_array_equal(size, (48, 36))
    assert tracker._learned.template.memory is memory
    tracker.update(frame(100, 80))
    assert tracker._learned.template.memory is not memory


def test_target_that_vanishes_is_lost_and_then_found(tracker: SiamFC) -> None:
    results = [tracker.update(BACKGROUND if 3 <= i < 25 else frame(100, 80)) for i in range(45)]
    lost = [result.lost for result in results]
    assert not any(lost[:4])
    assert lost[24]
    assert not lost[-1]
    assert sum(a != b for a, b in pairwise(lost)) == 2  # lost once, found once
    held = [result.box for result in results[3:25]]
    np.testing.assert_allclose(held, np.broadcast_to(results[2].box, (len(held), 4)))


@pytest.mark.parametrize(
    ("redetect", "place"), [("frame", (15, 190)), ("local", (180, 80)), ("off", (100, 80))]
)
def test_a_lost_target_is_found_where_it_is_looked_for(
    redetect: str, place: tuple[int, int]
) -> None:
    tracker = SiamFC(contrast_backbone, TrackerConfig(redetect=redetect))
    tracker.init(frame(100, 80), (100, 80, 48, 36))
    for _ in range(20):
        result = tracker.update(BACKGROUND)
    assert result.lost
    for _ in range(25):
        result = tracker.update(frame(*place))
    assert result.state is State.TRACKED
    np.testing.assert_allclose(result.box, [*place, 48, 36], atol=4)


@pytest.mark.parametrize("redetect", ["off", "local"])
def test_a_lost_target_is_not_found_elsewhere(redetect: str) -> None:
    tracker = SiamFC(contrast_backbone, TrackerConfig(redetect=redetect))
    tracker.init(frame(20, 20), (20, 20, 48, 36))
    for i in range(60):
        result = tracker.update(BACKGROUND if i < 20 else frame(255, 190))
    assert result.lost


def test_a_frame_of_a_lost_target_has_at_most_three_times_the_crops(tracker: SiamFC) -> None:
    counts = [len(tracker.search_crops(BACKGROUND))]
    for _ in range(20):
        tracker.update(BACKGROUND)
        counts.append(len(tracker.search_crops(BACKGROUND)))
    assert (counts[0], counts[-1], max(counts)) == (3, 9, 9)


def test_a_lost_target_in_a_frame_of_another_size(tracker: SiamFC) -> None:
    for _ in range(20):
        tracker.update(BACKGROUND)
    double = cv2.resize(BACKGROUND, None, fx=2, fy=2)
    np.testing.assert_allclose(tracker.update(double).box, [200, 160, 96, 72], atol=1)
    for _ in range(25):
        result = tracker.update(cv2.resize(frame(200, 20), None, fx=2, fy=2))
    np.testing.assert_allclose(result.box, [400, 40, 96, 72], atol=8)


def test_a_frame_of_another_size_ends_the_watch_of_a_window(tracker: SiamFC) -> None:
    for _ in range(20):
        tracker.update(BACKGROUND)
    while tracker._known.left is None:  # until the target is seen in a window
        assert tracker.update(frame(200, 20)).lost
    double = cv2.resize(BACKGROUND, None, fx=2, fy=2)
    for _ in range(2):
        np.testing.assert_allclose(tracker.update(double).box, [200, 160, 96, 72], atol=1)


def test_stays_inside_the_frame_when_the_target_leaves(tracker: SiamFC) -> None:
    for i in range(30):
        center = tracker.update(frame(min(100 + 8 * i, 271), 80)).box
    assert 0 <= center[0] + center[2] / 2 <= 320


def test_image_of_another_size_is_the_same_view(tracker: SiamFC) -> None:
    double = cv2.resize(frame(103, 82), None, fx=2, fy=2)
    np.testing.assert_allclose(tracker.update(double).box, [206, 164, 96, 72], atol=5)
    np.testing.assert_allclose(tracker.update(frame(103, 82)).box, [103, 82, 48, 36], atol=3)


def test_enlarged_frame_enlarges_the_box_to_the_pixel(tracker: SiamFC) -> None:
    tracker.search_crops(cv2.resize(frame(100, 80), None, fx=4, fy=4))
    np.testing.assert_allclose(tracker.box, [400, 320, 192, 144], atol=1e-9)


def test_gray_and_rgba_images_are_converted() -> None:
    gray = cv2.cvtColor(frame(100, 80), cv2.COLOR_RGB2GRAY)
    views = [
        gray,
        gray[..., None],
        np.dstack([gray] * 3),
        np.dstack([gray] * 3 + [np.full_like(gray, 9)]),
    ]
    boxes = []
    for view in views:
        tracker = SiamFC(contrast_backbone)
        tracker.init(view, (100, 80, 48, 36))
        boxes.append(tracker.update(view).box)
    for box in boxes[1:]:
        np.testing.assert_array_equal(box, boxes[0])


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9, 2), np.uint8), [[1, 2]]]
)
def test_what_is_no_image_is_refused(tracker: SiamFC, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"not an image: .*RGB"):
        tracker.update(image)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((400, 10, 20, 20), "outside the 320x240 frame"),
        ((-30, 10, 30, 20), "outside"),
        ((10, 10, 0, 20), "no area"),
        ((10, 10, 20, -5), "no area"),
        ((10, 10, 20), "3 numbers"),
        ((10, float("nan"), 20, 20), "not finite"),
    ],
)
def test_bad_box_is_refused(box: tuple[float, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        SiamFC(contrast_backbone).init(BACKGROUND, box)


def test_box_partly_outside_is_clipped_and_said() -> None:
    tracker = SiamFC(contrast_backbone)
    note = tracker.init(BACKGROUND, (-10, 5, 40, 40))
    assert note is not None
    assert "clipped to 0,5,30,40" in note
    np.testing.assert_array_equal(tracker.box, [0, 5, 30, 40])
    assert tracker.init(BACKGROUND, (1, 5, 40, 40)) is None


def test_update_before_init_names_the_missing_call() -> None:
    with pytest.raises(RuntimeError, match=r"call init\(image, box\)"):
        SiamFC(contrast_backbone).update(BACKGROUND)


def test_several_targets_in_one_pass_are_as_each_alone() -> None:
    starts = [(100, 80, 48, 36), (90, 75, 30, 30), (110, 90, 40, 20)]
    together, alone = ([SiamFC(contrast_backbone) for _ in starts] for _ in range(2))
    for group in (together, alone):
        for tracker, box in zip(group, starts, strict=True):
            tracker.init(frame(100, 80), box)
    results = SiamFC.update_all(together, frame(104, 82))
    for result, tracker in zip(results, alone, strict=True):
        np.testing.assert_array_equal(result.box, tracker.update(frame(104, 82)).box)


def test_targets_with_other_numbers_of_sizes_share_a_pass() -> None:
    together, alone = (
        [SiamFC(contrast_backbone, TrackerConfig(scales=n)) for n in (3, 1, 5)] for _ in range(2)
    )
    for tracker in (*together, *alone):
        tracker.init(frame(100, 80), (100, 80, 48, 36))
    results = SiamFC.update_all(together, frame(104, 82))
    for result, tracker in zip(results, alone, strict=True):
        np.testing.assert_array_equal(result.box, tracker.update(frame(104, 82)).box)


def test_look_at_is_a_part_of_the_features() -> None:
    features = np.random.default_rng(6).normal(size=(4, 22, 22)).astype(np.float32)
    np.testing.assert_array_equal(look_at(features, np.array([0, 0]), 6), features[:, 8:14, 8:14])
    np.testing.assert_array_equal(
        look_at(features, np.array([-16, 40]), 6), features[:, 13:19, 6:12]
    )
    between = (features[:, 8:14, 8:14] + features[:, 8:14, 9:15]) / 2
    np.testing.assert_allclose(look_at(features, np.array([4, 0]), 6), between, atol=1e-6)
    np.testing.assert_allclose(
        look_at(features, np.array([500, -500]), 6), features[:, :6, 16:], atol=1e-6
    )


def test_look_at_is_what_a_crop_around_that_place_gives() -> None:
    crop = texture(8, 255, 255, 12)
    expected = contrast_backbone(crop[None, 64 + 16 : 191 + 16, 64 - 24 : 191 - 24])[0]
    found = look_at(contrast_backbone(crop[None])[0], np.array([-24, 16]), 6)
    # The blur changes the border.
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.5)


def test_correlate_is_the_plain_sum_over_windows() -> None:
    rng = np.random.default_rng(3)
    template, features = rng.normal(size=(5, 2, 2)), rng.normal(size=(3, 5, 4, 6))
    expected = np.zeros((3, 3, 5))
    for n, i, j in np.ndindex(3, 3, 5):
        expected[n, i, j] = (template * features[n, :, i : i + 2, j : j + 2]).sum()
    np.testing.assert_allclose(correlate(template, features), expected, rtol=1e-12)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(("channels", "size"), [(70, 3), (5, 2), (127, 1), (4000, 3)])
def test_correlate_signs_counts_equal_signs_less_others(
    isa: str, channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSF_ISA", isa)
    rng = np.random.default_rng(5)
    template, features = (
        rng.integers(-2, 3, shape).astype(np.float32)
        for shape in ((channels, size, size), (2, channels, 5, 6))
    )
    plus, minus = np.float32(1), np.float32(-1)
    # Zeros count as +1.
    expected = correlate(np.where(template >= 0, plus, minus), np.where(features >= 0, plus, minus))
    found = correlate_signs(template)(features)
    np.testing.assert_array_equal(found, expected, strict=True)
    assert correlate_signs(template)(template[None]).tolist() == [[[channels * size**2]]]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(
    "features",
    [
        np.full((1, 3, 4, 4), np.nan, np.float32),
        np.zeros((1, 1, 4, 4), np.float32),
        np.zeros((1, 4, 4, 4), np.float32),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((1, 3, 1, 4), np.float32),
    ],
)
def test_correlate_signs_refuses_what_has_none_or_does_not_fit(
    isa: str, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSF_ISA", isa)
    message = r"expected numbers \(N, 3, H, W\) from 2 x 2 up, none of them NaN"
    with pytest.raises(ValueError, match=message):
        correlate_signs(np.ones((3, 2, 2), np.float32))(features)


def test_follows_a_moving_target_by_signs() -> None:
    tracker = SiamFC(contrast_backbone, TrackerConfig(correlation="bits"))
    tracker.init(frame(100, 80), (100, 80, 48, 36))
    assert tracker.update(frame(100, 80)).score == pytest.approx(1, abs=0.1)
    for i in range(1, 16):
        result = tracker.update(frame(100 + 4 * i, 80))
    np.testing.assert_allclose(result.box[:2], [160, 80], atol=4)
    assert not result.lost


@pytest.mark.parametrize(("size", "up"), [(17, 16), (17, 1), (5, 8)])
def test_upsampling_is_opencvs_along_both_axes(size: int, up: int) -> None:
    response = np.random.default_rng(4).normal(size=(size, size)).astype(np.float32)
    rise = _upsampling(size, up)
    expected = cv2.resize(response, (size * up, size * up), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(rise @ (response @ rise.T), expected, atol=2e-6)


def test_a_flat_response_leaves_the_target_in_the_middle() -> None:
    offset = SiamFC(contrast_backbone)._peak_offset(np.full((17, 17), 3, np.float32), 0.176)
    # 272 is even, so the middle lies between two places.
    np.testing.assert_array_equal(abs(offset), [0.25, 0.25])


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"scales": 2}, "scales=2"),
        ({"scale_step": 1.0}, "scale_step=1.0"),
        ({"window_influence": 1.5}, "window_influence=1.5"),
        ({"memory_share": -0.1}, "memory_share=-0.1"),
        ({"box_share": 1.5}, "box_share=1.5"),
        ({"response_up": 0}, "response_up=0"),
        ({"response_up": 1000}, "response_up=1000"),
        ({"scales": 3001}, "scales=3001"),
        ({"scale_step": 1e300}, r"scale_step=1e\+300"),
        ({"correlation": "sign"}, "correlation='sign': give one of float, bits"),
    ],
)
def test_config_names_what_is_wrong(fields: dict[str, float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        TrackerConfig(**fields)  # type: ignore[arg-type]


def test_one_scale_keeps_the_size() -> None:
    tracker = SiamFC(contrast_backbone, TrackerConfig(scales=1, box_share=0.0))
    tracker.init(frame(100, 80), (100, 80, 48, 36))
    np.testing.assert_array_equal(tracker.update(frame(105, 80)).box[2:], [48, 36])


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.05)])
def test_torch_backbone_gives_the_networks_features(precision: str, tolerance: float) -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 5, 11, stride=8)
    crops = np.random.default_rng(0).integers(0, 256, (2, 127, 127, 3), np.uint8)
    features = torch_backbone(net, "cpu", precision)(crops)
    expected = net(torch.from_numpy(crops.transpose(0, 3, 1, 2)).float()).detach().numpy()
    assert features.shape == (2, 5, 15, 15)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ("device", "precision", "fault"),
    [
        ("cpu", "int3", "precision 'int3'"),
        ("cuda:99", "float32", "device 'cuda:99' is not available"),
        ("x", "float32", "'x'"),
    ],
)
def test_torch_backbone_refuses_what_is_not_there(device: str, precision: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        torch_backbone(torch.nn.Identity(), device, precision)


@pytest.mark.parametrize(
    ("one_based", "start"), [(False, (100, 80, 48, 36)), (True, (101, 81, 48, 36))]
)
def test_got10k_toolkit_runs_it(tmp_path: Path, one_based: bool, start: tuple[int, ...]) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, name in enumerate(files):
        cv2.imwrite(name, cv2.cvtColor(frame(100 + 3 * i, 80), cv2.COLOR_RGB2BGR))
    boxes, times = GOT10kTracker(SiamFC(contrast_backbone), one_based).track(files, np.array(start))
    np.testing.assert_array_equal(boxes[0], start)
    np.testing.assert_allclose(boxes[4], np.add(start, (12, 0, 0, 0)), atol=2.5)
    assert (times > 0).all()
