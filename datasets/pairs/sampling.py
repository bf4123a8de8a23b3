"""Which crops make a pair, drawn at random from crop stores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from rbsf.datasets.pairs.crop_store import CropStore

CANDIDATES = 16  # targets from which a lookalike is chosen
TRIES = 8  # draws for a target of another scene, before a pair goes without one
Row = tuple[int, int]  # a sequence in one of several stores: numbers of store and sequence
CropPlace = tuple[int, int]  # a crop in one of several stores: numbers of store and crop


@dataclass(frozen=True)
class Pair:
    """Which crops make a pair."""

    scene: CropPlace  # the first crop of the exemplar's sequence, which identifies the scene
    exemplar: CropPlace
    search: CropPlace
    still: bool
    negative: bool = False


class PairDraws:
    """Draws pairs from the sequences that `rbsf.datasets.pairs.pair_dataset.PairDataset` may use.

    The arguments are described there. Raises ValueError if no crops are left, and for a
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
        videos = _sequences_of(stores, "video", exclude, only)
        stills = _sequences_of(stores, "still", exclude, only)
        self._videos = _share_of(videos, data_share, seed)
        stills = _share_of(stills, data_share, seed)
        self._stills = _crops_of(stills)
        if len(self._videos) + len(self._stills) == 0:
            raise ValueError(self._why_empty())
        self._still_share = still_share
        if len(self._stills) == 0:
            self._still_share = 0.0
        elif len(self._videos) == 0:
            self._still_share = 1.0
        self._lookalikes = Lookalikes(stores, np.concatenate([self._videos, stills]))

    def describe(self) -> str:
        """Say in a few words what there is to draw from, and what is held out."""
        text = f"{len(self._videos)} videos and {len(self._stills)} stills"
        if self._excluded:
            text += f", without {self._held_out()}, held out for validation"
        return text

    def _held_out(self) -> str:
        names, more = ", ".join(self._excluded[:5]), len(self._excluded) - 5
        return f"{names} and {more} more" if more > 0 else names

    def _why_empty(self) -> str:
        if not self._excluded:
            return "the crop stores hold no crop; prepare some with rbsf prepare-pairs"
        fault = f"all of the training data is held out for validation ({self._held_out()})"
        return f"{fault}; give more --data, other videos by --val, or fewer by --val-sequences"

    def draw(self, rng: np.random.Generator) -> Pair:
        """Draw two frames of a video, or one still twice."""
        if rng.random() < self._still_share:
            store, crop, start = self._stills[rng.integers(len(self._stills))].tolist()
            return Pair((store, start), (store, crop), (store, crop), still=True)
        store, start, end = self._videos[rng.integers(len(self._videos))].tolist()
        frames = self._stores[store].frames[start:end]
        first = int(rng.integers(len(frames)))
        second = self._draw_neighbour(rng, frames, first)
        return Pair((store, start), (store, start + first), (store, start + second), still=False)

    def _draw_neighbour(self, rng: np.random.Generator, frames: np.ndarray, first: int) -> int:
        """Draw the place of another frame near the one at `first`; `first` if there is no other."""
        low = int(np.searchsorted(frames, frames[first] - self._max_gap))
        high = int(np.searchsorted(frames, frames[first] + self._max_gap, side="right"))
        if high - low <= 1:
            return first
        second = low + int(rng.integers(high - low - 1))
        return second + 1 if second >= first else second  # never the frame itself

    def other(self, rng: np.random.Generator, pair: Pair, hard_share: float = 0.0) -> Pair | None:
        """Draw a pair of another scene than the exemplar's.

        With probability `hard_share` it is one lookalike of the exemplar's target, twice. Returns
        None if none was found.
        """
        if hard_share and rng.random() < hard_share:
            return self._lookalikes.draw(rng, pair)
        for _ in range(TRIES):
            other = self.draw(rng)
            if other.scene != pair.scene:
                return other
        return None


class Lookalikes:
    """Finds targets like a given one among `sequences`, `[S, 3]` int64: store, first crop, end.

    A store does not record what its targets are, but names often tell. Candidates come from
    sequences whose names differ only in a number at the end, such as Caltech-101's `dog_1.jpg` and
    `dog_2.jpg`; if there are none, from any sequence. Of 16 candidates the one with the nearest
    aspect ratio is taken. (Crops are scaled so that the ratio decides the size.) If names tell
    nothing (`GOT-10k_Train_000001`, `coco_001.jpg`), a lookalike only has a similar shape.
    """

    def __init__(self, stores: Sequence[CropStore], sequences: np.ndarray) -> None:
        self._stores, self._sequences = stores, sequences
        self._names: dict[CropPlace, str] = {}  # by scene
        groups: dict[str, list[int]] = defaultdict(list)
        for row, (store, first, _) in enumerate(sequences.tolist()):
            name = _class_of(stores[store], first)
            self._names[store, first] = name
            groups[name].append(row)
        self._groups = {name: np.array(rows) for name, rows in groups.items() if len(rows) > 1}
        self._all = np.arange(len(sequences))

    def draw(self, rng: np.random.Generator, pair: Pair) -> Pair | None:
        """Draw a target like the pair's exemplar from another scene, as a pair of it twice.

        Returns None if no other scene was drawn.
        """
        rows = self._groups.get(self._names[pair.scene], self._all)
        drawn = self._sequences[rows[rng.integers(len(rows), size=CANDIDATES)]]  # [16, 3]
        lengths = drawn[:, 2] - drawn[:, 1]
        crops = drawn[:, 1] + (rng.random(CANDIDATES) * lengths).astype(np.int64)
        found = []
        for (store, first, _), crop in zip(drawn.tolist(), crops.tolist(), strict=True):
            if (store, first) != pair.scene:
                found.append(Pair((store, first), (store, crop), (store, crop), still=True))
        aspect = self._aspect(pair.exemplar)
        return min(found, key=lambda it: abs(self._aspect(it.exemplar) - aspect), default=None)

    def _aspect(self, place: CropPlace) -> float:
        store, crop = place
        width, height = self._stores[store].sizes[crop]
        return float(np.log(width / height))


def _sequences_of(
    stores: Sequence[CropStore], kind: str, exclude: Collection[Row], only: Collection[Row] | None
) -> np.ndarray:
    """Store, first crop and end of every sequence of one kind that may be used, `[S, 3]` int64."""
    rows = []
    for number, store in enumerate(stores):
        for sequence, its_kind in enumerate(store.kinds):
            row = (number, sequence)
            may_be_used = row not in exclude and (only is None or row in only)
            start, end = store.starts[sequence : sequence + 2].tolist()
            if its_kind == kind and end > start and may_be_used:
                rows.append((number, start, end))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _crops_of(sequences: np.ndarray) -> np.ndarray:
    """Store, crop and first crop of its sequence, for every crop of sequences, `[K, 3]` int64."""
    crops = []
    for store, first, end in sequences.tolist():
        crops += [(store, crop, first) for crop in range(first, end)]
    return np.array(crops, dtype=np.int64).reshape(-1, 3)


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
