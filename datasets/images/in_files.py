"""Labelled images in files, such as ImageNet's, which worker processes decode in every epoch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from rbsf.datasets.images.base import Labelled
from rbsf.datasets.images.decode import CentreCrop, RandomCrop, decode_crop
from rbsf.datasets.images.published import CROP_SHARE
from rbsf.datasets.loader import open_loader

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # ImageNet's training images, as usually published
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class FolderData(Labelled):
    """N image files with their labels; batches are crops of `size` x `size` pixels.

    `files`: paths below `root`. `labels` `[N]` int64: indices into `classes`. Training crops are
    random (see `RandomCrop`) and mirrored at random, so that `augment` has nothing left to do.
    Evaluation crops are the middle square, `share` of the short side. `workers`: number of
    processes that decode (0: this one); they start at the first pass and stay. `broken`: for each
    file that could not be decoded, the reason.

    A batch's `image` is `[B, 3, size, size]` uint8 RGB, in channels-last memory on the CPU, pinned
    if there is a GPU. The crop of an image depends on seed, epoch and its index alone. Only one
    pass runs at a time: beginning another ends the one before. A pass raises ValueError for a file
    that cannot be decoded. With `skip_broken` it warns and leaves the file out: evaluation then has
    fewer images, and training repeats others of the batch, so that batches keep their size.
    """

    root: Path
    files: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    size: int = 224
    share: float = CROP_SHARE
    skip_broken: bool = False
    workers: int = 0
    reduced: bool = True  # decode JPEGs at a fraction of their size if the crop allows it
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_padding: int = 0
    flip: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    _loader: DataLoader[Any] | None = field(default=None, init=False, repr=False)
    _turn: int = field(default=0, init=False, repr=False)  # number of the latest pass

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> str:
        """Describe the set in a few words."""
        crops = f"crops of {self.size}x{self.size}"
        return f"{len(self)} image files in {self.root}, {len(self.classes)} classes, {crops}"

    def _label_array(self) -> np.ndarray:
        return self.labels

    def _read_batches(
        self, order: np.ndarray, parts: Iterator[slice], key: tuple[int, int], train: bool
    ) -> Iterator[dict[str, Tensor]]:
        self._turn += 1
        requests = (self._requests(order[part], key, train) for part in parts)
        return self._pass(requests, self._turn, train)

    def _requests(self, indices: np.ndarray, key: tuple[int, int], train: bool) -> list[_Request]:
        requests = []
        for i in indices.tolist():
            seeds = (*key, i) if train else None
            requests.append(_Request(str(self.root / self.files[i]), int(self.labels[i]), seeds))
        return requests

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
        decoder = _Decoder(self.size, self.share, self.reduced)
        return open_loader(decoder, _Requests(), self.workers, collate_fn=_collate)

    def _note(self, broken: list[tuple[str, str]], left: int, train: bool) -> None:
        """Warn of a batch's broken files, or raise ValueError; `left`: images it still has."""
        for path, reason in broken:
            if not self.skip_broken:
                raise ValueError(f"{reason}; a training can leave such out by --skip-broken")
            if path not in self.broken:
                self.broken[path] = reason
                so_far = f"skipped, {len(self.broken)} so far"
                tqdm.write(f"warning: {reason}; {so_far}", file=sys.stderr)
        if broken and train and not left:
            batch = f"{broken[0][0]} and the rest of its batch"
            raise ValueError(f"{batch} cannot be decoded; is the folder whole?")


class _Request(NamedTuple):
    """One image to decode, with all that a worker needs, so workers hold no long list of files."""

    path: str
    label: int
    seeds: tuple[int, int, int] | None  # seeds of a random crop; None: the middle


class _Requests(Sampler[list[_Request]]):
    """The batches of the pass that begins next."""

    requests: Iterable[list[_Request]] = ()

    def __iter__(self) -> Iterator[list[_Request]]:
        return iter(self.requests)


class _Decoder(Dataset[Any]):
    def __init__(self, size: int, share: float, reduced: bool) -> None:
        self.size, self.share, self.reduced = size, share, reduced

    def __getitem__(self, request: _Request) -> tuple[_Request, np.ndarray | str]:
        """Return the request with its crop, or with the reason why there is none.

        A crop is `[size, size, 3]` uint8 RGB.
        """
        crop: RandomCrop | CentreCrop = CentreCrop(self.share)
        if request.seeds:
            crop = RandomCrop.draw(np.random.default_rng(request.seeds))
        path = Path(request.path)
        try:
            return request, decode_crop(path.read_bytes(), crop, self.size, self.reduced, path)
        except OSError as error:
            return request, f"{path}: {error.strerror or 'cannot be read'}"
        except ValueError as error:
            return request, str(error)


def _collate(items: list[tuple[_Request, np.ndarray | str]]) -> dict[str, Any]:
    """Stack crops and labels, and name the files that could not be decoded.

    A training batch repeats images until it has its full size.
    """
    good = [(request, crop) for request, crop in items if isinstance(crop, np.ndarray)]
    broken = [(request.path, crop) for request, crop in items if isinstance(crop, str)]
    train = items[0][0].seeds is not None
    if good and train:
        good = list(islice(cycle(good), len(items)))
    images = np.empty((0, 1, 1, 3), np.uint8)
    if good:
        images = np.stack([crop for _, crop in good])  # [B, size, size, 3]
    labels = torch.tensor([request.label for request, _ in good], dtype=torch.int64)
    return {
        "image": torch.from_numpy(images).permute(0, 3, 1, 2),  # [B, 3, size, size]
        "label": labels,
        "broken": broken,
    }
