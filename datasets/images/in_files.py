"""Labelled images in files, decoded anew in every epoch by worker processes: ImageNet and folders
like it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from rbsf.datasets.images.decode import CentreCrop, RandomCrop, decode_crop
from rbsf.datasets.images.epochs import count_batches, epoch_order, shares
from rbsf.datasets.workers import start_worker

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training images, as usually published
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class FolderData:
    """N image files with their labels; ``batches`` gives crops of ``size`` x ``size`` pixels.

    ``files``: paths below ``root``; ``labels`` [N] int64, into ``classes``. Training crops are
    random (see `RandomCrop`) and mirrored at random, so there is nothing left for `augment`
    (``crop_padding`` 0, no ``flip``); evaluation crops are the middle, ``share`` of the short side.
    ``workers``: processes that decode (0: this one); they start at the first pass and stay.
    ``broken``: files that could not be decoded, with the reason.
    """

    root: Path
    files: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int = 224
    share: float = 224 / 256
    skip_broken: bool = False
    workers: int = 0
    reduced: bool = True  # decode JPEGs at a fraction of their size where the crop allows
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_padding: int = 0
    flip: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    _loader: DataLoader[Any] | None = field(default=None, init=False, repr=False)
    _turn: int = field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> str:
        """What it is, in a few words."""
        return f"{len(self)} image files in {self.root}, {len(self.classes)} classes, crops of {self.size}x{self.size}"

    def batch_count(
        self, batch_size: int, world: int = 1, train: bool = True, limit: int | None = None
    ) -> int:
        """Batches of an epoch, of one of ``world`` ranks (evaluation: of rank 0)."""
        return count_batches(min(len(self), limit or len(self)), batch_size, world, train)

    def batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        train: bool = True,
        limit: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of one rank from its batch ``start``: ``image`` [B, 3, S, S] uint8 RGB, ``label``
        [B] int64.

        In channels-last memory on the CPU, pinned where there is a GPU. Order, ``limit`` and shares
        as in `ArrayData`; the crop of an image is a pure function of ``(seed, epoch, its index)``.
        One pass at a time: beginning another ends the one before. ValueError at once for numbers
        out of range, and later for a file that cannot be decoded; with ``skip_broken`` such files
        are warned of and left out: evaluation has fewer images, training repeats others of the
        batch, so that batches keep their size.
        """
        order = epoch_order(self.labels, seed, epoch, train, limit)
        parts = shares(len(order), batch_size, start, rank, world, train)
        self._turn += 1
        return self._pass(
            (self._requests(order[part], seed, epoch, train) for part in parts), self._turn, train
        )

    def _requests(self, indices: np.ndarray, seed: int, epoch: int, train: bool) -> list[_Request]:
        return [
            _Request(
                str(self.root / self.files[i]),
                int(self.labels[i]),
                (seed, epoch, i) if train else None,
            )
            for i in indices.tolist()
        ]

    def _pass(
        self, requests: Iterable[list[_Request]], turn: int, train: bool
    ) -> Iterator[dict[str, Tensor]]:
        if self._loader is None:
            self._loader = self._make_loader()
        self._loader.batch_sampler.requests = requests  # type: ignore[union-attr]
        for batch in self._loader:
            if turn != self._turn:
                raise RuntimeError("another pass over these images has begun")
            self._note(batch.pop("broken"), len(batch["label"]), train)
            if len(batch["label"]):
                yield batch

    def _make_loader(self) -> DataLoader[Any]:
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give 0 or more")
        return DataLoader(
            _Decoder(self.size, self.share, self.reduced),
            batch_sampler=_Requests(),
            num_workers=self.workers,
            collate_fn=_collate,
            multiprocessing_context="spawn"
            if self.workers
            else None,  # forked, OpenCV waits for lost threads
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # else a pass draws from the global one
        )

    def _note(self, broken: list[tuple[str, str]], left: int, train: bool) -> None:
        for path, reason in broken:
            if not self.skip_broken:
                raise ValueError(
                    f"{path}: {reason}; replace or remove it, or have such files skipped"
                )
            if path not in self.broken:
                self.broken[path] = reason
                tqdm.write(
                    f"warning: {path}: {reason}; skipped, {len(self.broken)} so far",
                    file=sys.stderr,
                )
        if broken and train and not left:
            raise ValueError(
                f"{broken[0][0]} and the rest of its batch cannot be decoded; is the folder whole?"
            )


class _Request(NamedTuple):
    """One image to decode. Workers get all they need with it, so that they hold no list of a
    million files.
    """

    path: str
    label: int
    seeds: tuple[int, int, int] | None  # of a random crop; None: the middle


class _Requests(Sampler[list[_Request]]):
    """The batches of the pass that begins next."""

    requests: Iterable[list[_Request]] = ()

    def __iter__(self) -> Iterator[list[_Request]]:
        return iter(self.requests)


class _Decoder(Dataset[Any]):
    def __init__(self, size: int, share: float, reduced: bool) -> None:
        self.size, self.share, self.reduced = size, share, reduced

    def __getitem__(self, request: _Request) -> tuple[_Request, np.ndarray | str]:
        """The request with its crop, S x S x 3 uint8 RGB, or with what is wrong with its file."""
        random = request.seeds and RandomCrop.draw(np.random.default_rng(request.seeds))
        try:
            data = Path(request.path).read_bytes()
        except OSError as error:
            return request, error.strerror or "cannot be read"
        if not data:
            return request, "is empty (0 bytes)"
        crop = decode_crop(data, random or CentreCrop(self.share), self.size, self.reduced)
        return request, "is not an image, or is cut short" if crop is None else crop


def _collate(items: list[tuple[_Request, np.ndarray | str]]) -> dict[str, Any]:
    """Crops and labels stacked, files that have none named; a training batch is filled up to its
    size.
    """
    good = [(request, crop) for request, crop in items if isinstance(crop, np.ndarray)]
    broken = [(request.path, crop) for request, crop in items if isinstance(crop, str)]
    if good and items[0][0].seeds:
        good = [good[i % len(good)] for i in range(len(items))]
    images = (
        np.stack([crop for _, crop in good]) if good else np.empty((0, 1, 1, 3), np.uint8)
    )  # [B, S, S, 3]
    labels = torch.tensor([request.label for request, _ in good], dtype=torch.int64)
    return {
        "image": torch.from_numpy(images).permute(0, 3, 1, 2),
        "label": labels,
        "broken": broken,
    }
