"""The training of RB-SF 2 from a published tracker of two graphs: settings, networks, validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rbsf.datasets.pairs.mixing import MixConfig, check_range
from rbsf.datasets.pairs.pair_dataset import AugmentConfig, PairDataset, make_loader
from rbsf.datasets.pairs.training_data import open_training_data
from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.metrics import mean_curves, score_sequence
from rbsf.eval.runner import track_sequence
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, map_statistics
from rbsf.models import build
from rbsf.models.rbsf2 import FLOAT, Block, Sums
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.common import (
    RunConfig,
    dtype_of,
    place,
    provenance,
    report_size,
    resumed,
    run_training,
    saved_state,
    write_record,
)
from rbsf.tools.recipes.presence import options_of, presence_auc, with_presence
from rbsf.tools.recipes.siamese import Batches, open_pairs
from rbsf.tools.recipes.validation import Validate
from rbsf.tracker.anchor_free import AnchorFree
from rbsf.tracker.distill import DistillTask, PresenceTask, answers
from rbsf.tracker.rbsf2 import TorchNetwork
from rbsf.tracker.teachers.pair import OnnxPair, read_pair
from rbsf.train import distributed
from rbsf.train.config import parse_config, read_yaml
from rbsf.train.distributed import Process
from rbsf.train.loop import Loop
from rbsf.train.rectify import Rectifier
from rbsf.weights import load_weights, save_weights

MEASURED = 8  # batches that the deviation of the teacher's features is taken from


@dataclass
class DistillConfig(AugmentConfig, MixConfig, RunConfig):
    """Everything about the training of RB-SF 2."""

    UNIT: ClassVar[str] = "pair"

    pairs: int = field(default=8000, metadata={"help": "pairs an epoch"})
    channels: str = field(default="64-128-256", metadata={"help": "of the stages at strides 4, 8 and 16"})
    depths: str = field(default="2-3-3", metadata={"help": "blocks of the stages"})
    stem: int = field(default=4, metadata={"help": "side of the first convolution's windows, whose stride is 4"})
    features: int = field(default=64, metadata={"help": "channels that template and search region are compared in"})
    head_depth: int = field(default=2, metadata={"help": "blocks of the head"})
    method: str = field(default="bireal", metadata={"help": "binarization method; float: the float twin"})
    twin: str | None = field(
        default=None, metadata={"help": "weights of the float twin, whose maps --gan and --lambda-match compare with"}
    )
    from_twin: bool = field(default=False, metadata={"help": "start from the weights of --twin"})
    presence_of: str | None = field(
        default=None, metadata={"help": "weights of RB-SF 2 that get a presence output; all else stays as it is"}
    )
    lambda_features: float = field(default=1.0, metadata={"help": "weight of the distance to the teacher's features"})
    lambda_target: float = field(default=1.0, metadata={"help": "weight of the divergence of the class maps"})
    lambda_sides: float = field(default=1.0, metadata={"help": "weight of the distance of the boxes"})
    data: list[str] = field(default_factory=list, metadata={"help": "dataset folder or crop store .db"})
    val: str | None = field(default=None, metadata={"help": "folder of sequences to track after each epoch"})
    val_frames: int = field(default=100, metadata={"help": "frames of each"})
    still_share: float = field(default=0.3, metadata={"help": "share of pairs made from still images"})
    data_share: float = field(default=1.0, metadata={"help": "share of the sequences to train on, for learning curves"})
    max_gap: int = field(default=100, metadata={"help": "frames of a video between the two of a pair at most"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        RunConfig.__post_init__(self)
        MixConfig.__post_init__(self)
        AugmentConfig.__post_init__(self)
        check_range("still_share", self.still_share, 1.0)
        self.check_least(pairs=1, max_gap=1, val_frames=2)
        for name in ("channels", "depths"):
            if not all(part.isdecimal() and int(part) for part in getattr(self, name).split("-")):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give whole numbers such as 64-128-256")
        if not self.presence_of and (not self.teacher or len(self.teacher.split(",")) != 2):
            raise ValueError(f"teacher is {self.teacher!r}; give two files, BACKBONE.onnx,HEAD.onnx")
        if self.from_twin and not self.twin:
            raise ValueError("from_twin is true without a twin; give its weights by --twin")
        if not self.data:
            raise ValueError("data is empty; give crop stores or folders by --data")

    @property
    def network(self) -> dict[str, Any]:
        """Options of the network."""
        stages = {name: [int(n) for n in getattr(self, name).split("-")] for name in ("channels", "depths")}
        return stages | {name: getattr(self, name) for name in ("stem", "features", "head_depth", "method")}

    @property
    def result_file(self) -> str:
        """What a training writes last."""
        return "rbsf2.safetensors"

    def folder_name(self) -> str:
        """See `RunConfig.folder_name`."""
        return f"rbsf2-seed{self.seed}-{self.digest()}"

    def decisive(self) -> dict[str, Any]:
        """See `RunConfig.decisive`; the teacher by what its files hold."""
        settings = super().decisive()
        for name in ("teacher", "twin", "presence_of"):
            if given := getattr(self, name):
                content = b"".join(Path(part).read_bytes() for part in given.split(","))
                settings[name] = hashlib.sha256(content).hexdigest()
        return settings


def read_settings(argv: list[str] | None, description: str = "") -> DistillConfig:
    """configs/rbsf2.yaml (on --resume: the run's own settings), then --config, then flags.

    For --presence-of configs/rbsf2-presence.yaml goes between.
    """
    defaults = read_yaml(DistillConfig, CONFIGS / "rbsf2.yaml")
    settings = parse_config(DistillConfig, argv, description, defaults)
    if settings.get("presence_of"):
        defaults |= read_yaml(DistillConfig, CONFIGS / "rbsf2-presence.yaml")
    if settings.get("resume"):
        return resumed(DistillConfig, settings)
    return DistillConfig(**{**defaults, **settings})


def train_all(config: DistillConfig) -> int:
    """Train what `config` says; 0 when done, 128 + signal when stopped."""
    return run_training(config, lambda process: train(config, process))


def train(config: DistillConfig, process: Process) -> None:
    """One training, from data to OUT/rbsf2.safetensors."""
    rank, world, device = process
    folder, state = Path(config.out), saved_state(config)
    with distributed.first_process_first(rank):
        stores, held_out = open_training_data(
            [Path(path) for path in config.data], folder.parent, None, 0, skip_broken=True, prepare_missing=rank == 0
        )
    length = sum(config.steps(world, config.bn_pass)) * config.batch_size * world
    dataset = open_pairs(config, stores, held_out, length)
    rectifier = build_rectifier(config, dataset, device)
    loop = Loop(rectifier, Batches(dataset, config, rank, world), config, folder, validation(config), rank, world)
    if state:
        loop.load(state)
    if rank == 0:
        write_record(config, world)
        print(f"rbsf2: {dataset.describe()}; into {folder}")
    loop.run()
    if rank == 0:
        final = folder / config.result_file
        save_weights(rectifier.student, "rbsf2", final, provenance(config, world))
        report_size(final, folder)


def build_rectifier(config: DistillConfig, dataset: PairDataset, device: torch.device) -> Rectifier:
    """The student, from new weights, and what it learns; for --presence-of that network and its presence output."""
    torch.manual_seed(config.seed)
    if config.presence_of:
        return Rectifier(place(with_presence(config.presence_of), device), None, PresenceTask(), config)
    student = place(build("rbsf2", **config.network), device)
    for sums in (module for module in student.modules() if isinstance(module, Sums)):
        sums.gradients = dtype_of(config.precision, device)
    source: OnnxPair = read_pair(*str(config.teacher).split(",")).to(device)
    task = DistillTask(source, config.lambda_features, config.lambda_target, config.lambda_sides)

    def batches(count: int) -> Iterator[dict[str, Tensor]]:
        for batch in islice(make_loader(dataset, config.batch_size), count):
            yield {key: value.to(device) for key, value in batch.items()}

    task.measure(list(batches(MEASURED)))
    if not config.twin:
        return Rectifier(student, None, task, config)
    twin = place(load_twin(config.twin, student), device)
    if config.from_twin:
        start_from_twin(student, twin)
    points = [f"{name}.norm" for name, module in student.named_modules() if isinstance(module, Block)]
    stats = map_statistics(twin, points, partial(answers, twin), batches(CALIBRATION))
    return Rectifier(student, twin if config.gan or config.lambda_match else None, task, config, stats)


def load_twin(path: str, student: nn.Module) -> nn.Module:
    """The float twin of `student`; ValueError for any other network."""
    twin, model, _ = load_weights(path)
    options, own = options_of(twin), options_of(student)
    if model != "rbsf2" or options.get("method") != FLOAT:
        raise ValueError(f"--twin {path}: holds {model}, no float twin of RB-SF 2; train one with --method float")
    if differing := [key for key in own if key != "method" and options.get(key) != own[key]]:
        key = differing[0]
        raise ValueError(f"--twin {path}: its {key} is {options.get(key)}, that of the network {own[key]}")
    return twin


def start_from_twin(student: nn.Module, twin: nn.Module) -> None:
    """Give `student` the twin's tensors, its real filters as latent binary ones."""
    student.load_state_dict(twin.state_dict(), strict=False)
    for layer in binary_layers(student).values():
        layer.set_weight(layer.weight.detach())


def validation(config: DistillConfig) -> Validate | None:
    """AUC and precision of the first frames of --val's sequences, tracked; None where there are none.

    For --presence-of it is how well presence tells these targets from one another, see `presence_auc`.
    """
    if not config.val:
        return None
    if config.presence_of:
        sequences = load_sequences(Path(config.val))
        if len(sequences) < 2:
            raise ValueError(f"--val {config.val}: holds one sequence; presence is looked at between two or more")
        return lambda net: {"val_presence": presence_auc(net, sequences)}
    heads = [sequence.part(0, min(config.val_frames, len(sequence))) for sequence in load_sequences(Path(config.val))]

    def validate(net: nn.Module) -> dict[str, float]:
        curves = []
        for head in tqdm(heads, desc="validation", unit="sequence", leave=False):
            curves.append(score_sequence(track_sequence(AnchorFree(TorchNetwork(net)), head).boxes, head.boxes))
        mean = mean_curves(curves).scores
        return {"val_auc": mean.auc, "val_precision": mean.precision}

    return validate
