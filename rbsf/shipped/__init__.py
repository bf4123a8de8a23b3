"""What comes with the code: trained weights and configuration files.

Functions that find a file take a short name or the path of any file. A file of that path goes
first, then the shipped file of that name. Where there is neither, the path is returned as it is.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WEIGHTS = (FOLDER / "weights").resolve()
DEFAULT = "rbsf"  # the weights that programs use where none are named
TRAINED = "-train"  # ends the names of weights from which a packed file was exported
CONFIGS = (FOLDER / "configs").resolve()


def find_weights(name: str | Path) -> Path:
    """The path of the weights `name`; `rbsf` and `rbsf2` are shipped."""
    return _find(name, WEIGHTS, ".safetensors")


def find_trained(name: str | Path) -> Path:
    """The path of the weights `name`; of shipped ones, those from which they were packed."""
    trained = find_weights(f"{name}{TRAINED}")
    return trained if trained.is_file() and not Path(name).is_file() else find_weights(name)


def shipped_trackers() -> dict[str, Path]:
    """The weights of trackers that are shipped, by name.

    Those from which a packed file was exported are left out.
    """
    files = sorted(WEIGHTS.glob("*.safetensors"))
    return {path.stem: path for path in files if not path.stem.endswith(TRAINED)}


def find_constants(name: str | Path) -> Path:
    """The path of the tracking constants `name`; `fast` is shipped."""
    return _find(name, CONFIGS / "track", ".yaml")


def find_config(name: str | Path) -> Path:
    """The path of the configuration `name` of a training; `long` is shipped."""
    path = _find(name, CONFIGS, ".yaml")
    if path.is_file():
        return path
    return _find(name, CONFIGS / "classify", ".yaml")


def _find(name: str | Path, folder: Path, suffix: str) -> Path:
    """The file `name`, else the file of that name and `suffix` in `folder`, else `name` itself."""
    path = Path(name)
    if path.is_file() or len(path.parts) != 1:
        return path
    shipped = folder / f"{name}{suffix}"
    return shipped if shipped.is_file() else path
