"""Settings of the training of a tracker, and where they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbsf.models import TRACKERS, WHOLE
from rbsf.models.alexnet import check_width
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.pairs import PairConfig
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.config import check_least, from_settings, parse_config, read_yaml, setting
from rbsf.train.run_config import resumed


@dataclass
class SiameseConfig(PairConfig):
    """Everything about the training of a tracker of SiamFC's form."""

    model: str = setting(
        "rbsf",
        "Train this network; rbsf2 has other settings, see --model rbsf2 --help",
        choices=tuple(TRACKERS),
        metavar=f"{{{','.join([*TRACKERS, *WHOLE])}}}",
    )
    teacher: str | None = setting(
        None,
        "Learn from the float network in this file instead of the shipped one: .safetensors,"
        " .npz, or .pth of siamfc-pytorch",
        path=True,
    )
    width: float = setting(
        1.0, "Multiply the hidden channels by this; they are rounded to multiples of 32"
    )
    skip_broken: bool = setting(
        False,
        "Leave out the sequences whose boxes cannot be read or do not match their frames",
        changeable=True,
        decisive=False,
    )
    val_sequences: int = setting(
        4,
        "Track N sequences after each epoch; without --val they are held out of --data",
    )
    response_match: float = setting(1.0, "Weigh the distance to the teacher's response map by this")
    scratch: bool = setting(False, "Start from random weights instead of the teacher's")
    own_teacher: bool = setting(
        False, "Train a float teacher on the same data first, instead of using the shipped one"
    )
    correlation_bits: bool = setting(
        False,
        "Train for tracking with the shipped constants bits, which correlate the signs of features",
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        super().__post_init__()
        check_width(self.width)
        check_least(self, val_sequences=0)
        if self.scratch and not self.algorithm.lr_real:
            problem = "from scratch the real layers would stay random"
            raise ValueError(f"lr_real is 0: {problem}; give a rate such as 1e-3")

    @property
    def constants(self) -> TrackerConfig:
        """The tracker's own constants, with the correlation that the network was trained for."""
        return TrackerConfig(correlation="bits" if self.correlation_bits else "float")

    @property
    def result_file(self) -> str:
        """The file that a training writes last, for a tracker; packed for a 1-bit network."""
        if self.model == "siamfc":
            return f"{self.model}.safetensors"
        return f"{self.model}-packed.safetensors"

    def folder_name(self) -> str:
        """The folder of trainings with these settings, inside the folder of a table."""
        return f"{self.model}-seed{self.seed}-{self.digest()}"

    def decisive(self) -> dict[str, Any]:
        """See `RunConfig.decisive`; files of data count by name and size, the teacher by content.

        Raises FileNotFoundError if data or teacher is missing.
        """
        settings = super().decisive()
        if self.data:
            settings["data"] = [_describe_data(Path(path)) for path in self.data]
        if self.teacher:
            if not Path(self.teacher).is_file():
                raise FileNotFoundError(
                    f"no teacher {self.teacher}; give the weights of a float SiamFC by --teacher"
                )
            settings["teacher"] = hashlib.sha256(Path(self.teacher).read_bytes()).hexdigest()
        return settings


def _describe_data(path: Path) -> str:
    """Name and size of a file, which a copy shares; of a folder, its path."""
    if not path.exists():
        raise FileNotFoundError(f"no training data {path}; give a crop store or a folder by --data")
    if path.is_file():
        return f"{path.name} {path.stat().st_size}"
    return str(path.resolve())


def read_config(argv: list[str] | None, description: str = "", example: str = "") -> SiameseConfig:
    """Read the model's file in configs/, then --config, then flags; later ones take precedence.

    On --resume, the settings of the training replace the model's file.
    """
    defaults = model_defaults(SiameseConfig.model)
    settings = parse_config(SiameseConfig, argv, description, defaults, example)
    if settings.get("resume"):
        return resumed(SiameseConfig, settings)
    defaults = model_defaults(settings.get("model", SiameseConfig.model))
    if not settings.get("data"):
        defaults |= read_yaml(SiameseConfig, CONFIGS / "tryout.yaml")
    return from_settings(SiameseConfig, defaults | settings)


def model_defaults(model: str) -> dict[str, Any]:
    """The settings of configs/MODEL.yaml.

    Raises ValueError if there is no such model.
    """
    if model not in TRACKERS:
        raise ValueError(f"model is {model!r}; known: {', '.join(TRACKERS)}")
    return read_yaml(SiameseConfig, CONFIGS / f"{model}.yaml")
