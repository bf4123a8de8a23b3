"""A training from its configuration: data, networks, validation, loop.  What tools/train_rbsf.py runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.pair_dataset import PairDataset, make_loader
from rbsf.datasets.pairs.training_data import find_held_out, open_training_data
from rbsf.datasets.video.sequences import Sequence
from rbsf.export.pack import pack_weights
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, Stats, measure_maps, start_again, start_from_teacher
from rbsf.models import build
from rbsf.models.alexnet import slimmed
from rbsf.tools.recipes.common import (
    RunConfig,
    describe_place,
    dtype_of,
    place,
    provenance,
    report_size,
    run_training,
    saved_state,
    write_record,
)
from rbsf.tools.recipes.siamese_config import TrainConfig, model_defaults
from rbsf.tools.recipes.validation import validation
from rbsf.tracker.task import SiameseTask
from rbsf.train import distributed
from rbsf.train.distributed import Process
from rbsf.train.loop import Loop
from rbsf.train.rectify import Rectifier
from rbsf.weights import load_weights, save_weights

if TYPE_CHECKING:
    from rbsf.tools.recipes.distilled import DistillConfig


def train_all(config: TrainConfig) -> int:
    """Train what `config` says, its teacher first where none is given; 0 when done, 128 + signal when stopped."""

    def body(process: Process) -> None:
        teacher = config.teacher
        if config.model != "siamfc" and teacher is None:
            teacher = str(_train_teacher(config, process))
        train(dataclasses.replace(config, teacher=teacher), Path(config.out).parent, process)

    return run_training(config, body)


def _train_teacher(config: TrainConfig, process: Process) -> Path:
    """Train the float network on the same data into OUT/teacher, unless it is there; returns its weights."""
    folder = Path(config.out) / "teacher"
    done = folder / "siamfc.safetensors"
    if config.resume and done.is_file():
        return done
    if process.rank == 0:
        print(f"no --teacher given: the float SiamFC is trained first, into {folder}")
    defaults = model_defaults("siamfc")
    own = {name: defaults[name] for name in defaults.keys() - {"epochs", "pairs"}}
    settings = {**dataclasses.asdict(config), **own, "model": "siamfc", "out": str(folder), "correlation_bits": False}
    train(TrainConfig(**settings), Path(config.out).parent, process)
    return done


def train(config: TrainConfig, cache: Path, process: Process) -> None:
    """One training, from data (cut out into the folder `cache`) to OUT/MODEL.safetensors, and -packed of 1-bit ones."""
    rank, world, device = process
    folder = Path(config.out)
    state = saved_state(config)
    stores, held_out = open_data(config, cache, rank)
    length = sum(config.steps(world, config.bn_pass)) * config.batch_size * world
    dataset = open_pairs(config, stores, held_out, length)
    rectifier = build_rectifier(config, dataset, device)
    batches, validate = Batches(dataset, config, rank, world), validation(stores, held_out, config, device)
    loop = Loop(rectifier, batches, config, folder, validate, rank, world)
    if state:
        loop.load(state)
    if rank == 0:
        write_record(config, world)
        print(f"{config.model}: {dataset.describe()}; on {describe_place(config, process)}; into {folder}")
    loop.run()
    if rank == 0:
        final = folder / f"{config.model}.safetensors"
        save_weights(rectifier.student, config.model, final, provenance(config, world))
        report_size(final, folder)
        if binary_layers(rectifier.student):
            packed = folder / f"{config.model}-packed.safetensors"
            pack_weights(final, packed)
            print(f"{packed}: {packed.stat().st_size / 1e6:.2f} MB, to track with")


def open_data(config: TrainConfig, cache: Path, rank: int = 0) -> tuple[list[CropStore], list[Sequence]]:
    """Crop stores, and the sequences held out for validation; says what is used where no data is named."""
    if not config.data and rank == 0:
        print("no --data given: training on synthetic videos made here, a try-out that teaches little of real ones")
        print("for a real training: --data PATH/TO/GOT-10k/train   (other layouts and folders of images work too)")
    with distributed.first_process_first(rank):
        data, val = [Path(path) for path in config.data], Path(config.val) if config.val else None
        return open_training_data(
            data, cache, val, config.val_sequences, skip_broken=config.skip_broken, prepare_missing=rank == 0
        )


def open_pairs(
    config: TrainConfig | DistillConfig, stores: list[CropStore], held_out: list[Sequence], length: int
) -> PairDataset:
    """The pairs that `config` asks for, `length` an epoch, of all targets but those held out."""
    return PairDataset(
        stores,
        length,
        config.seed,
        still_share=config.still_share,
        mix=config,
        augment=config,
        max_gap=config.max_gap,
        exclude=find_held_out(stores, held_out),
        data_share=config.data_share,
    )


def build_rectifier(config: TrainConfig, dataset: PairDataset, device: torch.device) -> Rectifier:
    """The networks, the student started from its teacher or from scratch, and their training."""
    task = SiameseTask(config.response_match, dtype_of(config.precision, device), config.correlation_bits)
    torch.manual_seed(config.seed)
    student, teacher, stats = place(build(config.model, width=config.width), device), None, None
    if config.teacher:
        teacher, model, _ = load_weights(config.teacher)
        if model != "siamfc":
            raise ValueError(f"{config.teacher}: a teacher must be a float network (siamfc), this is {model}")
        teacher = place(teacher, device)
        stats = _start(student, teacher, task, dataset, config, device)
    if not (config.gan or config.lambda_match or config.response_match):
        teacher = None  # it has given the start; nothing else asks for it
    if config.compile:
        student.compile()
    return Rectifier(student, teacher, task, config, stats)


class Batches:
    """Batches of an epoch, from batch `start`: a pure function of seed, epoch and number."""

    def __init__(self, dataset: PairDataset, config: RunConfig, rank: int, world: int) -> None:
        self.dataset, self.config, self.rank, self.world = dataset, config, rank, world
        self.loader: Any = None

    def __call__(self, epoch: int, start: int, count: int) -> Iterable[dict[str, Tensor]]:
        """See the class; `count` is the number of the last batch, plus one."""
        self.dataset.set_epoch(epoch)
        if self.loader is None:
            self.loader = make_loader(
                self.dataset, self.config.batch_size, self.config.workers, start, self.rank, self.world
            )
        for _, batch in zip(range(start, count), self.loader, strict=False):
            yield batch


def _start(
    student: nn.Module,
    teacher: nn.Module,
    task: SiameseTask,
    dataset: PairDataset,
    config: TrainConfig,
    device: torch.device,
) -> Stats:
    """Start the student from its teacher, or leave it from scratch.  Returns the statistics of the teacher's maps to
    compare with, by point.

    A wider teacher gives a part of its channels to start from; its maps are compared where there are as many.
    """
    wider = teacher.model_options != student.model_options
    start = place(slimmed(teacher, config.width), device) if wider else teacher

    def forward(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return task.respond(net, {k: v.to(device) for k, v in batch.items()})

    def batches() -> Iterable[dict[str, Tensor]]:
        return islice(make_loader(dataset, config.batch_size), CALIBRATION)

    if not binary_layers(student):
        if config.scratch:
            return {}
        student.load_state_dict(start.state_dict())
        start_again(student, partial(forward, student), batches())
        return {}
    own = stats = measure_maps(student, start, forward, batches())
    if wider:
        wide = measure_maps(student, teacher, forward, batches())
        stats = {point: wide[point] for point in own if wide[point][0].shape == own[point][0].shape}
        print(f"teacher of another width: maps are compared at {', '.join(stats)}, {len(stats)} of {len(own)} points")
    if not config.scratch:
        start_from_teacher(student, start, own | stats)
    return stats
