"""Training pairs for the Siamese tracker, drawn at random from crop stores.

Item `i` of an epoch depends on `(seed, epoch, i)` alone: not on workers, ranks, what was read
before, or any global random state. So a resumed training sees the same pairs as an uninterrupted
one. `rbsf.datasets.pairs.mixing` describes what pairs are made of besides a target's own crops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rbsf.datasets.batches import shares
from rbsf.datasets.loader import open_loader
from rbsf.datasets.pairs.crop_store import CROP_CENTER, CropStore
from rbsf.datasets.pairs.mixing import (
    MixConfig,
    Target,
    add_distractor,
    check_range,
    paste_on_scene,
    random_window,
    recolored,
    turned,
)
from rbsf.datasets.pairs.sampling import Pair, PairDraws, Row
from rbsf.tracker.geometry import EXEMPLAR_SIZE, FROM_NEW_PIXELS, SEARCH_SIZE, mean_color
from rbsf.train.config import setting

Item = dict[str, torch.Tensor]
Key = tuple[int, int, int]  # seed, epoch, i: what a pair depends on
# Each way to change a pair draws its own random numbers, seeded by the key and this number.
RANDOM, PASTE, DISTRACTOR, TURN, RECOLOR = 1, 2, 3, 5, 6


@dataclass
class AugmentConfig:
    """How crops are varied. Raises ValueError for a value out of range."""

    TITLE: ClassVar[str] = "how crops are varied"

    exemplar_shift: float = setting(
        4.0,
        "Shift targets off the exemplar's middle by up to this many pixels, in x and in y",
        metavar="PIXELS",
    )
    search_shift: float = setting(
        24.0,
        "Shift targets off the search crop's middle by up to this many pixels, in x and in y",
        metavar="PIXELS",
    )
    scale: float = setting(
        0.05, "Enlarge or shrink each crop by up to this share of its size", metavar="SHARE"
    )
    still_scale: float = setting(
        0.12,
        "Enlarge or shrink crops of still images by up to this share of their size",
        metavar="SHARE",
    )
    flip: float = setting(0.5, "Mirror this share of the pairs left to right", metavar="SHARE")
    turn: float = setting(
        0.0, "Turn this share of the pairs by one, two or three right angles", metavar="SHARE"
    )
    gray: float = setting(0.15, "Turn this share of the pairs gray", metavar="SHARE")
    recolor: float = setting(
        0.0, "Put the colour channels of this share of the pairs in a random order", metavar="SHARE"
    )
    light: float = setting(
        0.2, "Change contrast and brightness of each crop by up to this share", metavar="SHARE"
    )
    blur: float = setting(0.1, "Blur this share of the search crops", metavar="SHARE")

    def __post_init__(self) -> None:
        highest = {"exemplar_shift": 31.0, "search_shift": 64.0, "scale": 0.5, "still_scale": 0.5}
        for each in fields(AugmentConfig):
            check_range(each.name, getattr(self, each.name), highest.get(each.name, 1.0))


class PairDataset(Dataset[Item]):
    """Pairs of an exemplar and a search crop of one target (or, for negatives, of two).

    A pair comes from two frames of one video, at most `max_gap` frames apart; all videos are
    equally likely, whatever their length. With probability `still_share` it comes from one still
    target instead, varied twice.

    `mix` says what else pairs are made of (the default: nothing). There are four steps, each for
    its share of the pairs. Negatives show another target, of another video or image, in the search
    crop. A random window replaces the exemplar's target and the search crop's. Both targets are
    pasted on scenes. The search crop gets a distractor. Where the stores hold only one
    sequence, there are no other targets and scenes.

    `dataset[i]` is a dict of tensors. `exemplar` `[3, 127, 127]` and `search` `[3, 255, 255]`:
    uint8 RGB. `shift` `[2]` float32: x, y in pixels where the response should peak: the target's
    offset from the middle of the search crop, minus its offset from the middle of the exemplar.
    `negative` `[]` bool: the search crop does not show the exemplar's target.

    Sequences in `exclude` (numbers of store and sequence), which are held out for validation, are
    left out. With `only`, all others are left out. Of the rest, `data_share` of the videos and of
    the stills is used, drawn by `seed`; a larger share contains every smaller one. Raises
    ValueError for settings out of range, and if no crops are left.
    """

    def __init__(
        self,
        stores: Sequence[CropStore],
        length: int,
        seed: int = 0,
        *,
        max_gap: int = 100,
        still_share: float = 0.3,
        mix: MixConfig | None = None,
        augment: AugmentConfig | None = None,
        exclude: Collection[Row] = (),
        only: Collection[Row] | None = None,
        data_share: float = 1.0,
    ) -> None:
        check_range("still_share", still_share, 1.0)
        if length < 1 or max_gap < 1 or seed < 0:
            numbers = f"length {length}, max_gap {max_gap}, seed {seed}"
            raise ValueError(f"{numbers}: give at least 1, 1 and 0")
        self.stores, self.length, self.seed, self.epoch = tuple(stores), length, seed, 0
        self.mix = mix or MixConfig()
        self.augment = augment or AugmentConfig()
        self._draws = PairDraws(self.stores, max_gap, still_share, exclude, data_share, seed, only)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0, 1, ...) whose pairs `dataset[i]` gives."""
        self.epoch = epoch

    def describe(self) -> str:
        """Say in a few words what the pairs are drawn from."""
        return self._draws.describe()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        # Loaders send (epoch, i), because `set_epoch` does not reach worker processes.
        epoch, i = index if isinstance(index, tuple) else (self.epoch, index)
        if not 0 <= i < self.length:
            raise IndexError(f"pair {i} of {self.length}")
        key = (self.seed, epoch, i)
        rng = np.random.default_rng(key)
        pair = self._draws.draw(rng)
        if rng.random() < self.mix.negative_share:
            other = self._draws.other(rng, pair, self.mix.hard_share)
            if other:
                pair = replace(pair, search=other.search, negative=True)
        return self._make_item(rng, pair, key)

    def _stream(self, key: Key, source: int, share: float) -> np.random.Generator | None:
        """The generator for one way to change pairs; None if this pair is not in its share."""
        if not share:
            return None
        rng = np.random.default_rng((*key, source))
        return rng if rng.random() < share else None

    def _mix(self, pair: Pair, key: Key) -> _Mixed:
        """Read the pair's targets and change them as `mix` says."""
        window = self._stream(key, RANDOM, self.mix.random_share)
        mixed = self._read_windows(pair, window) if window else self._read_pair(pair)
        mixed = self._paste_on_scenes(mixed, pair, key)
        if pair.negative:
            return mixed
        return self._add_distractor(mixed, pair, key)

    def _read_pair(self, pair: Pair) -> _Mixed:
        exemplar = self._read(pair.exemplar)
        search = exemplar if pair.search == pair.exemplar else self._read(pair.search)
        return _Mixed(exemplar, search, pair.still)

    def _read_windows(self, pair: Pair, rng: np.random.Generator) -> _Mixed:
        """Random windows in place of the targets; a positive pair has the same one twice."""
        exemplar = random_window(self._read(pair.exemplar), rng)
        same = not pair.negative or pair.search == pair.exemplar
        search = exemplar if same else random_window(self._read(pair.search), rng)
        return _Mixed(exemplar, search, still=True)

    def _paste_on_scenes(self, mixed: _Mixed, pair: Pair, key: Key) -> _Mixed:
        rng = self._stream(key, PASTE, self.mix.paste_share)
        scene = self._draws.other(rng, pair) if rng else None
        if rng is None or scene is None:
            return mixed
        exemplar = paste_on_scene(mixed.exemplar, self._read(scene.exemplar), rng)
        search = paste_on_scene(mixed.search, self._read(scene.search), rng)
        return _Mixed(exemplar, search, still=True)

    def _add_distractor(self, mixed: _Mixed, pair: Pair, key: Key) -> _Mixed:
        rng = self._stream(key, DISTRACTOR, self.mix.distractor_share)
        other = self._draws.other(rng, pair, self.mix.hard_share) if rng else None
        if rng is None or other is None:
            return mixed
        search = add_distractor(mixed.search, self._read(other.search), rng)
        return mixed._replace(search=search)

    def _vary_both(self, mixed: _Mixed, key: Key) -> _Mixed:
        """Turn both crops alike, and reorder their colours alike, as `augment` says."""
        if rng := self._stream(key, TURN, self.augment.turn):
            mixed = mixed.changed(partial(turned, angles=int(rng.integers(1, 4))))
        if rng := self._stream(key, RECOLOR, self.augment.recolor):
            mixed = mixed.changed(partial(recolored, order=rng.permutation(3)))
        return mixed

    def _make_item(self, rng: np.random.Generator, pair: Pair, key: Key) -> Item:
        config, mixed = self.augment, self._vary_both(self._mix(pair, key), key)
        scale = config.still_scale if mixed.still else config.scale
        mirror = bool(rng.random() < config.flip)
        gray = bool(rng.random() < config.gray)
        shifts = rng.uniform(-1, 1, (2, 2)) * [[config.exemplar_shift], [config.search_shift]]
        zooms = np.exp(rng.uniform(-1, 1, 2) * np.log1p(scale))
        exemplar = warp_crop(mixed.exemplar.pixels, EXEMPLAR_SIZE, shifts[0], zooms[0], mirror)
        search = warp_crop(mixed.search.pixels, SEARCH_SIZE, shifts[1], zooms[1], mirror)
        if rng.random() < config.blur:
            search = cv2.GaussianBlur(search, (0, 0), rng.uniform(0.5, 1.5))
        exemplar = change_light(exemplar, rng, config.light, gray)
        search = change_light(search, rng, config.light, gray)
        return {
            "exemplar": _to_tensor(exemplar),
            "search": _to_tensor(search),
            "shift": torch.from_numpy((shifts[1] - shifts[0]).astype(np.float32)),
            "negative": torch.tensor(pair.negative),
        }

    def _read(self, crop: tuple[int, int]) -> Target:
        store, number = self.stores[crop[0]], crop[1]
        return Target(store.read(number), store.sizes[number])


class _Mixed(NamedTuple):
    """A pair after the changes of `mix`."""

    exemplar: Target
    search: Target
    still: bool  # the pair is augmented like one made of a still image

    def changed(self, change: Callable[[Target], Target]) -> _Mixed:
        """The pair with the same change in both crops."""
        return self._replace(exemplar=change(self.exemplar), search=change(self.search))


def warp_crop(
    crop: np.ndarray, size: int, shift: np.ndarray, zoom: float, mirror: bool
) -> np.ndarray:
    """Cut `[size, size, 3]` out of a stored crop, enlarged `zoom` times.

    The target's centre lies `shift` (x, y) pixels off the new middle. The mean colour fills what
    lies outside the stored crop, as in `rbsf.tracker.geometry.crop_square`.
    """
    step = 1 / zoom  # stored pixels per new pixel
    step_x = -step if mirror else step
    x, y = (size - 1) / 2 + np.asarray(shift)  # where the target's centre is to lie
    affine = np.array([[step_x, 0, CROP_CENTER - step_x * x], [0, step, CROP_CENTER - step * y]])
    return cv2.warpAffine(
        crop,
        affine,
        (size, size),
        flags=FROM_NEW_PIXELS,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=mean_color(crop),
    )


def change_light(
    crop: np.ndarray, rng: np.random.Generator, amount: float, gray: bool
) -> np.ndarray:
    """Vary contrast and brightness of a crop, `[H, W, 3]` uint8 RGB, by up to `amount`.

    With `gray` it loses its colour.
    """
    contrast = 1 + amount * rng.uniform(-1, 1)
    brightness = 128 * amount * rng.uniform(-1, 1)
    values = (np.arange(256) - 128) * contrast + 128 + brightness
    table = np.clip(np.round(values), 0, 255).astype(np.uint8)
    if gray:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.LUT(crop, table)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one rank in the dataset's current epoch, as lists of `(epoch, i)`.

    Pairs are random already, so they come in the order 0, 1, 2... The ranks take turns, batch by
    batch. Pairs that do not fill a batch on every rank are left out. `start_batch` is for the epoch
    that is current when this object is made; every other epoch starts at batch 0.
    """

    def __init__(
        self, dataset: PairDataset, batch_size: int, start_batch: int, rank: int, world: int
    ) -> None:
        self.dataset, self.batch_size, self.rank, self.world = dataset, batch_size, rank, world
        self._start = (dataset.epoch, start_batch)
        self._parts()  # raises now for numbers out of range

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.dataset.epoch
        for part in self._parts():
            yield [(epoch, i) for i in range(part.start, part.stop)]

    def _parts(self) -> list[slice]:
        """The batches of this epoch that are to come, as parts of its pairs."""
        epoch, batch = self._start
        start = batch if self.dataset.epoch == epoch else 0
        size = len(self.dataset), self.batch_size
        return list(shares(*size, start, self.rank, self.world, unit="pair"))


def make_loader(
    dataset: PairDataset,
    batch_size: int,
    workers: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Item]:
    """Return a loader of stacked items: `exemplar` `[batch_size, 3, 127, 127]` and so on.

    One loader serves a whole training: call `dataset.set_epoch(e)` before each pass over it. Its
    worker processes (0: none) start at the first pass and stay. `start_batch` skips that many
    batches of the dataset's current epoch. `batch_size` counts the pairs of one rank; `rank` of
    `world` has its own share of an epoch. Raises ValueError for numbers out of range, and if an
    epoch does not fill one batch on every rank.
    """
    batches = EpochBatches(dataset, batch_size, start_batch, rank, world)
    return open_loader(dataset, batches, workers)


def _to_tensor(crop: np.ndarray) -> torch.Tensor:
    channels_first = crop.transpose(2, 0, 1)  # [H, W, 3] -> [3, H, W]
    return torch.from_numpy(np.ascontiguousarray(channels_first))
