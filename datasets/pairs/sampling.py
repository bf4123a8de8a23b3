"""Which crops make a pair, drawn at random from crop stores by the generator that a call is given."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from rbsf.datasets.pairs.crop_store import CropStore

CANDIDATES = 16  # targets looked at for a lookalike
TRIES = 8  # draws for a target of another scene before a pair goes without
Row = tuple[int, int]  # a sequence of several stores: numbers of store and sequence


@dataclass(frozen=True)
class Pair:
    """Which crops make a pair: an exemplar and a search crop, each by store and number."""

    scene: tuple[int, int]  # store and first crop of the exemplar's sequence: tells scenes apart
    exemplar: tuple[int, int]  # store, crop
    search: tuple[int, int]
    still: bool
    negative: bool = False


class PairDraws:
    """Draws pairs as `rbsf.datasets.pairs.pair_dataset.PairDataset` says, from all sequences but
    those of `exclude`.

    With `only`, from no others than these. Raises ValueError where no crops are left and for a
    `data_share` out of range.
    """

    def __init__(
        self,
        stores: Sequence[CropStore],
        max_gap: int,
        still_share: float,
        exclude: Collection[Row] = (),
        data_share: float = 1.0,
        seed: int = 0,
        only: Collection[Row] | None = None,
    ) -> None:
        self._stores, self._max_gap = stores, max_gap
        self._excluded = [stores[store].names[sequence] for store, sequence in exclude]
        self._videos = _sequences_of(
            stores, "video", exclude, only
        )  # (V, 3): store, first crop, end
        stills = _sequences_of(stores, "still", exclude, only)
        self._videos, stills = (
            _share_of(rows, data_share, seed) for rows in (self._videos, stills)
        )
        crops = [
            (store, crop, first)
            for store, first, end in stills.tolist()
            for crop in range(first, end)
        ]
        self._stills = np.array(crops, dtype=np.int64).reshape(
            -1, 3
        )  # (K, 3): store, crop, first crop of its image
        if len(self._videos) + len(self._stills) == 0:
            raise ValueError(self._why_empty())
        both = len(self._videos) > 0 and len(self._stills) > 0
        self._still_share = still_share if both else float(len(self._stills) > 0)
        self._lookalikes = Lookalikes(stores, np.concatenate([self._videos, stills]))

    def describe(self) -> str:
        """What there is to draw from, in a few words, and what is held out."""
        text = f"{len(self._videos)} videos and {len(self._stills)} stills"
        return text + (
            f", without {self._held_out()}, held out for validation" if self._excluded else ""
        )

    def _held_out(self) -> str:
        return ", ".join(self._excluded[:5]) + f" and {len(self._excluded) - 5} more" * (
            len(self._excluded) > 5
        )

    def _why_empty(self) -> str:
        if not self._excluded:
            return "the crop stores hold no crop; prepare some with tools/prepare_pairs.py"
        whole = f"all of the training data is held out for validation ({self._held_out()})"
        return f"{whole}; give more --data, other videos by --val, or fewer by --val-sequences"

    def draw(self, rng: np.random.Generator) -> Pair:
        """Two frames of a video, or one still twice."""
        if rng.random() < self._still_share:
            store, crop, first = self._stills[rng.integers(len(self._stills))].tolist()
            return Pair((store, first), (store, crop), (store, crop), still=True)
        store, start, end = self._videos[rng.integers(len(self._videos))].tolist()
        frames = self._stores[store].frames[start:end]
        first = int(rng.integers(len(frames)))
        low = int(np.searchsorted(frames, frames[first] - self._max_gap))
        high = int(np.searchsorted(frames, frames[first] + self._max_gap, side="right"))
        second = first
        if high - low > 1:  # any neighbour but the frame itself
            second = low + int(rng.integers(high - low - 1))
            second += second >= first
        return Pair((store, start), (store, start + first), (store, start + second), still=False)

    def other(self, rng: np.random.Generator, pair: Pair, hard_share: float = 0.0) -> Pair | None:
        """A pair of another scene than the exemplar's; with probability `hard_share` one
        lookalike twice.

        None where none was found.
        """
        if hard_share and rng.random() < hard_share:
            found = self._lookalikes.draw(rng, pair.scene, pair.exemplar)
            return Pair(found[0], found[1], found[1], still=True) if found else None
        others = (self.draw(rng) for _ in range(TRIES))
        return next((other for other in others if other.scene != pair.scene), None)


class Lookalikes:
    """Finds targets like a given one among `sequences` (S, 3) int64: store, first crop, end.

    A store does not know what its targets are, but names often do: candidates are of the sequences
    named alike but for a number at the end, as Caltech-101's `dog_1.jpg` and `dog_2.jpg`; of
    any where there is no such other one. Of 16 drawn, the one whose aspect ratio is nearest is
    taken (crops are scaled so that size follows from it). So where names tell nothing
    (`GOT-10k_Train_000001`, `coco_001.jpg`) a lookalike is of like shape, no more.
    """

    def __init__(self, stores: Sequence[CropStore], sequences: np.ndarray) -> None:
        self._stores, self._sequences = stores, sequences
        groups: dict[str, list[int]] = defaultdict(list)
        names = [_class_of(stores[store], first) for store, first, _ in sequences.tolist()]
        for row, name in enumerate(names):
            groups[name].append(row)
        everyone = np.arange(len(sequences))
        group_of = {
            name: np.array(rows) if len(rows) > 1 else everyone for name, rows in groups.items()
        }
        scenes = map(tuple, sequences[:, :2].tolist())
        self._rows = dict(zip(scenes, (group_of[name] for name in names), strict=True))

    def draw(
        self, rng: np.random.Generator, scene: tuple[int, int], crop: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Scene (store, first crop) and crop (store, crop) of a target like the given one, of
        another scene.

        None where there was no other.
        """
        rows = self._rows[scene]
        drawn = self._sequences[rows[rng.integers(len(rows), size=CANDIDATES)]]  # (16, 3)
        offsets = (rng.random(CANDIDATES) * (drawn[:, 2] - drawn[:, 1])).astype(np.int64)
        found = [
            ((store, first), (store, first + offset))
            for (store, first, _), offset in zip(drawn.tolist(), offsets.tolist(), strict=True)
            if (store, first) != scene
        ]
        aspect = self._aspect(crop)
        return min(found, key=lambda pair: abs(self._aspect(pair[1]) - aspect), default=None)

    def _aspect(self, crop: tuple[int, int]) -> float:
        width, height = self._stores[crop[0]].sizes[crop[1]]
        return float(np.log(width / height))


def _sequences_of(
    stores: Sequence[CropStore], kind: str, exclude: Collection[Row], only: Collection[Row] | None
) -> np.ndarray:
    """(S, 3) int64: store, first crop and end of every sequence of one kind that may be used."""
    rows = [
        (number, int(store.starts[s]), int(store.starts[s + 1]))
        for number, store in enumerate(stores)
        for s, its_kind in enumerate(store.kinds)
        if its_kind == kind and store.starts[s + 1] > store.starts[s]
        if (number, s) not in exclude and (only is None or (number, s) in only)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _share_of(sequences: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The first `share` of the rows, rounded up, in an order that `seed` draws."""
    if not 0 < share <= 1:
        raise ValueError(f"data_share is {share!r}; give a share above 0, up to 1")
    order = np.random.default_rng(seed).permutation(len(sequences))
    return sequences[np.sort(order[: math.ceil(share * len(sequences))])]


def _class_of(store: CropStore, first: int) -> str:
    """The name of the sequence that has the crop `first`, without suffix and number."""
    sequence = int(np.searchsorted(store.starts, first, side="right")) - 1
    return PurePath(store.names[sequence]).stem.rstrip("0123456789").rstrip("_- ")
