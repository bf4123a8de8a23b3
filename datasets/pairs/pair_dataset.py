"""Training pairs for the Siamese tracker, drawn at random from crop stores.

Item `i` of an epoch depends on `(seed, epoch, i)` alone: not on workers, ranks, what was read
before, or any global random state. So a resumed training sees the very pairs that an uninterrupted
one would have seen. What they are made of besides a target's own crops is in
`rbsf.datasets.pairs.mixing`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rbsf.datasets.pairs.crop_store import CROP_CENTER, CropStore
from rbsf.datasets.pairs.mixing import (
    MixConfig,
    Target,
    add_distractor,
    check_range,
    paste_on_scene,
    random_window,
)
from rbsf.datasets.pairs.sampling import Pair, PairDraws, Row
from rbsf.datasets.workers import start_worker
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE, mean_color
from rbsf.train.config import setting

Item = dict[str, torch.Tensor]
Key = tuple[int, int, int]  # seed, epoch, i: what a pair depends on
RANDOM, PASTE, DISTRACTOR = (
    1,
    2,
    3,
)  # added to the key, the streams of sources: each draws for itself


@dataclass
class AugmentConfig:
    """How crops are varied; ValueError for a value out of range."""

    exemplar_shift: float = setting(
        4.0, "pixels by which targets lie off the exemplar's middle at most, in x and in y"
    )
    search_shift: float = setting(24.0, "the same in the search crop")
    scale: float = setting(0.05, "share by which each crop is enlarged or shrunk at most")
    still_scale: float = setting(0.12, "the same for pairs made of one still image")
    flip: float = setting(0.5, "share of pairs that are mirrored left to right")
    gray: float = setting(0.15, "share of pairs in gray")
    light: float = setting(0.2, "contrast and brightness of each crop change by up to this share")
    blur: float = setting(0.1, "share of search crops out of focus")

    def __post_init__(self) -> None:
        highest = {"exemplar_shift": 31.0, "search_shift": 64.0, "scale": 0.5, "still_scale": 0.5}
        for name in AugmentConfig.__dataclass_fields__:
            check_range(name, getattr(self, name), highest.get(name, 1.0))


class PairDataset(Dataset[Item]):
    """Pairs of an exemplar and a search crop of one target (or, for negatives, of two).

    A pair comes from two frames of one video at most `max_gap` frames apart, videos being drawn
    alike whatever their length, or with probability `still_share` from one still target, varied
    twice. `mix` (`MixConfig`; the default: none of it) says what else they are made of.
    `negative_share` of them show an exemplar of one target and a search crop of another, of
    another video or image; such a target takes the place of the search crop's own, a random window
    that of the exemplar's and of the search crop's alike; then both are pasted on scenes, then the
    search crop gets a distractor. Where the stores hold but one sequence, pairs stay as they were.

    `dataset[i]` is a dict of tensors: `exemplar` (3, 127, 127) and `search` (3, 255, 255),
    uint8 RGB; `shift` (2) float32, x, y in pixels: how far the target lies off the middle of the
    search crop, less how far it lies off the middle of the exemplar, so where the response should
    peak; `negative` () bool: the search crop's target is not the exemplar's.

    Sequences of `exclude` (numbers of store and sequence), those held out for validation, are
    left out; with `only` all but these are. Of the others `data_share` of the videos and of the
    stills are used, drawn by `seed`: those of a smaller share are among those of a larger. Raises
    ValueError for settings out of range and where no crops are left.
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
            raise ValueError(
                f"length {length}, max_gap {max_gap}, seed {seed}: give at least 1, 1 and 0"
            )
        self.stores, self.length, self.seed, self.epoch = tuple(stores), length, seed, 0
        self.mix, self.augment = mix or MixConfig(), augment or AugmentConfig()
        self._draws = PairDraws(self.stores, max_gap, still_share, exclude, data_share, seed, only)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0, 1, ...) whose pairs `dataset[i]` gives."""
        self.epoch = epoch

    def describe(self) -> str:
        """What the pairs are drawn from, in a few words."""
        return f"{self.length} pairs an epoch from {self._draws.describe()}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        # loaders send (epoch, i), because worker processes do not hear of set_epoch
        epoch, i = index if isinstance(index, tuple) else (self.epoch, index)
        if not 0 <= i < self.length:
            raise IndexError(f"pair {i} of {self.length}")
        key = (self.seed, epoch, i)
        rng = np.random.default_rng(key)
        pair = self._draws.draw(rng)
        if rng.random() < self.mix.negative_share and (
            other := self._draws.other(rng, pair, self.mix.hard_share)
        ):
            pair = replace(pair, search=other.search, negative=True)
        return self._make_item(rng, pair, key)

    def _stream(self, key: Key, source: int, share: float) -> np.random.Generator | None:
        """The source's own generator where this pair is one of its share."""
        if not share:
            return None
        rng = np.random.default_rng((*key, source))
        return rng if rng.random() < share else None

    def _mix(self, pair: Pair, key: Key) -> tuple[Pair, np.ndarray, np.ndarray]:
        """The pair with its crops, as the sources of `mix` make them: targets in the middle, 319
        x 319 x 3.
        """
        window = self._stream(key, RANDOM, self.mix.random_share)
        if window and not pair.negative:
            pair = replace(pair, search=pair.exemplar)
        exemplar = self._read(pair.exemplar)
        search = exemplar if pair.search == pair.exemplar else self._read(pair.search)
        if window:
            same = pair.search == pair.exemplar
            exemplar = random_window(exemplar, window)
            search = exemplar if same else random_window(search, window)
        paste = self._stream(key, PASTE, self.mix.paste_share)
        scene = self._draws.other(paste, pair) if paste else None
        if paste and scene:
            exemplar = paste_on_scene(exemplar, self._read(scene.exemplar), paste)
            search = paste_on_scene(search, self._read(scene.search), paste)
        beside = None if pair.negative else self._stream(key, DISTRACTOR, self.mix.distractor_share)
        if beside and (other := self._draws.other(beside, pair, self.mix.hard_share)):
            search = add_distractor(search, self._read(other.search), beside)
        made = window is not None or scene is not None
        return replace(pair, still=pair.still or made), exemplar.pixels, search.pixels

    def _make_item(self, rng: np.random.Generator, pair: Pair, key: Key) -> Item:
        config = self.augment
        pair, exemplar, search = self._mix(pair, key)
        scale = config.still_scale if pair.still else config.scale
        mirror, gray = bool(rng.random() < config.flip), bool(rng.random() < config.gray)
        shifts = rng.uniform(-1, 1, (2, 2)) * [[config.exemplar_shift], [config.search_shift]]
        zooms = np.exp(rng.uniform(-1, 1, 2) * np.log1p(scale))
        exemplar = warp_crop(exemplar, EXEMPLAR_SIZE, shifts[0], zooms[0], mirror)
        search = warp_crop(search, SEARCH_SIZE, shifts[1], zooms[1], mirror)
        if rng.random() < config.blur:
            search = cv2.GaussianBlur(search, (0, 0), rng.uniform(0.5, 1.5))
        exemplar, search = (
            change_light(crop, rng, config.light, gray) for crop in (exemplar, search)
        )
        return {
            "exemplar": _to_tensor(exemplar),
            "search": _to_tensor(search),
            "shift": torch.from_numpy((shifts[1] - shifts[0]).astype(np.float32)),
            "negative": torch.tensor(pair.negative),
        }

    def _read(self, crop: tuple[int, int]) -> Target:
        store, number = self.stores[crop[0]], crop[1]
        return Target(store.read(number), store.sizes[number])


def warp_crop(
    crop: np.ndarray, size: int, shift: np.ndarray, zoom: float, mirror: bool
) -> np.ndarray:
    """Cut `size` x `size` x 3 out of a stored crop, enlarged `zoom` times.

    The target's centre comes to lie `shift` (x, y) pixels off the middle. Where that reaches
    outside the stored crop, its mean colour fills in, as in `rbsf.tracker.geometry.crop_square`.
    """
    step = 1 / zoom  # stored pixels per new pixel
    step_x = -step if mirror else step
    x, y = (size - 1) / 2 + np.asarray(shift)  # where the target's centre comes to lie
    affine = np.array([[step_x, 0, CROP_CENTER - step_x * x], [0, step, CROP_CENTER - step * y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # `affine` maps new pixels to stored ones
    fill = mean_color(crop)
    return cv2.warpAffine(
        crop, affine, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )


def change_light(
    crop: np.ndarray, rng: np.random.Generator, amount: float, gray: bool
) -> np.ndarray:
    """Vary contrast and brightness of an H x W x 3 uint8 RGB crop by up to `amount`; `gray`:
    lose colour.
    """
    contrast, brightness = 1 + amount * rng.uniform(-1, 1), 128 * amount * rng.uniform(-1, 1)
    values = (np.arange(256) - 128) * contrast + 128 + brightness
    table = np.clip(np.round(values), 0, 255).astype(np.uint8)
    if gray:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.LUT(crop, table)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one rank in the dataset's present epoch, as lists of `(epoch, i)`.

    Pairs are random already, so they come in the order 0, 1, 2...; the ranks take turns, batch by
    batch. What does not fill a batch on every rank is dropped. `start_batch` counts for the epoch
    at which the dataset is now; every other epoch starts at batch 0.
    """

    def __init__(
        self, dataset: PairDataset, batch_size: int, start_batch: int, rank: int, world: int
    ) -> None:
        self.dataset, self.batch_size, self.rank, self.world = dataset, batch_size, rank, world
        self.count = len(dataset) // (batch_size * world)
        self._start = (dataset.epoch, start_batch)

    def __len__(self) -> int:
        return self.count - self._first()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.dataset.epoch
        for batch in range(self._first(), self.count):
            start = (batch * self.world + self.rank) * self.batch_size
            yield [(epoch, i) for i in range(start, start + self.batch_size)]

    def _first(self) -> int:
        epoch, batch = self._start
        return batch if self.dataset.epoch == epoch else 0


def make_loader(
    dataset: PairDataset,
    batch_size: int,
    workers: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Item]:
    """Return a loader of items, stacked: `exemplar` (B, 3, 127, 127) and so on; B =
    `batch_size`.

    One loader serves a whole training: call `dataset.set_epoch(e)` before each pass over it; its
    worker processes (0 = none) start at the first pass and stay. `start_batch` skips that many
    batches of the epoch at which the dataset is now. `batch_size` counts the pairs of one rank;
    `rank` of `world` has its own share of an epoch. Raises ValueError for numbers out of range
    and where an epoch does not fill one batch on every rank.
    """
    if batch_size < 1 or workers < 0 or not 0 <= rank < world:
        numbers = f"batch_size {batch_size}, workers {workers}, rank {rank} of {world}"
        raise ValueError(
            f"{numbers}: need at least 1, at least 0, and a rank from 0 to {world - 1}"
        )
    batches = EpochBatches(dataset, batch_size, start_batch, rank, world)
    if batches.count < 1:
        raise ValueError(
            f"{len(dataset)} pairs do not fill {world} x {batch_size}; raise their number an epoch"
        )
    if not 0 <= start_batch <= batches.count:
        raise ValueError(f"start_batch is {start_batch}; an epoch has batches 0 to {batches.count}")
    return DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # the stubs want ints; our dataset takes (epoch, i)
        num_workers=workers,
        multiprocessing_context="spawn"
        if workers
        else None,  # forked, OpenCV waits for lost threads
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else a pass draws from the global one: resumed runs differ
    )


def _to_tensor(crop: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))  # (H, W, 3) -> (3, H, W)
