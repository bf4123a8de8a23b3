"""Which engine runs a network's file, and what it is called: packed bits, or PyTorch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rbsf.engine.file import packed_task, read_metadata, read_packed
from rbsf.engine.graph import PackedModel
from rbsf.tracker import ENGINES


def check_on_cpu(device: str) -> None:
    """Raise ValueError for a device that the packed engine does not run on."""
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device {device!r}: the packed engine runs on the CPU; add --engine torch"
        )


def describe_engine(network: object) -> str:
    """The engine of a network, such as "packed engine, instruction set avx2, 2 threads"."""
    return str(network) if hasattr(network, "isa") else "PyTorch"


def describe_run(network: object, device: str, precision: str) -> str:
    """The engine and threads of a network; for PyTorch also its device and precision.

    `device` and `precision` are those with which it was loaded.
    """
    if hasattr(network, "isa"):
        return describe_engine(network)
    import torch

    from rbsf.train.device import choose_device

    threads = torch.get_num_threads()
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{describe_engine(network)} on {choose_device(device)}, {precision}, {count}"


def choose_engine(path: str | Path, engine: str = "auto") -> tuple[Path, str]:
    """The file to load, and the engine that runs it: "packed" or "torch".

    "auto" runs packed files in the packed engine, and others in PyTorch. For "torch" with a packed
    file, the result is the file next to it from which it was exported: NAME.safetensors for
    NAME-packed.safetensors, else NAME-train.safetensors. For "packed" with 1-bit weights, these are
    packed on loading. Raises ValueError for an unknown engine, for a packed classifier, and if the
    network for PyTorch is missing.
    """
    path = Path(path)
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}: give one of {', '.join(ENGINES)}")
    task = packed_task(read_metadata(path))
    if task == "classifier":
        raise ValueError(
            f"{path}: a packed classifier, no tracker;"
            " give a tracker such as weights/rbsf.safetensors"
        )
    if not task:
        return path, "torch" if engine == "auto" else engine
    if engine == "torch":
        return _trained_form(path), "torch"
    return path, "packed"


def is_packed(path: str | Path) -> bool:
    """Whether a file holds a packed tracker, according to its header."""
    return packed_task(read_metadata(path)) == "tracker"


def _trained_form(path: Path) -> Path:
    """The network file from which a packed file was exported; raises ValueError if missing."""
    stem = path.stem.removesuffix("-packed")
    if stem == path.stem:
        stem = f"{stem}-train"
    trained = path.with_stem(stem)
    if not trained.is_file():
        raise ValueError(
            f"{path} is packed, and PyTorch needs the network it came from, {trained},"
            " which is not there"
        )
    digest = hashlib.sha256(trained.read_bytes()).hexdigest()
    if read_packed(path).info.get("source_sha256") != digest:
        raise ValueError(
            f"{trained} is not what {path} was exported from; give the file that PyTorch shall run"
        )
    return trained


def packed_model(path: Path) -> PackedModel:
    """The packed form of a network's file; 1-bit weights that are not packed are packed.

    Raises ValueError for a damaged file and for a float network.
    """
    if is_packed(path):
        return read_packed(path)
    from rbsf.export.pack import packed_weights

    try:
        return packed_weights(path).packed
    except ValueError as error:
        raise ValueError(f"{path}: {error}; leave out --engine packed") from None
