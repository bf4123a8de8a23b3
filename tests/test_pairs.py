"""Pairs: shifts and augmentation are as asked, items are pure functions, loaders resume."""

import os
import signal
import sqlite3
from dataclasses import replace
from functools import cache
from itertools import pairwise, permutations

import cv2
import numpy as np
import pytest
import torch

from rbsf.datasets.pairs.crop_store import CROP_SIZE, Crop, CropStore, CropWriter
from rbsf.datasets.pairs.mixing import MixConfig
from rbsf.datasets.pairs.pair_dataset import AugmentConfig, PairDataset, make_loader
from rbsf.system.program import run

PLAIN = AugmentConfig(
    exemplar_shift=0, search_shift=0, scale=0, still_scale=0, flip=0, gray=0, light=0, blur=0
)


def jpeg(pixels):
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[
        1
    ].tobytes()  # without loss


@cache
def flat(frame, value):
    return Crop(frame, (60.0, 60.0), jpeg(np.full((CROP_SIZE, CROP_SIZE, 3), value, np.uint8)))


def dot():
    """A red disc on the target's centre, and a blue patch to its left."""
    pixels = np.full((CROP_SIZE, CROP_SIZE, 3), 40, np.uint8)
    cv2.circle(pixels, (159, 159), 10, (250, 40, 40), -1)
    pixels[150:169, 125:140] = 40, 40, 250
    return Crop(0, (60.0, 60.0), jpeg(pixels))


def store_of(path, *sequences):
    with CropWriter(path) as writer:
        for number, (kind, crops) in enumerate(sequences):
            writer.add_crops(writer.add_sequence("source", str(number), kind), crops)
        writer.finish()
    return CropStore(path)


@pytest.fixture
def stills(tmp_path):
    return store_of(tmp_path / "stills.db", ("still", [dot()]))


@pytest.fixture
def films(tmp_path):
    """A long video of gray values 0 to 118, and a short one of 200 and 201.

    The long one has every second frame, whose gray is its number.
    """
    long = [flat(frame, frame) for frame in range(0, 120, 2)]
    return store_of(tmp_path / "films.db", ("video", long), ("video", [flat(0, 200), flat(1, 201)]))


def centre(mask):
    ys, xs = np.nonzero(mask)
    return np.array([xs.mean(), ys.mean()])


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in ("exemplar", "search", "shift", "negative"))


def test_item_has_the_promised_shapes(stills):
    item = PairDataset([stills], 10)[0]
    assert item["exemplar"].shape == (3, 127, 127)
    assert item["search"].shape == (3, 255, 255)
    assert item["shift"].shape == (2,)
    assert item["exemplar"].dtype == item["search"].dtype == torch.uint8
    assert item["shift"].dtype == torch.float32
    assert item["negative"].dtype == torch.bool


def test_without_augmentation_crops_are_the_middle_of_the_stored_one(stills):
    item = PairDataset([stills], 1, augment=PLAIN)[0]
    stored = torch.from_numpy(stills.read(0)).permute(2, 0, 1)
    assert torch.equal(item["exemplar"], stored[:, 96:223, 96:223])
    assert torch.equal(item["search"], stored[:, 32:287, 32:287])
    assert item["shift"].tolist() == [0, 0]


def reds(pixels):
    return ((pixels[0] > 140) & (pixels[2] < 120)).numpy()


def test_shares_of_the_sequences_are_nested(tmp_path):
    videos = [("video", [flat(0, 10 * n), flat(1, 10 * n)]) for n in range(8)]
    store = store_of(
        tmp_path / "videos.db", *videos, *[("still", [flat(0, 200 + n)]) for n in range(3)]
    )

    def seen(share, seed=0):
        """Gray values, which tell sequences apart."""
        dataset = PairDataset([store], 80, seed, augment=PLAIN, data_share=share)
        return {int(dataset[i]["search"][0, 0, 0]) for i in range(80)}

    shares = [seen(share) for share in (0.125, 0.25, 0.5, 1.0)]
    assert [len([gray for gray in grays if gray < 100]) for grays in shares] == [1, 2, 4, 8]
    assert [len([gray for gray in grays if gray > 100]) for grays in shares] == [1, 1, 2, 3]
    assert all(small < large for small, large in pairwise(shares))
    assert len({frozenset(seen(0.5, seed)) for seed in range(2)}) == 2
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"data_share is .*; give a share above 0, up to 1"):
            seen(share)


def test_shift_is_how_far_the_target_moved_from_one_middle_to_the_other(stills):
    dataset = PairDataset([stills], 40, augment=AugmentConfig(gray=0, light=0))
    in_exemplar, in_search = [], []
    for i in range(40):
        item = dataset[i]
        in_exemplar.append(centre(reds(item["exemplar"])) - 63)
        in_search.append(centre(reds(item["search"])) - 127)
        assert in_search[-1] - in_exemplar[-1] == pytest.approx(item["shift"].numpy(), abs=0.7)
    assert 3 < np.abs(in_exemplar).max() < 4.4
    assert 20 < np.abs(in_search).max() < 24.4
    assert np.abs(np.mean(in_search, axis=0)).max() < 8  # shifts go to all sides


def test_exemplar_stays_centred_without_its_shift(stills):
    item = PairDataset([stills], 1, augment=replace(PLAIN, search_shift=20))[0]
    assert centre(reds(item["exemplar"])) == pytest.approx([63, 63], abs=0.1)
    assert centre(reds(item["search"])) - 127 == pytest.approx(item["shift"].numpy(), abs=0.3)


def test_both_crops_are_mirrored_together(stills):
    dataset = PairDataset([stills], 30, augment=AugmentConfig(gray=0, light=0))
    mirrored = []
    for i in range(30):
        sides = []
        for key in ("exemplar", "search"):
            red, _, blue = dataset[i][key].numpy().astype(int)
            sides.append(bool(centre(blue > red + 60)[0] > centre(red > blue + 60)[0]))
        assert sides[0] == sides[1]
        mirrored.append(sides[0])
    assert 5 < sum(mirrored) < 25


def test_scale_changes_the_size_within_bounds(stills):
    dataset = PairDataset(
        [stills], 40, augment=AugmentConfig(still_scale=0.12, blur=0, gray=0, light=0)
    )
    areas = [reds(dataset[i]["search"]).sum() for i in range(40)]
    scales = np.sqrt(np.array(areas) / 317)  # the stored crop's disc has 317 pixels
    assert 0.84 < scales.min() < 0.95
    assert 1.05 < scales.max() < 1.17


def test_gray_is_for_both_and_light_for_each(stills):
    items = list(PairDataset([stills], 60))
    gray = [
        [torch.equal(item[key][0], item[key][2]) for key in ("exemplar", "search")]
        for item in items
    ]
    assert all(both[0] == both[1] for both in gray)
    assert 2 <= sum(both[0] for both in gray) <= 18
    corners = [(int(item["exemplar"][1, 0, 0]), int(item["search"][1, 0, 0])) for item in items]
    assert len({first for first, _ in corners}) > 10
    assert sum(first != second for first, second in corners) > 40


def test_both_crops_are_turned_and_recoloured_alike(stills):
    plain, varied = (
        PairDataset([stills], 12, augment=replace(PLAIN, **settings))
        for settings in ({}, {"turn": 1.0, "recolor": 1.0})
    )
    for before, after in zip(plain, varied, strict=True):
        changes = []
        for key in ("exemplar", "search"):
            changes.append(
                {
                    (angles, order)
                    for angles in (1, 2, 3)
                    for order in permutations(range(3))
                    if torch.equal(torch.rot90(before[key], angles, (1, 2))[[*order]], after[key])
                }
            )
        assert changes[0] & changes[1]


def test_frames_are_near_but_not_the_same(films):
    dataset = PairDataset([films], 300, max_gap=10, augment=PLAIN)
    long = 0
    for i in range(300):
        first, second = (int(dataset[i][key][0, 60, 60]) for key in ("exemplar", "search"))
        assert 0 < abs(first - second) <= 10
        assert (first >= 200) == (second >= 200)
        long += first < 200
    assert 110 < long < 190  # both videos are drawn equally often


def test_single_frame_video_pairs_with_itself(tmp_path):
    store = store_of(tmp_path / "one.db", ("video", [flat(5, 77)]))
    item = PairDataset([store], 1, augment=PLAIN)[0]
    assert item["search"].float().mean() == 77


def test_stills_have_their_share(films, stills):
    dataset = PairDataset([films, stills], 200, still_share=0.25, augment=PLAIN)
    assert 30 < sum(int(item["exemplar"][0, 63, 63]) == 250 for item in dataset) < 70


def target_of(value):
    """Which target of the fixtures shows this red value in its middle."""
    return "long" if value < 120 else "short" if value < 210 else "dot"


def test_negatives_show_another_target(films, stills):
    dataset = PairDataset([films, stills], 100, mix=MixConfig(negative_share=1.0), augment=PLAIN)
    negatives = 0
    for item in dataset:
        targets = {
            target_of(item["exemplar"][0, 63, 63].item()),
            target_of(item["search"][0, 127, 127].item()),
        }
        assert len(targets) == 1 + item["negative"].item()  # two crops of one target are a pair
        negatives += item["negative"].item()
    assert negatives > 40
    assert not any(item["negative"] for item in PairDataset([films], 20))


def test_excluded_sequences_are_never_drawn(films):
    dataset = PairDataset([films], 50, exclude=[(0, 0)], augment=PLAIN)
    assert {target_of(item["exemplar"][0, 63, 63].item()) for item in dataset} == {"short"}
    expected = "1 videos and 0 stills, without 0, held out for validation"
    assert dataset.describe() == expected
    message = r"^all of the training data is held out for validation \(0, 1\); give more"
    with pytest.raises(ValueError, match=message):
        PairDataset([films], 50, exclude=[(0, 0), (0, 1)])


def test_only_the_named_sequences_are_drawn(films):
    dataset = PairDataset([films], 50, only=[(0, 0)], augment=PLAIN)
    assert "short" not in {target_of(item["exemplar"][0, 63, 63].item()) for item in dataset}
    with pytest.raises(ValueError, match="hold no crop"):
        PairDataset([films], 50, only=[])


def test_items_are_pure_functions_of_seed_epoch_and_index(films, stills):
    first, second = (PairDataset([films, stills], 50, seed=3) for _ in range(2))
    _ = second[7], torch.manual_seed(5)  # earlier reads and global state do not matter
    assert all(same(first[i], second[i]) for i in range(50))
    assert not same(first[1], first[2])
    second.set_epoch(1)
    assert not same(first[1], second[1])
    assert not same(first[1], PairDataset([films, stills], 50, seed=4)[1])


def test_index_out_of_range_ends_iteration(stills):
    assert len(list(PairDataset([stills], 3))) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_items_in_order_in_every_epoch(films, workers):
    dataset = PairDataset([films], 7, seed=1)
    loader = make_loader(dataset, 3, workers)
    for epoch in (0, 1):  # worker processes stay, and get the new epoch
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 2  # the seventh item is dropped
        for k, batch in enumerate(batches):
            for j in range(3):
                assert same({key: value[j] for key, value in batch.items()}, dataset[3 * k + j])


def test_ctrl_c_at_a_terminal_leaves_the_workers_at_work(films):
    # 2 of the 12 batches are read ahead.
    loader = iter(make_loader(PairDataset([films], 12), 1, workers=1))
    next(loader)  # its workers have started
    os.kill(loader._workers[0].pid, signal.SIGINT)
    assert len(list(loader)) == 11


def test_damaged_crop_met_by_a_worker_is_one_line(films, capsys):
    with sqlite3.connect(films.path) as db:
        db.execute("UPDATE images SET jpeg = x'00'")
    db.close()
    damaged = PairDataset([CropStore(films.path)], 4)
    with pytest.raises(SystemExit, match=r"^1$"):
        run(lambda: list(make_loader(damaged, 2, workers=1)))
    line = capsys.readouterr().err
    assert line.startswith(f"error: {films.path}: crop ")
    assert line.endswith("is damaged; delete the file and prepare it again\n")


def test_killed_worker_is_one_line(films, capsys):
    def lose_worker():
        loader = iter(make_loader(PairDataset([films], 12), 1, workers=1))
        next(loader)
        os.kill(loader._workers[0].pid, signal.SIGKILL)
        loader._workers[0].join()
        list(loader)

    with pytest.raises(SystemExit, match=r"^1$"):
        run(lose_worker)
    line = capsys.readouterr().err
    assert line.startswith(
        "error: a process that reads pairs was killed, perhaps for want of memory; "
        "try --workers 0 (DataLoader worker"
    )
    assert line.count("\n") == 1


def test_faults_of_ours_stay_tracebacks():
    def fails():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(fails)


def test_loader_resumes_in_the_middle_of_an_epoch(films):
    dataset = PairDataset([films], 12)
    dataset.set_epoch(4)
    whole = list(make_loader(dataset, 3))
    resumed = make_loader(dataset, 3, start_batch=2)
    assert len(resumed) == 2
    assert all(same(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    dataset.set_epoch(5)
    assert len(list(resumed)) == 4
    assert list(make_loader(dataset, 3, start_batch=4)) == []


def test_ranks_share_out_an_epoch(films):
    dataset = PairDataset([films], 13)
    parts = [
        [i for batch in make_loader(dataset, 2, rank=r, world=3).batch_sampler for _, i in batch]
        for r in range(3)
    ]
    assert parts == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_loader_leaves_the_global_random_state_alone(films):
    state = torch.get_rng_state()
    list(make_loader(PairDataset([films], 4), 2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 2, "rank": 2, "world": 2}, "rank is 2 of 2"),
        ({"batch_size": 20}, "10 pairs do not fill 1 x 20"),
        ({"batch_size": 2, "start_batch": 6}, "start is 6; an epoch has batches 0 to 5"),
    ],
)
def test_bad_loader_options_are_refused(films, options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(PairDataset([films], 10), **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip", 1.5), ("scale", -0.1), ("search_shift", 65), ("light", float("nan")), ("blur", "x")],
)
def test_augmentation_limits_name_the_field(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*; give a number from 0 to"):
        AugmentConfig(**{field: value})


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"max_gap": 0}, {"seed": -1}, {"still_share": 2}]
)
def test_bad_dataset_options_are_refused(films, options):
    with pytest.raises(ValueError):
        PairDataset([films], **{"length": 5, **options})


def test_empty_stores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="hold no crop"):
        PairDataset([store_of(tmp_path / "empty.db")], 5)
