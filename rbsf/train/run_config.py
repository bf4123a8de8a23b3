"""Settings that all trainings have.

Whether a setting may change, decides the result or is a path stands with the setting, see
`rbsf.train.config.setting`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rbsf.train.config import read_yaml, setting
from rbsf.train.loop import LoopConfig
from rbsf.train.rectify import RectifyConfig


@dataclass
class RunConfig(LoopConfig, RectifyConfig):
    """Settings of any training; written as config.yaml beside its weights."""

    teacher: str | None = setting(
        None,
        "float weights: .safetensors, siamfc-pytorch .pth, or .npz",
        changeable=True,
        path=True,
    )
    out: str = setting(
        "runs/rbsf",
        "folder for weights, checkpoint and logs",
        changeable=True,
        decisive=False,
        path=True,
    )
    resume: bool = setting(False, "continue the training in --out", changeable=True, decisive=False)
    device: str = setting("auto", "cpu, cuda, or auto", changeable=True, decisive=False)
    precision: str = setting(
        "auto",
        "bfloat16 where the device is fast at it, or as said",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = setting(
        False,
        "compile the networks (needs a C++ compiler; pays on GPUs)",
        changeable=True,
        decisive=False,
    )
    workers: int = setting(
        2, "processes that read samples; 0 = none", changeable=True, decisive=False
    )
    threads: int = setting(
        0, "CPU threads of the network; 0 = all cores", changeable=True, decisive=False
    )

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
        undecisive = without(type(self), "decisive")
        return {
            k: v
            for k, v in settings.items()
            if k not in undecisive and v not in (getattr(type(self), k, []), [])
        }

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

    FileNotFoundError where there is none; ValueError for a setting that would make it another
    training.
    """
    base = Path(settings.get("out", cls.out)) / "config.yaml"
    if not base.is_file():
        raise FileNotFoundError(f"nothing to resume: no {base}; start without --resume")
    trained = read_yaml(cls, base)
    before = dataclasses.asdict(
        cls(**trained)
    )  # what an older version did not know had its default
    changeable = marked(cls, "changeable")
    for name, value in settings.items():
        if name not in changeable and value != before[name]:
            raise ValueError(
                f"{base}: trained with {name} {before[name]}, not {value}; resume with {before[name]}"
            )
    return cls(**{**trained, **settings})


def marked(cls: type, mark: str) -> set[str]:
    """Names of the fields of a dataclass whose metadata says `mark`."""
    return {f.name for f in dataclasses.fields(cls) if f.metadata.get(mark)}


def without(cls: type, mark: str) -> set[str]:
    """Names of those whose metadata says that `mark` does not hold."""
    return {f.name for f in dataclasses.fields(cls) if f.metadata.get(mark) is False}
