"""Reads weights of networks: our own files, and float SiamFCs that were published elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from rbsf.tracker.teachers.siamfc import read_npz, read_pth
from rbsf.weights import checked, load_weights


def read_weights(path: str | Path) -> tuple[nn.Module, str, dict[str, Any]]:
    """A network, its model's name and its metadata, as `load_weights` returns them.

    `.safetensors` is our own format. Other files hold a float SiamFC: an `.npz` has `convN.weight`
    and `convN.bias`, with batch-norms folded in; `.pth` and `.pt` have the state dict of a
    siamfc-pytorch network. Raises FileNotFoundError for a missing file, ValueError for a damaged
    file and for a file with pickled code.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or not path.is_file():
        return load_weights(path)
    readers = {".npz": read_npz, ".pth": read_pth, ".pt": read_pth}
    if path.suffix not in readers:
        raise ValueError(
            f"{path}: weights end in .safetensors, {', '.join(readers)}, not {path.suffix!r}"
        )
    return checked(readers[path.suffix](path), path), "siamfc", {}
