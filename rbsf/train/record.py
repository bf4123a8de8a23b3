"""What a training leaves beside its weights, so that it can be repeated."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rbsf.system.environment import environment
from rbsf.system.files import write_atomically
from rbsf.system.text import read_text
from rbsf.train.config import as_settings, settings_of, write_yaml
from rbsf.train.device import dtype_of
from rbsf.train.distributed import Process
from rbsf.train.run_config import RunConfig


def describe_place(config: RunConfig, process: Process) -> str:
    """Such as "1 x cpu in bfloat16"."""
    dtype = str(dtype_of(config.machine.precision, process.device)).removeprefix("torch.")
    return f"{process.world} x {process.device.type} in {dtype}"


def write_record(config: RunConfig, world: int) -> None:
    """Write what is needed to repeat the training: `config.yaml` and `environment.json`.

    The latter has an entry for each start.
    """
    folder = Path(config.out)
    write_yaml(dataclasses.replace(config, resume=False), folder / "config.yaml")
    record = folder / "environment.json"
    starts = _read_starts(record) if config.resume and record.is_file() else []
    this_start = environment() | {"processes": world}
    write_atomically(record, json.dumps([*starts, this_start], indent=1).encode())


def _read_starts(record: Path) -> list[Any]:
    """The starts before, in `environment.json`. Raises ValueError where it holds anything else."""
    try:
        starts = json.loads(read_text(record))
    except (json.JSONDecodeError, RecursionError):
        starts = None
    if not isinstance(starts, list):
        raise ValueError(f"{record}: no JSON list of a training's starts; remove it to go on")
    return starts


def provenance(config: RunConfig, world: int) -> dict[str, Any]:
    """What goes into a weights file about its training.

    Of a path it is the last part alone: weights travel, folders do not.
    """
    values = as_settings(config)
    for name, each in settings_of(type(config)).items():
        if each.metadata["path"] and values[name]:
            values[name] = _last_part(values[name])
    place = {name: value for name, value in environment().items() if name != "command"}
    return {"config": values, **place, "processes": world}


def _last_part(paths: str | list[str]) -> str | list[str]:
    """The name that a path ends in, or those of several paths."""
    if isinstance(paths, str):
        return Path(paths).name
    return [Path(path).name for path in paths]


def report_size(path: Path, folder: Path) -> None:
    """Print what a training has made."""
    text = f"{path}: {path.stat().st_size / 1e6:.2f} MB; curves: {folder / 'losses.png'}"
    with suppress(ImportError):  # Windows has none
        import resource

        units_per_mb = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes, or kilobytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mb
        text += f"; peak memory {peak:.0f} MB"
    print(text)
