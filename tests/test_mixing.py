"""What pairs are made of besides a target's own crops.

Labels stay true, shares are as requested, and each kind draws its own random numbers.
"""

import zlib
from collections import Counter, defaultdict

import cv2
import numpy as np
import pytest
import torch
from test_pairs import PLAIN, centre, flat, jpeg, same, store_of

from rbsf.datasets.pairs.crop_store import CROP_SIZE, Crop, CropStore, CropWriter
from rbsf.datasets.pairs.mixing import (
    MixConfig,
    Target,
    add_distractor,
    paste_on_scene,
    random_window,
)
from rbsf.datasets.pairs.pair_dataset import AugmentConfig, PairDataset

MOVED = AugmentConfig(gray=0, light=0, blur=0)  # moves and mirrors, with unchanged colours
RED, GREEN = (220, 30, 30), (30, 220, 30)
SHARES = (
    "negative_share",
    "hard_share",
    "distractor_share",
    "paste_share",
    "random_share",
)


def painted(color, size=(60, 40), ground=40):
    """A crop on gray, whose target is a box of one colour."""
    pixels = np.full((CROP_SIZE, CROP_SIZE, 3), ground, np.uint8)
    (w, h), middle = size, CROP_SIZE // 2
    pixels[middle - h // 2 : middle + h // 2 + 1, middle - w // 2 : middle + w // 2 + 1] = color
    return Crop(0, (float(w), float(h)), jpeg(pixels))


def target(color, size=(60, 40), ground=40):
    crop = painted(color, size, ground)
    pixels = cv2.imdecode(np.frombuffer(crop.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return Target(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.array(size, float))


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (CROP_SIZE, CROP_SIZE, 3), np.uint8)


def channels(pixels):
    """The colour channels of a tensor `[3, H, W]` or an array `[H, W, 3]`."""
    return pixels.numpy() if isinstance(pixels, torch.Tensor) else pixels.transpose(2, 0, 1)


def is_red(pixels):
    red, green, _ = channels(pixels)
    return (red > 150) & (green < 90)


def is_green(pixels):
    red, green, _ = channels(pixels)
    return (green > 150) & (red < 90)


@pytest.fixture
def two(tmp_path):
    """Red boxes on dark gray in one video, and green boxes on lighter gray in another."""
    red, green = painted(RED), painted(GREEN, (44, 52), 90)
    return store_of(tmp_path / "two.db", ("video", [red]), ("video", [green]))


def test_without_sources_pairs_are_what_they_were_before_there_were_any(tmp_path):
    """Checksums are those of the code that had no sources.

    Pictures are flat, as their pixels do not depend on OpenCV's version.
    """
    long = [flat(frame, frame) for frame in range(0, 120, 2)]
    films = store_of(
        tmp_path / "films.db", ("video", long), ("video", [flat(0, 200), flat(1, 201)])
    )
    stills = store_of(
        tmp_path / "s.db", ("still", [flat(0, 150), flat(1, 160)]), ("still", [flat(0, 230)])
    )

    def checksum(dataset):
        total = 0
        for item in dataset:
            for key in ("exemplar", "search", "shift", "negative"):
                total = zlib.crc32(item[key].numpy().tobytes(), total)
        return total

    assert checksum(PairDataset([films, stills], 60, seed=3)) == 3512086166
    later = PairDataset([films, stills], 60, seed=3, still_share=0.5)
    later.set_epoch(2)
    assert checksum(later) == 2397527940


@pytest.mark.parametrize("share", [*SHARES, "all"])
def test_items_keep_their_form_and_are_pure_functions(two, share):
    names = SHARES if share == "all" else (share,)
    datasets = [
        PairDataset([two], 8, seed=2, mix=MixConfig(**dict.fromkeys(names, 0.7))) for _ in range(2)
    ]
    _ = datasets[1][5]
    for i in range(8):
        item = datasets[0][i]
        assert same(item, datasets[1][i])
        assert (item["exemplar"].shape, item["search"].shape) == ((3, 127, 127), (3, 255, 255))
        assert item["exemplar"].dtype == item["search"].dtype == torch.uint8
        assert (item["shift"].dtype, item["negative"].dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize(
    "share", ["negative_share", "distractor_share", "paste_share", "random_share"]
)
def test_shares_hold_and_other_pairs_stay_the_same_to_the_bit(two, share):
    plain = PairDataset([two], 200, seed=1, augment=PLAIN)
    mixed = PairDataset([two], 200, seed=1, augment=PLAIN, mix=MixConfig(**{share: 0.3}))
    changed = sum(not same(a, b) for a, b in zip(plain, mixed, strict=True))
    assert 43 <= changed <= 77  # 60 are expected, with a deviation of 6.5


def test_sources_draw_for_themselves(two):
    """A distractor lies at the same place whether or not other pairs are pasted."""
    one = PairDataset([two], 60, augment=PLAIN, mix=MixConfig(distractor_share=0.5))
    both = PairDataset(
        [two], 60, augment=PLAIN, mix=MixConfig(distractor_share=0.5, paste_share=0.5)
    )
    plain = PairDataset([two], 60, augment=PLAIN)
    kept = [i for i in range(60) if same(one[i], both[i])]
    assert 20 < len(kept) < 40  # the pairs that are not pasted
    assert any(not same(one[i], plain[i]) for i in kept)


def test_pasted_targets_are_where_the_label_says(tmp_path):
    """The scene has no red, and the target is a red disc."""
    store = store_of(
        tmp_path / "s.db",
        ("still", [painted(RED, (62, 62))]),
        ("still", [Crop(0, (60.0, 60.0), jpeg(noise() // 3))]),
    )
    dataset = PairDataset([store], 40, augment=MOVED, mix=MixConfig(paste_share=1.0))
    seen = 0
    for item in dataset:
        if not is_red(item["exemplar"][:, 58:69, 58:69]).any():
            continue  # here the noise is pasted on the scene of the red target
        seen += 1
        places = []
        for key in ("exemplar", "search"):
            red = is_red(item[key])
            own = cv2.connectedComponents(red.astype(np.uint8))[1]
            middle = len(red) // 2
            about = own[middle - 24 : middle + 25, middle - 24 : middle + 25]
            places.append(centre(own == about[about > 0][0]) - middle)
        assert places[1] - places[0] == pytest.approx(item["shift"].numpy(), abs=1.5)
    assert 10 < seen < 30


def test_pasted_target_fades_into_the_scene_beside_the_scene_s_own():
    red, scene = target(RED), target(GREEN, (44, 52), 90)
    places = []
    for seed in range(30):
        pixels, size = paste_on_scene(red, scene, np.random.default_rng(seed))
        assert size.tolist() == [60, 40]
        assert centre(is_red(pixels)) == pytest.approx([159, 159], abs=0.1)
        assert is_red(pixels).sum() > 0.5 * 60 * 40  # all but the faded edge
        assert not is_red(pixels[:139]).any()
        assert pixels[159, 159].tolist() == list(RED)
        edge = pixels[159, 131:137].astype(int)  # the left end of the ellipse, from 129 to 137
        assert (np.diff(edge[:, 0]) > 0).all()  # it gets redder inwards
        green = is_green(pixels)
        assert not green[140:179, 130:189].any()  # the scene's own target is not below it
        places.append(centre(green).round().tolist())
    assert len({tuple(place) for place in places}) > 25
    assert red.pixels[159, 159].tolist() == list(RED)
    assert not is_red(scene.pixels).any()  # arguments are not changed


def test_scene_is_moved_and_not_distorted():
    """Away from the target, each pixel is one of the scene, moved.

    At the edges the scene is mirrored.
    """
    scene = Target(noise(), np.array([40.0, 40.0]))
    pixels, _ = paste_on_scene(target(RED, (40, 40)), scene, np.random.default_rng(4))
    patch = pixels[60:80, 60:80]
    scores = cv2.matchTemplate(scene.pixels, patch, cv2.TM_SQDIFF)
    mirrored = cv2.matchTemplate(scene.pixels[:, ::-1].copy(), patch, cv2.TM_SQDIFF)
    upside_down = cv2.matchTemplate(scene.pixels[::-1].copy(), patch, cv2.TM_SQDIFF)
    both = cv2.matchTemplate(scene.pixels[::-1, ::-1].copy(), patch, cv2.TM_SQDIFF)
    # An FFT does not give exactly 0; other places have about 1e7.
    assert min(s.min() for s in (scores, mirrored, upside_down, both)) < 100


@pytest.mark.parametrize("size", [(60, 40), (137, 20), (20, 119), (90, 90)])
def test_distractor_is_seen_and_the_target_s_box_is_untouched(size):
    own, other = target(RED, size), target(GREEN, (64, 64), 90)
    x, y = CROP_SIZE // 2 - size[0] // 2, CROP_SIZE // 2 - size[1] // 2
    box = np.s_[y : y + size[1] + 1, x : x + size[0] + 1]
    sides = set()
    for seed in range(40):
        pixels, kept = add_distractor(own, other, np.random.default_rng(seed))
        assert kept.tolist() == list(size)
        assert np.array_equal(pixels[box], own.pixels[box])
        green = is_green(pixels)
        assert green[32:287, 32:287].sum() > 700  # within the search crop
        assert 0.6 * 64 * 64 / 1.25**2 / 2 < green.sum() < 64 * 64 * 1.25**2
        sides.add(tuple((centre(green) > 159).tolist()))
    assert len(sides) == 4
    assert not is_green(own.pixels).any()


def test_targets_less_than_a_pixel_high_can_be_pasted():
    """A box of 1000 x 1 image pixels is 0.2 pixels high in its crop."""
    line, scene = Target(target(GREEN, (140, 2), 90).pixels, np.array([140, 0.2])), target(RED)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for pixels, _ in (add_distractor(scene, line, rng), paste_on_scene(line, scene, rng)):
            assert is_red(pixels).sum() > 2000


def test_distractor_leaves_exemplar_label_and_negatives_alone(two):
    plain = PairDataset([two], 40, augment=MOVED)
    mixed = PairDataset([two], 40, augment=MOVED, mix=MixConfig(distractor_share=1.0))
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a["exemplar"], b["exemplar"])
        assert torch.equal(a["shift"], b["shift"])
        assert not b["negative"]
        assert is_red(b["search"]).any()
        assert is_green(b["search"]).any()
    negatives = PairDataset([two], 40, augment=MOVED, mix=MixConfig(negative_share=1.0))
    both = PairDataset(
        [two], 40, augment=MOVED, mix=MixConfig(negative_share=1.0, distractor_share=1.0)
    )
    assert all(same(a, b) for a, b in zip(negatives, both, strict=True))


def test_windows_are_found_again_where_the_label_says(tmp_path):
    smooth = cv2.GaussianBlur(noise(), (0, 0), 3)
    pixels = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    store = store_of(
        tmp_path / "s.db", ("video", [Crop(f, (60.0, 60.0), jpeg(pixels)) for f in range(3)])
    )
    augment = AugmentConfig(gray=0, light=0, blur=0, scale=0, still_scale=0)
    plain = PairDataset([store], 1, augment=augment)[0]["exemplar"]
    dataset = PairDataset([store], 20, augment=augment, mix=MixConfig(random_share=1.0))
    for item in dataset:
        exemplar, search = (item[key].permute(1, 2, 0).numpy() for key in ("exemplar", "search"))
        scores = cv2.matchTemplate(
            search, np.ascontiguousarray(exemplar[40:87, 40:87]), cv2.TM_SQDIFF_NORMED
        )
        best, _, place, _ = cv2.minMaxLoc(scores)
        assert best < 0.01
        assert np.array(place) + 23 - 127 == pytest.approx(item["shift"].numpy(), abs=1)
        assert not item["negative"]
        assert not torch.equal(item["exemplar"], plain)


def test_window_avoids_what_is_plain():
    pixels = np.full((CROP_SIZE, CROP_SIZE, 3), 90, np.uint8)
    pixels[:, 160:] = noise()[:, 160:]
    source = Target(pixels, np.array([60.0, 60.0]))
    windows = [random_window(source, np.random.default_rng(seed)).pixels for seed in range(60)]
    plain = sum(window[140:179, 140:179].std() < 1 for window in windows)
    assert plain < 12  # 24 of 60 would be plain without a choice of places


def named_store(path, sequences):
    """Stills by name, each of one crop of the given aspect ratio.

    The gray value of all its pixels is the still's number.
    """
    with CropWriter(path) as writer:
        for number, (name, size) in enumerate(sequences):
            crop = Crop(0, size, flat(0, 10 * number + 10).jpeg)
            writer.add_crops(writer.add_sequence("source", name, "still"), [crop])
        writer.finish()
    return CropStore(path)


def negatives_of(store, length=80, hard=1.0):
    """Which search crops each exemplar got and how often, by gray value."""
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for item in PairDataset(
        [store], length, augment=PLAIN, mix=MixConfig(negative_share=1.0, hard_share=hard)
    ):
        if item["negative"]:
            found[int(item["exemplar"][0, 0, 0])][int(item["search"][0, 0, 0])] += 1
    # A few draws find no other scene.
    assert sum(sum(counts.values()) for counts in found.values()) > 0.8 * length
    return found


def test_hard_negatives_are_named_alike_but_for_the_number(tmp_path):
    square = (60.0, 60.0)
    names = ["dog_1.jpg", "dog_2.jpg", "cat_01.png", "cat_02.png", "lone.jpg"]
    found = negatives_of(named_store(tmp_path / "s.db", [(name, square) for name in names]))
    expected = {10: {20}, 20: {10}, 30: {40}, 40: {30}}
    assert {gray: set(found[gray]) for gray in (10, 20, 30, 40)} == expected
    assert set(found[50]) <= {10, 20, 30, 40}
    soft = negatives_of(
        named_store(tmp_path / "soft.db", [(name, square) for name in names]), hard=0.0
    )
    assert set(soft[10]) == {20, 30, 40, 50}


def test_hard_negatives_are_of_like_shape(tmp_path):
    sizes = [(80.0, 40.0), (79.0, 41.0), (40.0, 80.0), (41.0, 79.0)]
    store = named_store(tmp_path / "s.db", [(f"{n:06}.jpg", size) for n, size in enumerate(sizes)])
    found = negatives_of(store)
    alike = sum(found[a][b] for a, b in ((10, 20), (20, 10), (30, 40), (40, 30)))
    assert alike >= 75  # of 80; a draw of 16 candidates rarely lacks the one alike


def test_another_target_of_the_same_image_is_no_negative(tmp_path):
    """Its crop may well show the exemplar's target."""
    stills = store_of(
        tmp_path / "s.db", ("still", [flat(0, 10), flat(1, 20)]), ("still", [flat(0, 200)])
    )
    for hard in (0.0, 1.0):
        found = negatives_of(stills, 40, hard)
        assert set(found[10]) == set(found[20]) == {200}
        assert set(found[200]) == {10, 20}


@pytest.mark.parametrize("share", ["negative_share", "distractor_share", "paste_share"])
def test_one_sequence_alone_stays_as_it_is(tmp_path, share):
    store = store_of(tmp_path / "one.db", ("video", [flat(0, 20), flat(1, 21)]))
    mix = MixConfig(**{share: 1.0}, hard_share=1.0)
    assert {
        int(item["search"].max()) for item in PairDataset([store], 10, augment=PLAIN, mix=mix)
    } == {20, 21}
    assert not any(item["negative"] for item in PairDataset([store], 10, mix=mix))


def test_one_sequence_alone_is_enlarged_and_shifted_as_it_was(tmp_path):
    """Pasted frames are enlarged as stills are; frames of a video alone are not."""
    store = store_of(tmp_path / "one.db", ("video", [painted(RED), painted(GREEN)]))
    pasted = PairDataset([store], 10, mix=MixConfig(paste_share=1.0))
    assert all(same(a, b) for a, b in zip(PairDataset([store], 10), pasted, strict=True))


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "x"])
def test_shares_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; give a number from 0 to 1$"):
        MixConfig(**{name: value})
