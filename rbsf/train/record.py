"""Records that a training writes next to its weights, so that it can be repeated."""

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
from rbsf.train.device import dtype_of, name_of
from rbsf.train.distributed import Process
from rbsf.train.run_config import RunConfig, last_part


def describe_place(config: RunConfig, process: Process) -> str:
    """Text such as "1 x cpu in bfloat16"."""
    dtype = name_of(dtype_of(config.machine.precision, process.device))
    return f"{process.world} x {process.device.type} in {dtype}"


def write_record(config: RunConfig, world: int) -> None:
    """Write the files needed to repeat the training: `config.yaml` and `environment.json`.

    `environment.json` has an entry for each start.
    """
    folder = Path(config.out)
    write_yaml(dataclasses.replace(config, resume=False), folder / "config.yaml")
    record = folder / "environment.json"
    starts = read_starts(record) if config.resume and record.is_file() else []
    this_start = environment() | {"processes": world}
    write_atomically(record, json.dumps([*starts, this_start], indent=1).encode())


def read_starts(record: Path) -> list[Any]:
    """Earlier starts in `environment.json`. Raises ValueError if it holds anything else."""
    try:
        starts = json.loads(read_text(record))
    except (json.JSONDecodeError, RecursionError):
        starts = None
    if not isinstance(starts, list):
        raise ValueError(f"{record}: no JSON list of a training's starts; remove it to go on")
    return starts


def provenance(config: RunConfig, world: int) -> dict[str, Any]:
    """The information about its training that goes into a weights file.

    Only the last part of a path is kept, since weights are copied to other machines without the
    folders.
    """
    values = as_settings(config)
    for name, each in settings_of(type(config)).items():
        if each.path and values[name]:
            values[name] = last_part(values[name])
    place = {name: value for name, value in environment().items() if name != "command"}
    return {"config": values, **place, "processes": world}


def report_size(path: Path, folder: Path) -> None:
    """Print the files of a finished training, their size, and the peak memory."""
    text = f"{path}: {path.stat().st_size / 1e6:.2f} MB; curves: {folder / 'losses.png'}"
    with suppress(ImportError):  # Windows lacks the module
        import resource

        units_per_mb = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes, or kilobytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mb
        text += f"; peak memory {peak:.0f} MB"
    print(text)
