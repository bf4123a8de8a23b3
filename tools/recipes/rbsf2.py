"""Trains RB-SF 2 from a published tracker (two ONNX graphs), or only its presence output.

`tools/train_rbsf.py --model rbsf2` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rbsf.datasets.pairs.crop_store import CropStore
from rbsf.datasets.pairs.training_data import open_stores
from rbsf.datasets.video.sequences import Sequence, load_sequences
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, map_statistics
from rbsf.models import WHOLE, build
from rbsf.models.rbsf2 import FLOAT, TEACHER_FEATURES, Block, check_method, lower_gradients
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.pairs import PairConfig, PairRecipe
from rbsf.tools.recipes.presence import options_of, presence_auc, with_presence
from rbsf.tools.recipes.yardsticks import digest_of, kept, still_and_shipped, track_heads
from rbsf.tracker.anchor_free import AnchorFree
from rbsf.tracker.distill import DistillTask, PresenceTask, answers
from rbsf.tracker.onnx_pair import split_pair
from rbsf.tracker.rbsf2 import TorchNetwork
from rbsf.tracker.teachers.pair import TeacherPair, read_pair
from rbsf.train import distributed
from rbsf.train.config import from_settings, parse_config, read_yaml, setting
from rbsf.train.device import dtype_of, place
from rbsf.train.rectify import Rectifier
from rbsf.train.run_config import resumed
from rbsf.train.trainer import Validate
from rbsf.weights import load_weights

MEASURED = 8  # batches from which the deviation of the teacher's features is measured


@dataclass
class DistillConfig(PairConfig):
    """Everything about the training of RB-SF 2."""

    model: str = setting("rbsf2", "Train this network", choices=tuple(WHOLE), decisive=False)
    teacher: str | None = setting(
        None,
        "Learn from the published tracker in these two files",
        metavar="BACKBONE.onnx,HEAD.onnx",
        path=True,
    )
    val_frames: int = setting(
        100,
        "Track N frames of each sequence of --val",
        changeable=True,
        decisive=False,
    )
    channels: str = setting(
        "64-128-256", "Give the stages at strides 4, 8 and 16 these numbers of channels"
    )
    depths: str = setting("2-3-3", "Give the stages these numbers of blocks")
    stem: int = setting(
        4, "Width and height in pixels of the first convolution's windows, whose stride is 4"
    )
    features: int = setting(64, "Compare template and search region in N channels")
    head_depth: int = setting(2, "Give the head N blocks")
    method: str = setting(
        "bireal", "Binarize by this method; float trains the float network of the same form"
    )
    twin: str | None = setting(
        None,
        "Let --gan and --lambda-match compare with the maps of the float network of the same form"
        " in this file",
        path=True,
    )
    from_twin: bool = setting(False, "Start from the weights of --twin")
    presence_of: str | None = setting(
        None,
        "Give the RB-SF 2 in this file a presence output, and train that alone",
        path=True,
    )
    lambda_features: float = setting(1.0, "Weigh the distance to the teacher's features by this")
    lambda_target: float = setting(
        1.0, "Weigh the divergence from the teacher's class maps by this"
    )
    lambda_sides: float = setting(1.0, "Weigh the distance to the teacher's boxes by this")

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        super().__post_init__()
        _check_numbers("channels", self.channels, least=1)
        _check_numbers("depths", self.depths, least=0)
        if not self.presence_of:
            split_pair(self.teacher)
        if self.from_twin and not self.twin:
            raise ValueError("from_twin is true without a twin; give its weights by --twin")
        if self.method != FLOAT:
            check_method(self.method)
        if self.machine.compile:
            raise ValueError("compile is true; RB-SF 2 is trained uncompiled, leave it out")
        if not self.data:
            raise ValueError("data is empty; give crop stores or folders by --data")

    @property
    def network(self) -> dict[str, Any]:
        """Options of the network."""
        return {
            "channels": [int(part) for part in self.channels.split("-")],
            "depths": [int(part) for part in self.depths.split("-")],
            "stem": self.stem,
            "features": self.features,
            "head_depth": self.head_depth,
            "method": self.method,
        }


def _check_numbers(name: str, text: str, least: int) -> None:
    """Raise ValueError unless the setting `name` is made of whole numbers, such as 2-3-3."""
    parts = text.split("-")
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        example = "64-128-256" if least else "0-3-3"
        raise ValueError(f"{name} is {text!r}; give whole numbers of {least} or more, as {example}")


def read_config(argv: list[str] | None, description: str = "", example: str = "") -> DistillConfig:
    """Read configs/rbsf2.yaml, then --config, then flags; later ones override earlier ones.

    With --presence-of, configs/rbsf2-presence.yaml is read after the first. On --resume, the
    settings of the training replace these two files.
    """
    defaults = read_yaml(DistillConfig, CONFIGS / "rbsf2.yaml")
    settings = parse_config(DistillConfig, argv, description, defaults, example)
    if settings.get("presence_of"):
        defaults |= read_yaml(DistillConfig, CONFIGS / "rbsf2-presence.yaml")
    if settings.get("resume"):
        return resumed(DistillConfig, settings)
    return from_settings(DistillConfig, defaults | settings)


class DistilledRecipe(PairRecipe[DistillConfig]):
    """See the module."""

    model = "rbsf2"

    def open_data(self) -> tuple[list[CropStore], list[Sequence]]:
        """See `PairRecipe`; the validation sequences are not taken from the data."""
        data = [Path(path) for path in self.config.data]
        cache, first = self.config.shared, self.process.rank == 0
        with distributed.first_process_first(self.process.rank):
            return open_stores(data, cache, skip_broken=True, prepare_missing=first), []

    def check_teacher(self) -> None:
        """See `Recipe`."""
        if not self.config.presence_of:
            _read_teacher(self.config)

    def untrained(self) -> nn.Module:
        """See `Recipe`; with --presence-of, that network with a new presence output."""
        if self.config.presence_of:
            return with_presence(self.config.presence_of)
        return build("rbsf2", **self.config.network)

    def build(self) -> Rectifier:
        """The student, with new weights, and its training.

        With --presence-of, the student is that network, and only its presence output learns.
        """
        config, device = self.config, self.process.device
        torch.manual_seed(config.seed)
        student = place(self.untrained(), device)
        if config.presence_of:
            return Rectifier(student, None, PresenceTask(), config.algorithm)
        lower_gradients(student, dtype_of(config.machine.precision, device))
        source = _read_teacher(config).to(device)
        weights = config.lambda_features, config.lambda_target, config.lambda_sides
        task = DistillTask(source, *weights)
        task.measure(list(self.some_batches(MEASURED)))
        if config.twin:
            return self._beside_twin(student, task)
        return Rectifier(student, None, task, config.algorithm)

    def _beside_twin(self, student: nn.Module, task: DistillTask) -> Rectifier:
        """The training of the student, whose maps are compared with those of its float twin."""
        config = self.config
        twin = place(load_twin(str(config.twin), student), self.process.device)
        if config.from_twin:
            start_from_twin(student, twin)
        modules = student.named_modules()
        points = [f"{name}.norm" for name, module in modules if isinstance(module, Block)]
        stats = map_statistics(twin, points, partial(answers, twin), self.some_batches(CALIBRATION))
        teacher = twin if config.algorithm.compares_maps else None
        return Rectifier(student, teacher, task, config.algorithm, stats)

    def validation(self) -> Validate | None:
        """AUC and precision of tracking the first frames of --val's sequences; None without --val.

        With --presence-of, it is how well presence tells these targets apart, see `presence_auc`.

        Raises ValueError for --presence-of with a single sequence.
        """
        config = self.config
        if not config.val:
            return None
        if not config.presence_of:
            heads = self._heads
            return lambda net: track_heads(AnchorFree(TorchNetwork(net)), heads)
        sequences = load_sequences(Path(config.val))
        if len(sequences) < 2:
            raise ValueError(
                f"--val {config.val}: holds one sequence; presence is looked at between two or more"
            )
        return lambda net: {"val_presence": presence_auc(net, sequences)}

    def yardsticks(self) -> dict[str, dict[str, float]]:
        """See `rbsf.tools.recipes.yardsticks`; for presence, the score of a guess."""
        config = self.config
        if config.presence_of:
            return {"a guess": {"val_presence": 0.5}}
        heads, threads = self._heads, config.machine.threads
        return kept(self.folder, digest_of(heads), lambda: still_and_shipped(heads, threads))

    @cached_property
    def _heads(self) -> list[Sequence]:
        """The first frames of the sequences of --val."""
        sequences = load_sequences(Path(str(self.config.val)))
        return [sequence.head(self.config.val_frames) for sequence in sequences]


def _read_teacher(config: DistillConfig) -> TeacherPair:
    """The teacher. Raises ValueError if a new RB-SF 2 cannot learn its features."""
    teacher = read_pair(*split_pair(config.teacher))
    if teacher.channels != TEACHER_FEATURES:
        raise ValueError(
            f"--teacher {config.teacher} has {teacher.channels} features a place, but RB-SF 2"
            f" learns from {TEACHER_FEATURES}, as NanoTrack v3 has"
        )
    return teacher


def load_twin(path: str, student: nn.Module) -> nn.Module:
    """The float twin of `student`.

    Raises ValueError for any other network.
    """
    twin, model, _ = load_weights(path)
    options, own = options_of(twin), options_of(student)
    if model != "rbsf2" or options.get("method") != FLOAT:
        raise ValueError(
            f"--twin {path}: holds {model}, no float twin of RB-SF 2; train one with --method float"
        )
    for key, value in own.items():
        if key != "method" and options.get(key) != value:
            found = f"its {key} is {options.get(key)}, that of the network {value}"
            raise ValueError(f"--twin {path}: {found}")
    return twin


def start_from_twin(student: nn.Module, twin: nn.Module) -> None:
    """Give `student` the twin's tensors; the real filters become latent binary ones."""
    student.load_state_dict(twin.state_dict(), strict=False)
    for layer in binary_layers(student).values():
        layer.set_weight(layer.weight.detach())
