"""The settings and the pairs that all trainings on pairs of crops share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.mixing import MixConfig, check_range
from rbsf.datasets.pairs.pair_dataset import AugmentConfig, PairDataset, make_loader
from rbsf.datasets.pairs.training_data import find_held_out
from rbsf.datasets.video.sequences import Sequence
from rbsf.train.config import check_least, section, setting
from rbsf.train.distributed import Process
from rbsf.train.run_config import RunConfig
from rbsf.train.trainer import Recipe


@dataclass
class PairConfig(RunConfig):
    """Settings of trainings on pairs."""

    UNIT: ClassVar[str] = "pair"

    augment: AugmentConfig = section(AugmentConfig)
    mix: MixConfig = section(MixConfig)

    FIRST: ClassVar[tuple[str, ...]] = (
        "data",
        "model",
        "teacher",
        "out",
        "resume",
        "val",
        "epochs",
        "pairs",
        "batch_size",
        "device",
    )

    pairs: int = setting(8000, "Learn from N pairs in an epoch")
    data: list[str] = setting(
        list,
        "Train on the sequences or images in this folder, in any layout, or on a crop store (.db);"
        " repeatable",
        path=True,
    )
    val: str | None = setting(
        None, "Track the sequences in this folder after each epoch", path=True
    )
    val_frames: int = setting(
        60,
        "Track N frames of each sequence of --val",
        changeable=True,
        decisive=False,
    )
    still_share: float = setting(
        0.3,
        "Make this share of the pairs from still images, where there are videos too",
        metavar="SHARE",
    )
    data_share: float = setting(
        1.0,
        "Train on this share of the sequences, which shows what more data are worth",
        metavar="SHARE",
    )
    max_gap: int = setting(
        100, "Take the two frames of a pair from at most N frames apart in their video"
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        super().__post_init__()
        check_range("still_share", self.still_share, 1.0)
        check_least(self, pairs=1, max_gap=1, val_frames=2)
        if not 0 < self.data_share <= 1:
            raise ValueError(f"data_share is {self.data_share}; give a share above 0, up to 1")


Config = TypeVar("Config", bound=PairConfig)


class PairRecipe(Recipe[Config]):
    """Trains on pairs of all targets in crop stores, except those held out."""

    def __init__(self, config: Config, process: Process) -> None:
        super().__init__(config, process)
        self.stores: list[CropStore] = []
        self.held_out: list[Sequence] = []
        self._loader: Any = None

    @abstractmethod
    def open_data(self) -> tuple[list[CropStore], list[Sequence]]:
        """Crop stores, and sequences held out for validation."""

    def open(self) -> None:
        """See `Recipe`."""
        config, world = self.config, self.process.world
        self.stores, self.held_out = self.open_data()
        pairs = sum(config.steps(world)) * config.loop.batch_size * world
        self.dataset = PairDataset(
            self.stores,
            pairs,
            config.seed,
            still_share=config.still_share,
            mix=config.mix,
            augment=config.augment,
            max_gap=config.max_gap,
            exclude=find_held_out(self.stores, self.held_out),
            data_share=config.data_share,
        )

    def batches(self, epoch: int, start: int, stop: int) -> Iterable[dict[str, Tensor]]:
        """See `Recipe`."""
        config, (rank, world, _) = self.config, self.process
        self.dataset.set_epoch(epoch)
        if self._loader is None:
            size, workers = config.loop.batch_size, config.machine.workers
            self._loader = make_loader(self.dataset, size, workers, start, rank, world)
        yield from islice(self._loader, stop - start)

    def some_batches(self, count: int) -> Iterable[dict[str, Tensor]]:
        """See `Recipe`; this process reads them itself."""
        loader = make_loader(self.dataset, self.config.loop.batch_size)
        for batch in islice(loader, count):
            yield {key: value.to(self.process.device) for key, value in batch.items()}

    def describe(self, student: nn.Module) -> str:
        """See `Recipe`."""
        config = self.config
        steps, norm_steps = config.steps(self.process.world)
        count, more = (n * config.loop.batch_size * self.process.world for n in (steps, norm_steps))
        norms = f" and {more} for the batch-norms" if more else ""
        return f"{self.model}: {count} pairs{norms} an epoch from {self.dataset.describe()}"
