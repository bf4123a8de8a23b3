"""The settings that all trainings share, and which of them decide the result."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rbsf.system.program import MOST_PROCESSES, MOST_THREADS
from rbsf.system.text import printable
from rbsf.train.config import (
    as_settings,
    changed,
    check_least,
    check_most,
    check_settings,
    from_settings,
    lacks_settings,
    read_unchecked,
    section,
    setting,
    settings_of,
)
from rbsf.train.rectify_config import RectifyConfig


@dataclass
class LoopConfig:
    """Length and pace of a training."""

    TITLE: ClassVar[str] = "length and pace of the training"

    epochs: int = setting(30, "Train for N epochs", changeable=True)
    batch_size: int = setting(8, "Learn from N samples at a time, in each process")
    warmup: int = setting(
        50,
        "Let the learning rates rise over N steps; after that they fall along a cosine, to"
        " 1% of their values",
    )
    save_minutes: float = setting(
        5.0,
        "Write a checkpoint after each epoch, and this often in between",
        metavar="MINUTES",
        changeable=True,
        decisive=False,
    )
    log_every: int = setting(
        20, "Write a row of the log every N steps", changeable=True, decisive=False
    )
    capture: bool = setting(
        True,
        "On a GPU, record the work of a step once and replay it, which is faster",
        changeable=True,
        decisive=False,
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        check_least(self, epochs=1, batch_size=1, log_every=1, warmup=0, save_minutes=0)


@dataclass
class MachineConfig:
    """The machine that a training runs on. Only the precision affects the result."""

    TITLE: ClassVar[str] = "what the training runs on"

    device: str = setting(
        "auto",
        "Train on cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one",
        metavar="NAME",
        changeable=True,
        decisive=False,
    )
    precision: str = setting(
        "auto",
        "Compute with numbers of 32 or of 16 bits; auto takes bfloat16 where the device is fast at"
        " it",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = setting(
        False,
        "Compile the networks, which needs a C++ compiler and pays on GPUs",
        changeable=True,
        decisive=False,
    )
    workers: int = setting(
        2,
        "Read samples in N processes; 0 reads them in the process that trains",
        changeable=True,
        decisive=False,
    )
    threads: int = setting(
        0,
        "Run the networks on N threads of the CPU; 0 takes one for each core",
        changeable=True,
        decisive=False,
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        check_least(self, workers=0, threads=0)
        check_most(self, workers=MOST_PROCESSES, threads=MOST_THREADS)


@dataclass
class RunConfig:
    """Settings of any training; they are written as config.yaml next to its weights.

    A subclass has a setting named after its `UNIT` plus an s: the number of samples of an epoch.
    """

    UNIT: ClassVar[str] = "sample"
    TITLE: ClassVar[str] = "the data and the network"
    FIRST: ClassVar[tuple[str, ...]] = ("out", "resume", "epochs", "batch_size")  # flags in help

    loop: LoopConfig = section(LoopConfig)
    algorithm: RectifyConfig = section(RectifyConfig)
    machine: MachineConfig = section(MachineConfig)
    seed: int = setting(0, "Draw weights, order and changes of the samples by this number")
    teacher: str | None = setting(
        None,
        "Learn from the float network in this file: .safetensors, or of a tracker also .pth of"
        " siamfc-pytorch or .npz",
        path=True,
    )
    out: str = setting(
        "runs/rbsf",
        "Write weights, checkpoint and logs to this folder",
        changeable=True,
        decisive=False,
        path=True,
    )
    resume: bool = setting(
        False, "Go on with the training in --out", changeable=True, decisive=False
    )
    cache: str | None = setting(
        None,
        "Keep cut-out pairs and float teachers, which several trainings can share, in this folder,"
        " not in --out",
        changeable=True,
        decisive=False,
        path=True,
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        check_least(self, seed=0)
        if printable(self.out) != self.out:  # safetensors could not open its own file at the end
            raise ValueError(f"out is {self.out}: not UTF-8; choose a folder whose name is")

    @property
    def shared(self) -> Path:
        """The folder for files that several trainings can share."""
        return Path(self.cache or self.out)

    @property
    def samples(self) -> int:
        """Number of samples in an epoch."""
        return getattr(self, f"{self.UNIT}s")

    @property
    def sampling(self) -> dict[str, int]:
        """The settings that decide which samples a step sees; a resumed run must have the same."""
        return {
            "seed": self.seed,
            f"{self.UNIT}s": self.samples,
            "batch_size": self.loop.batch_size,
        }

    def steps(self, world: int) -> tuple[int, int]:
        """Training steps and batch-norm steps of an epoch for `world` processes.

        Raises ValueError if an epoch has fewer samples than a batch.
        """
        batch_size = self.loop.batch_size
        steps = self.samples // (batch_size * world)
        if steps < 1:
            size = f"one batch of {batch_size} for {world} processes"
            raise ValueError(
                f"{self.UNIT}s is {self.samples}: less than {size}; give a smaller --batch-size"
            )
        return steps, round(steps * self.algorithm.bn_pass)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result and differ from their defaults."""
        settings, values = settings_of(type(self)), as_settings(self)
        return {
            name: values[name]
            for name, each in settings.items()
            if each.decisive and values[name] not in (each.default, [])
        }

    def digest(self) -> str:
        """Eight hex digits of a hash of the decisive settings."""
        text = json.dumps(self.decisive(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


Config = TypeVar("Config", bound=RunConfig)


# Settings of earlier versions, with the values that had no effect.
REMOVED = {"hidden_share": 0.0, "true_boxes": False, "true_sides": False, "stretch": 0.0}


def resumed(cls: type[Config], settings: dict[str, Any]) -> Config:
    """The settings of the training in `out`, changed by `settings`.

    Raises FileNotFoundError if there is no training, and ValueError for a setting that must not be
    changed on resuming. A file or folder may have been moved, but must keep its name; a warning
    says where the other was.
    """
    known = settings_of(cls)
    base = Path(settings.get("out", known["out"].default)) / "config.yaml"
    if not base.is_file():
        raise FileNotFoundError(f"nothing to resume: no {base}; start without --resume")
    written = read_unchecked(base)
    if lacks_settings(base, written):
        raise ValueError(f"{base} is empty or cut short; start anew without --resume")
    kept = {k: v for k, v in written.items() if k not in REMOVED or v != REMOVED[k]}
    try:
        trained = from_settings(cls, check_settings(cls, kept, str(base)))
    except ValueError as error:
        reason = str(error).removeprefix(f"{base}: ")
        raise ValueError(f"{base}: {reason}; start anew without --resume") from None
    before = as_settings(trained)  # with defaults for settings that an older version lacked
    for name, value in settings.items():
        if value == before[name]:
            continue
        was, now = _shown(before[name]), _shown(value)
        if known[name].changeable:
            if known[name].decisive:
                warnings.warn(f"{base}: {name} was {was}; from here on it is {now}", stacklevel=2)
            continue
        if not known[name].path:
            raise ValueError(f"{base}: trained with {name} {was}, not {now}; resume with {was}")
        if last_part(value) != last_part(before[name]):
            advice = f"leave --{name.replace('_', '-')} out, or give the same from another folder"
            raise ValueError(f"{base}: trained with {name} {was}, not {now}; {advice}")
        warnings.warn(f"{base}: {name} was {was}; {now} is assumed identical", stacklevel=2)
    return changed(trained, **settings)


def _shown(value: Any) -> str:
    """A setting's value as a message shows it."""
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def last_part(paths: str | list[str] | None) -> Any:
    """The last part of a path, or of each of several, in a list or with commas between."""
    if isinstance(paths, list):
        return list(map(last_part, paths))
    return paths and ",".join(Path(path).absolute().name for path in paths.split(","))
