"""The training of a tracker of SiamFC's form, float or 1-bit, run by tools/train_rbsf.py."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.training_data import hold_out, open_stores
from rbsf.datasets.video.sequences import Sequence
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, Stats, measure_maps, start_again, start_from_teacher
from rbsf.models import build
from rbsf.models.alexnet import slimmed
from rbsf.shipped import find_weights
from rbsf.tools.recipes.pairs import PairRecipe
from rbsf.tools.recipes.siamese_config import SiameseConfig, model_defaults
from rbsf.tools.recipes.validation import validation, yardsticks
from rbsf.tracker.task import SiameseTask
from rbsf.tracker.weights import read_weights
from rbsf.train import distributed
from rbsf.train.config import changed
from rbsf.train.device import dtype_of, place
from rbsf.train.rectify import Rectifier
from rbsf.train.trainer import Validate

TRY_OUT = (
    "no --data given: training on synthetic videos made here,"
    " a try-out that teaches little of real ones\n"
    "for a real training: --data PATH/TO/GOT-10k/train"
    "   (other layouts and folders of images work too)"
)


@cache  # printed once, although a teacher and its student train on the same data
def _tell_try_out() -> None:
    print(TRY_OUT)


class SiameseRecipe(PairRecipe[SiameseConfig]):
    """See the module."""

    @property
    def model(self) -> str:
        """See `Recipe`."""
        return self.config.model

    def open_data(self) -> tuple[list[CropStore], list[Sequence]]:
        """See `PairRecipe`; a message says what is used if no data is given."""
        config, rank = self.config, self.process.rank
        if not config.data and rank == 0:
            _tell_try_out()
        data = [Path(path) for path in config.data]
        val = Path(config.val) if config.val else None
        if val and not val.exists():  # told before the data are cropped
            raise FileNotFoundError(f"--val {val} does not exist; give a folder of sequences")
        skip, first, count = config.skip_broken, rank == 0, config.val_sequences
        with distributed.first_process_first(rank):
            stores = open_stores(data, config.shared, skip_broken=skip, prepare_missing=first)
            return stores, hold_out(data, config.shared, val, count, skip_broken=skip, prints=first)

    @property
    def try_out(self) -> bool:
        """See `Recipe`."""
        return not self.config.data

    def shipped_teacher(self) -> Path | None:
        """The shipped SiamFC, unless the student is wider, or a teacher has been begun here."""
        config, shipped = self.config, find_weights("siamfc")
        if config.model == "siamfc" or config.own_teacher or config.width > 1:
            return None
        begun = (self.folder / "teacher").is_dir()
        return shipped if shipped.is_file() and not begun else None

    def missing_teacher(self) -> SiameseRecipe | None:
        """The float network on the same data, in OUT/teacher."""
        config = self.config
        if config.model == "siamfc" or config.teacher is not None:
            return None
        defaults = model_defaults("siamfc")
        own = {name: defaults[name] for name in defaults.keys() - {"epochs", "pairs"}}
        own |= {"model": "siamfc", "out": str(self.folder / "teacher"), "correlation_bits": False}
        own |= {"cache": str(config.shared)}
        return SiameseRecipe(changed(config, **own), self.process)

    def check_teacher(self) -> None:
        """See `Recipe`."""
        if self.config.teacher:
            load_teacher(self.config.teacher)

    def untrained(self) -> nn.Module:
        """See `Recipe`."""
        return build(self.config.model, width=self.config.width)

    def build(self) -> Rectifier:
        """The networks, the student from its teacher or from scratch, and their training."""
        config, device = self.config, self.process.device
        precision = dtype_of(config.machine.precision, device)
        task = SiameseTask(config.response_match, precision, config.correlation_bits)
        torch.manual_seed(config.seed)
        student = place(self.untrained(), device)
        teacher, stats = None, None
        if config.teacher:
            teacher = place(load_teacher(config.teacher), device)
            stats = self._start(student, teacher, task)
        if not (config.algorithm.compares_maps or config.response_match):
            teacher = None  # only the start needed it
        if config.machine.compile:
            student.compile()
        return Rectifier(student, teacher, task, config.algorithm, stats)

    def _start(self, student: nn.Module, teacher: nn.Module, task: SiameseTask) -> Stats:
        """Start the student from its teacher, or leave it from scratch.

        Returns the statistics of the teacher's maps to compare with, by point. From a wider
        teacher, the student starts with a part of its channels; maps are then compared only at
        points with the same number of channels.
        """
        wider = teacher.model_options != student.model_options
        start = teacher
        if wider:
            start = place(slimmed(teacher, self.config.width), self.process.device)
        if not binary_layers(student):
            if not self.config.scratch:
                student.load_state_dict(start.state_dict())
                start_again(student, partial(task.respond, student), self.some_batches(CALIBRATION))
            return {}
        own = stats = measure_maps(student, start, task.respond, self.some_batches(CALIBRATION))
        if wider:
            wide = measure_maps(student, teacher, task.respond, self.some_batches(CALIBRATION))
            stats = _of_the_same_width(wide, own)
            points = f"{', '.join(stats)}, {len(stats)} of {len(own)} points"
            print(f"teacher of another width: maps are compared at {points}")
        if not self.config.scratch:
            start_from_teacher(student, start, own | stats)
        return stats

    def validation(self) -> Validate | None:
        """See `rbsf.tools.recipes.validation`."""
        return validation(self.stores, self.held_out, self.config, self.process.device)

    def yardsticks(self) -> dict[str, dict[str, float]]:
        """See `rbsf.tools.recipes.validation`."""
        return yardsticks(self.stores, self.held_out, self.config)


def _of_the_same_width(wide: Stats, own: Stats) -> Stats:
    """The statistics of `wide` at points that have as many channels in `own`."""
    return {point: wide[point] for point in own if wide[point][0].shape == own[point][0].shape}


def load_teacher(path: str) -> nn.Module:
    """The float SiamFC of a weights file.

    Raises ValueError for another network.
    """
    teacher, model, _ = read_weights(path)
    if model != "siamfc":
        raise ValueError(f"{path}: a teacher must be a float network (siamfc), this is {model}")
    return teacher
