"""What comes with the code: trained weights and configuration files, by their paths or by short
names.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WEIGHTS = (FOLDER / "weights").resolve()
CONFIGS = (FOLDER / "configs").resolve()


def find_weights(name: str | Path) -> Path:
    """The file `name`, or where there is none the shipped weights of that name, such as ``rbsf``."""
    return _find(name, WEIGHTS, ".safetensors")


def find_constants(name: str | Path) -> Path:
    """The file `name`, or where there is none the shipped tracking constants of that name, such as
    ``fast``.
    """
    return _find(name, CONFIGS / "track", ".yaml")


def find_config(name: str | Path) -> Path:
    """The file `name`, or where there is none the shipped configuration of that name, such as
    ``long``.
    """
    tracker = _find(name, CONFIGS, ".yaml")
    return tracker if tracker.is_file() else _find(name, CONFIGS / "classify", ".yaml")


def _find(name: str | Path, folder: Path, suffix: str) -> Path:
    """`name` itself where it is a file or nothing shipped is called so."""
    path = Path(name)
    shipped = folder / f"{name}{suffix}"
    return shipped if not path.is_file() and len(path.parts) == 1 and shipped.is_file() else path
