"""Files that come with the code: trained weights and configuration files.

Functions that find a file take a short name or the path of any file. They return the file at that
path if it exists, else the shipped file of that name. If there is neither, they return the path
unchanged.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WEIGHTS = (FOLDER / "weights").resolve()
DEFAULT = "rbsf2"  # the weights that programs use if none are given
CLASSIFIER = "cifar100"  # the weights with which programs class images if none are given
TRAINED = "-train"  # suffix in the names of weights from which a packed file was exported
CONFIGS = (FOLDER / "configs").resolve()


def find_weights(name: str | Path) -> Path:
    """The path of the weights `name`; `rbsf2`, `rbsf`, `siamfc` and `cifar100` are shipped."""
    return _find(name, WEIGHTS, ".safetensors")


def find_trained(name: str | Path) -> Path:
    """The path of the weights `name`; for shipped ones, the weights before packing."""
    trained = find_weights(f"{name}{TRAINED}")
    return trained if trained.is_file() and not Path(name).is_file() else find_weights(name)


def shipped_trackers() -> dict[str, Path]:
    """The shipped weights of trackers, by name.

    Weights from which a packed file was exported are left out.
    """
    files = {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}
    return {
        name: path
        for name, path in files.items()
        if not name.endswith(TRAINED) and name != CLASSIFIER
    }


def find_constants(name: str | Path) -> Path:
    """The path of the tracking constants `name`; `fast`, `bits` and `siamfc` are shipped."""
    return _find(name, CONFIGS / "track", ".yaml")


def find_config(name: str | Path) -> Path:
    """The path of the training configuration `name`, such as `long` or `mnist`."""
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
