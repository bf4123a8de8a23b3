"""What trainings of trackers and of classifiers share: settings, where they run, how they stop, their record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from rbsf.system.environment import environment
from rbsf.system.files import write_atomically
from rbsf.tracker.backbones import choose_device
from rbsf.train import distributed
from rbsf.train.checkpoint import load_checkpoint
from rbsf.train.config import read_yaml, write_yaml
from rbsf.train.distributed import Process
from rbsf.train.loop import CHECKPOINT, LoopConfig, Stopped
from rbsf.train.rectify import RectifyConfig

# Settings that may be others when a training is resumed: where and how it runs, how long, what it is validated on, and
# the rates, which are lowered after a loss that was not finite.
CHANGEABLE = {"out", "resume", "device", "workers", "threads", "epochs", "save_minutes", "log_every"}
CHANGEABLE |= {"compile", "capture"}
CHANGEABLE |= {"lr_binary", "lr_real", "lr_norm", "lr_c", "lr_discriminator"}
CHANGEABLE |= {"data", "root", "teacher", "val", "val_sequences", "val_frames", "check", "skip_broken"}
NO_RESULT = {"out", "root", "resume", "device", "workers", "threads"}  # settings that do not decide the result
NO_RESULT |= {"save_minutes", "log_every", "compile", "capture", "check", "skip_broken", "val_frames"}
PATHS = ("teacher", "out", "val", "root", "data")  # settings that are paths: of them only the last part travels


@dataclass
class RunConfig(LoopConfig, RectifyConfig):
    """Settings of any training; written as config.yaml beside its weights."""

    teacher: str | None = field(
        default=None, metadata={"help": "float weights: .safetensors, siamfc-pytorch .pth, or .npz"}
    )
    out: str = field(default="runs/rbsf", metadata={"help": "folder for weights, checkpoint and logs"})
    resume: bool = field(default=False, metadata={"help": "continue the training in --out"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto"})
    precision: str = field(
        default="auto",
        metadata={
            "help": "bfloat16 where the device is fast at it, or as said",
            "choices": ("auto", "float32", "bfloat16"),
        },
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks (needs a C++ compiler; pays on GPUs)"})
    workers: int = field(default=2, metadata={"help": "processes that read samples; 0 = none"})
    threads: int = field(default=0, metadata={"help": "CPU threads of the network; 0 = all cores"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        LoopConfig.__post_init__(self)
        RectifyConfig.__post_init__(self)
        self.check_least(workers=0, threads=0, seed=0, warmup=0, save_minutes=0)

    @property
    def result_file(self) -> str:
        """What a training writes last into its folder: there, it is done."""
        raise NotImplementedError

    def folder_name(self) -> str:
        """Where trainings with these settings are kept, below the folder of a table."""
        raise NotImplementedError

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, as far as they are not the defaults."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in settings.items() if k not in NO_RESULT and v not in (getattr(type(self), k, []), [])}

    def digest(self) -> str:
        """Eight hex digits of the decisive settings."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()[:8]

    def check_least(self, **least: int) -> None:
        """Raise ValueError for a field that is less than said."""
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {value} or more")


Config = TypeVar("Config", bound=RunConfig)


def resumed(cls: type[Config], settings: dict[str, Any]) -> Config:
    """The settings of the training in `out` with `settings` on top.

    FileNotFoundError where there is none; ValueError for a setting that would make it another training.
    """
    base = Path(settings.get("out", cls.out)) / "config.yaml"
    if not base.is_file():
        raise FileNotFoundError(f"nothing to resume: no {base}; start without --resume")
    trained = read_yaml(cls, base)
    before = dataclasses.asdict(cls(**trained))  # what an older version did not know had its default
    for name, value in settings.items():
        if name not in CHANGEABLE and value != before[name]:
            raise ValueError(f"{base}: trained with {name} {before[name]}, not {value}; resume with {before[name]}")
    return cls(**{**trained, **settings})


def run_training(config: RunConfig, body: Callable[[Process], None]) -> int:
    """Run `body` as this process of the training; 0 when done, 128 + signal when stopped.

    ValueError where the folder holds a training that is not to be resumed.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = Path(config.out)
    if not config.resume and any((f / CHECKPOINT).is_file() for f in (folder, folder / "teacher")):
        raise ValueError(f"{folder} holds a training already; add --resume to continue it, or choose another --out")
    device = choose_device(config.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # batches are of one size: the first ones choose for all
    process = distributed.start(device)
    try:
        if process.rank == 0 and not config.resume:
            write_yaml(config, folder / "config.yaml")  # so that --resume works from here on
        body(process)
        distributed.wait_for_all()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
    finally:
        distributed.stop()
    return 0


def saved_state(config: RunConfig) -> dict[str, Any] | None:
    """The checkpoint to continue from, if that is asked for and there is one."""
    checkpoint = Path(config.out) / CHECKPOINT
    return load_checkpoint(checkpoint) if config.resume and checkpoint.is_file() else None


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, channels last."""
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPUs and on CPUs with matrix tiles (AMX), where it is several times as fast."""
    if precision != "auto":
        return getattr(torch, precision)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device.type == "cuda" or tiles() else torch.float32


def describe_place(config: RunConfig, process: Process) -> str:
    """Such as "1 x cpu in bfloat16"."""
    dtype = str(dtype_of(config.precision, process.device)).removeprefix("torch.")
    return f"{process.world} x {process.device.type} in {dtype}"


def write_record(config: RunConfig, world: int) -> None:
    """What a result needs to be repeated, beside its weights; `environment.json` has an entry for each start."""
    folder = Path(config.out)
    write_yaml(dataclasses.replace(config, resume=False), folder / "config.yaml")
    record = folder / "environment.json"
    starts = json.loads(record.read_text()) if config.resume and record.is_file() else []
    write_atomically(record, json.dumps([*starts, environment() | {"processes": world}], indent=1).encode())


def provenance(config: RunConfig, world: int) -> dict[str, Any]:
    """What goes into a weights file about its training.  Of paths only the last part: weights travel, folders don't."""
    settings = dataclasses.asdict(config)
    for name in PATHS:
        if value := settings.get(name):
            settings[name] = [Path(path).name for path in value] if isinstance(value, list) else Path(value).name
    return {"config": settings, **{k: v for k, v in environment().items() if k != "command"}, "processes": world}


def report_size(path: Path, folder: Path) -> None:
    """Print what a training has made."""
    text = f"{path}: {path.stat().st_size / 1e6:.2f} MB; curves: {folder / 'losses.png'}"
    with suppress(ImportError):  # Windows has none
        import resource

        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        text += f"; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.0f} MB"
    print(text)
