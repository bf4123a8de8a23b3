"""A recipe defines what is special about a kind of training; `Trainer` does the rest."""

from __future__ import annotations

import dataclasses
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import copy
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from rbsf.export.check import check_packable
from rbsf.export.pack import pack_weights
from rbsf.layers import binary_layers
from rbsf.system.files import remove_left_over
from rbsf.system.lock import locked
from rbsf.train import CHECKPOINT, distributed
from rbsf.train.checkpoint import check_parts, load_checkpoint
from rbsf.train.config import write_yaml
from rbsf.train.device import choose_device, keep_memory
from rbsf.train.distributed import Process
from rbsf.train.forecast import END, LATER, STEP, TRIED, Forecast, in_words, seconds_a_step
from rbsf.train.log import read_log
from rbsf.train.loop import Loop, Stopped
from rbsf.train.record import describe_place, provenance, read_starts, report_size, write_record
from rbsf.train.rectify import Rectifier
from rbsf.train.run_config import RunConfig
from rbsf.weights import save_weights

Config = TypeVar("Config", bound=RunConfig)
Validate = Callable[[nn.Module], dict[str, float]]


class Recipe(ABC, Generic[Config]):
    """The parts special to one kind of training; call `open` first, then `build`, then the rest."""

    def __init__(self, config: Config, process: Process) -> None:
        self.config, self.process = config, process

    @property
    @abstractmethod
    def model(self) -> str:
        """The network's name in `rbsf.models`, and that of its weights file."""

    @abstractmethod
    def open(self) -> None:
        """Open the data.

        Raises ValueError or OSError, in one line, if it cannot be used.
        """

    def check_teacher(self) -> None:
        """Raise ValueError or OSError for a given teacher that is none; no data is read yet."""

    @abstractmethod
    def untrained(self) -> nn.Module:
        """The network to be trained, with any weights, so that its export can be tried first."""

    @abstractmethod
    def build(self) -> Rectifier:
        """The networks and their optimizers, made from the seed in the settings."""

    @abstractmethod
    def batches(self, epoch: int, start: int, stop: int) -> Iterable[dict[str, Tensor]]:
        """The batches `start` to `stop` of an epoch; they are the same each time."""

    @abstractmethod
    def some_batches(self, count: int) -> Iterable[dict[str, Tensor]]:
        """The first batches, on the device, for measurements before a training begins."""

    @abstractmethod
    def describe(self, student: nn.Module) -> str:
        """A description of network and data."""

    @property
    def try_out(self) -> bool:
        """Whether the training is only a trial; then its duration is printed first."""
        return False

    def shipped_teacher(self) -> Path | None:
        """The shipped float network used if no teacher is given; None if none fits."""
        return None

    def missing_teacher(self) -> Recipe[Config] | None:
        """The training of the teacher; None if it is not needed or already done."""
        return None

    def validation(self) -> Validate | None:
        """The function that measures the student after each epoch, or None."""
        return None

    def yardsticks(self) -> dict[str, dict[str, float]]:
        """Figures of other networks, by name, measured as in `validation`."""
        return {}

    def info(self) -> dict[str, Any]:
        """Information for the weights file in addition to settings and environment."""
        return {}

    def finish(self, weights: Path) -> None:
        """Make further files from the weights; only process 0 calls it."""

    @property
    def folder(self) -> Path:
        """The folder for results."""
        return Path(self.config.out)

    @property
    def weights(self) -> Path:
        """The weights file that the training writes."""
        return self.folder / f"{self.model}.safetensors"


def run(make: Callable[[Any, Process], Recipe], config: RunConfig) -> int:
    """Train according to `config`; if a teacher is needed, it is trained first.

    `make` makes the recipe. Returns 0 when done, 128 + signal when stopped.

    Raises ValueError if the folder contains a training that should not be resumed, or if another
    process trains in it.
    """
    keep_memory()
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    device = choose_device(config.machine.device)
    # All batches have the same size, so the fastest method for the first is the fastest for all.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    process = distributed.start(device)
    folder = Path(config.out)
    try:
        with locked(folder) if process.rank == 0 else nullcontext():
            if process.rank == 0:
                remove_left_over(folder)
            recipe = make(config, process)
            if process.rank == 0 and not config.resume:
                _check_unused(recipe)
                write_yaml(config, folder / "config.yaml")  # --resume works from here on
            Trainer(recipe).run()
            distributed.wait_for_all()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
    finally:
        distributed.stop()
    return 0


def _check_unused(recipe: Recipe) -> None:
    """Raise ValueError if the folder of a training contains another one, or its weights."""
    folder = recipe.folder
    if any((each / CHECKPOINT).is_file() for each in (folder, folder / "teacher")):
        advice = "add --resume to continue it, or choose another --out"
        raise ValueError(f"{folder} holds a training already; {advice}")
    if recipe.weights.exists():
        raise ValueError(f"{recipe.weights} would be overwritten; choose another --out")


def _check_resumable(recipe: Recipe) -> None:
    """Raise ValueError, before data is read, if a training to resume cannot go on."""
    if not recipe.config.resume:
        return
    checkpoint = recipe.folder / CHECKPOINT
    if checkpoint.is_file():
        check_parts(load_checkpoint(checkpoint), checkpoint)
        for read, name in ((read_log, "log.csv"), (read_starts, "environment.json")):
            if (recipe.folder / name).is_file():
                read(recipe.folder / name)
    elif recipe.weights.is_file():
        raise ValueError(
            f"{recipe.folder} has weights, but no {CHECKPOINT} to resume from; choose another"
            " --out, or remove the weights to train anew"
        )


def _plan(recipe: Recipe) -> str:
    """A message on how a teacher that was not given is obtained."""
    if not recipe.weights.is_file():
        return f"the float {recipe.model} is trained first, into {recipe.folder}"
    # The folder's name depends on the settings, but not on data that may have changed since.
    made = datetime.fromtimestamp(recipe.weights.stat().st_mtime)
    advice = "delete it if the data has changed"
    return f"{recipe.weights}, made {made:%Y-%m-%d %H:%M}, serves; {advice}"


class Trainer:
    """Runs one training by its recipe; if the teacher is missing, it is trained first."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.process = recipe, recipe.process
        self.forecast = Forecast()

    def run(self) -> None:
        """Train to the end. Raises Stopped after Ctrl-C or SIGTERM."""
        _check_resumable(self.recipe)
        teacher = self.recipe.missing_teacher()
        if teacher and not teacher.weights.is_file():
            _check_resumable(teacher)
        self.recipe.check_teacher()
        self.recipe.open()
        self._check_export()
        self._find_teacher()
        self._train()

    def _find_teacher(self) -> None:
        """If no teacher is given, use the shipped one or train one."""
        recipe = self.recipe
        shipped = None if recipe.config.teacher else recipe.shipped_teacher()
        if shipped:
            if self.process.rank == 0:
                print(f"no --teacher given: using the shipped {shipped}")
            recipe.config = dataclasses.replace(recipe.config, teacher=str(shipped))
        elif teacher := recipe.missing_teacher():
            Trainer(teacher).run_once(recipe)
            recipe.config = dataclasses.replace(recipe.config, teacher=str(teacher.weights))

    def _train(self) -> None:
        """Train; the data must be open and the teacher must exist."""
        recipe, rank, world = self.recipe, self.process.rank, self.process.world
        checkpoint = recipe.folder / CHECKPOINT
        goes_on = recipe.config.resume and checkpoint.is_file()
        if recipe.config.resume and not goes_on and rank == 0:
            print(f"{recipe.folder} has no {CHECKPOINT}: the training begins anew")
        if recipe.try_out and not goes_on:
            self._try_out()
        rectifier = recipe.build()
        validate = recipe.validation()
        yardsticks = self._yardsticks() if validate else {}
        loop = Loop(
            rectifier,
            recipe.batches,
            recipe.config,
            recipe.folder,
            validate,
            rank,
            world,
            yardsticks,
            self.forecast,
        )
        if goes_on:
            loop.load(load_checkpoint(checkpoint))
        if rank == 0:
            write_record(recipe.config, world)
            place = describe_place(recipe.config, self.process)
            print(f"{recipe.describe(rectifier.student)}; on {place}; into {recipe.folder}")
        loop.run()
        # Process 0 may write the teacher here, which all processes read next.
        with distributed.first_process_first(rank):
            if rank == 0:
                self._finish(rectifier.student)

    def _check_export(self) -> None:
        """Raise ValueError, before any training, if its result could not be packed."""
        with torch.random.fork_rng(devices=[]):  # random numbers drawn here have no later effect
            network = self.recipe.untrained()
        if binary_layers(network):
            check_packable(network, self.recipe.model, self.recipe.info())

    def _yardsticks(self) -> dict[str, dict[str, float]]:
        """The recipe's yardsticks, which are printed; only process 0 validates and needs them."""
        if self.process.rank:
            return {}
        with torch.random.fork_rng(devices=[]):  # random numbers drawn here do not affect training
            found = self.recipe.yardsticks()
        yardsticks = {who: figures for who, figures in found.items() if figures}
        for who, figures in yardsticks.items():
            shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"to compare with: {who} has {shown}")
        return yardsticks

    def _try_out(self) -> None:
        """Time steps and validation on networks made for this, and print the expected duration."""
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            rectifier = recipe.build()
            self.forecast.took(STEP, seconds_a_step(rectifier, recipe.some_batches(TRIED)))
            if self.process.rank:
                return
            validate, begun = recipe.validation(), time.monotonic()
            if validate:
                validate(rectifier.student.eval())
            self.forecast.took(END, time.monotonic() - begun)
        steps, epochs = sum(recipe.config.steps(self.process.world)), recipe.config.loop.epochs
        seconds, _ = self.forecast.seconds_for({STEP: steps * epochs, END: epochs})
        print(f"this takes about {in_words(seconds)} on this machine", flush=True)

    def _foresee(self, student: Recipe) -> None:
        """Time steps of the student's training, which follows, with an untrained teacher."""
        teacher, trial = self.recipe, copy(student)
        with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
            path = Path(folder) / teacher.weights.name
            save_weights(teacher.build().student, teacher.model, path, teacher.info())
            trial.config = dataclasses.replace(student.config, teacher=str(path))
            seconds = seconds_a_step(trial.build(), trial.some_batches(TRIED))
        steps, epochs = sum(student.config.steps(self.process.world)), student.config.loop.epochs
        self.forecast.later = {LATER: steps * epochs}
        if student.validation():
            self.forecast.later[END] = epochs
        self.forecast.took(LATER, seconds)

    def run_once(self, student: Recipe) -> None:
        """Train, unless the weights exist; the training of `student` follows.

        If several trainings need the weights at once, one makes them and the others wait.
        """
        recipe, rank = self.recipe, self.process.rank
        with locked(recipe.folder, wait=True) if rank == 0 else nullcontext():
            if rank == 0:
                remove_left_over(recipe.folder)
            # Process 0 checks, and all processes act on its result.
            missing = distributed.any_process(rank == 0 and not recipe.weights.is_file())
            if rank == 0:
                print(f"no --teacher given: {_plan(recipe)}")
            if missing:
                recipe.open()
                self._foresee(student)
                self._train()

    def _finish(self, student: nn.Module) -> None:
        recipe = self.recipe
        about = provenance(recipe.config, self.process.world) | recipe.info()
        save_weights(student, recipe.model, recipe.weights, about)
        report_size(recipe.weights, recipe.folder)
        if binary_layers(student):
            packed = recipe.folder / f"{recipe.model}-packed.safetensors"
            pack_weights(recipe.weights, packed)
            size = f"{packed.stat().st_size / 1e6:.2f} MB"
            print(f"{packed}: {size}, to run without PyTorch: give it as --weights")
        recipe.finish(recipe.weights)
