"""Train RB-SF, the 1-bit SiamFC tracker, or its float and XNOR-Net twins, from pairs of frames.

Without --data it trains on synthetic videos that it makes itself: a try-out, no more.  For a tracker to use give real
data: --data GOT-10k/train, or any folder of sequences, still images, or a crop store of tools/prepare_pairs.py.
RB-SF and XNOR-SF start from a float teacher: --teacher FILE, or one that is trained first.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from datasets.crops import CropStore
from datasets.pairs import PairDataset, make_loader
from rbsf import weights
from rbsf.files import write_atomically
from rbsf.layers import binary_layers
from rbsf.models import MODELS, build
from rbsf.rectify import MapRecorder, Rectifier, RectifyConfig, measure_maps, start_from_teacher
from rbsf.train import distributed
from rbsf.train.checkpoint import load_checkpoint
from rbsf.train.config import parse_config, read_yaml, write_yaml
from rbsf.train.loop import CHECKPOINT, Loop, LoopConfig, Stopped
from tools.cli import run
from tracker.task import SiameseTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CALIBRATION = 16  # batches over which the teacher's map statistics are measured


@dataclass
class TrainConfig(LoopConfig, RectifyConfig):
    """Everything about a training; written as config.yaml beside its weights."""

    model: str = field(default="rbsf", metadata={"help": "network to train", "choices": tuple(MODELS)})
    data: list[str] = field(default_factory=list, metadata={"help": "dataset folder (layout detected) or crop store .db"})
    teacher: str | None = field(default=None, metadata={"help": "float weights: .safetensors, siamfc-pytorch .pth, or .npz"})
    out: str = field(default="runs/rbsf", metadata={"help": "folder for weights, checkpoint and logs"})
    resume: bool = field(default=False, metadata={"help": "continue the training in --out"})
    val: str | None = field(default=None, metadata={"help": "folder of sequences to track after each epoch"})
    val_sequences: int = field(default=4, metadata={"help": "sequences tracked after each epoch; held out of --data without --val"})
    val_frames: int = field(default=60, metadata={"help": "frames of each"})
    response_match: float = field(default=1.0, metadata={"help": "weight of the distance to the teacher's response map"})
    still_share: float = field(default=0.3, metadata={"help": "share of pairs made from still images, where there are both"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto"})
    precision: str = field(
        default="auto",
        metadata={"help": "bfloat16 where the device is fast at it, or as said", "choices": ("auto", "float32", "bfloat16")},
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks (needs a C++ compiler; pays on GPUs)"})
    workers: int = field(default=2, metadata={"help": "processes that read pairs; 0 = none"})
    threads: int = field(default=0, metadata={"help": "CPU threads of the network; 0 = all cores"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        LoopConfig.__post_init__(self)
        RectifyConfig.__post_init__(self)
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; known: {', '.join(MODELS)}")
        for name in ("val_sequences", "val_frames", "workers", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def read_config(argv: list[str] | None) -> TrainConfig:
    """The model's file in configs/ (on --resume: the run's own), then --config, then flags."""
    _, settings = parse_config(TrainConfig, argv, __doc__ or "")
    model = settings.get("model", TrainConfig.model)
    base = CONFIGS / f"{model}.yaml"
    if settings.get("resume"):
        base = Path(settings.get("out", TrainConfig.out)) / "config.yaml"
        if not base.is_file():
            raise FileNotFoundError(f"nothing to resume: no {base}; start without --resume")
    return TrainConfig(**{**read_yaml(TrainConfig, base), **settings})


def main(argv: list[str] | None = None) -> int:
    """Train; 0 when done, 128 + signal when stopped."""
    config = read_config(argv)
    config.device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    rank, world, device = distributed.start(config.device)
    try:
        if config.model != "siamfc" and config.teacher is None:
            config.teacher = str(_train_teacher(config, rank, world, device))
        train(config, rank, world, device)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
    finally:
        distributed.stop()
    return 0


def _train_teacher(config: TrainConfig, rank: int, world: int, device: torch.device) -> Path:
    """Train the float network on the same data into OUT/teacher, unless it is there; returns its weights."""
    folder = Path(config.out) / "teacher"
    done = folder / "siamfc.safetensors"
    if config.resume and done.is_file():
        return done
    if rank == 0:
        print(f"no --teacher given: the float SiamFC is trained first, into {folder}")
    own = set(read_yaml(TrainConfig, CONFIGS / "siamfc.yaml")) - {"epochs", "pairs"}
    shared = {k: v for k, v in dataclasses.asdict(config).items() if k not in own}
    resume = config.resume and (folder / CHECKPOINT).is_file()
    settings = {**read_yaml(TrainConfig, CONFIGS / "siamfc.yaml"), **shared, "model": "siamfc", "out": str(folder), "resume": resume}
    train(TrainConfig(**settings), rank, world, device)
    return done


def train(config: TrainConfig, rank: int, world: int, device: torch.device) -> None:
    """One training, from data to OUT/MODEL.safetensors."""
    from datasets.training import open_training_data

    folder = Path(config.out)
    state = load_checkpoint(folder / CHECKPOINT) if config.resume else None
    if rank == 0:
        write_yaml(config, folder / "config.yaml")
        write_atomically(folder / "environment.json", json.dumps(_environment(config, world), indent=1).encode())
    stores, held_out = open_training_data(
        [Path(path) for path in config.data], folder.parent, Path(config.val) if config.val else None, config.val_sequences
    )
    precision = _precision(config.precision, device)
    task = SiameseTask(config.response_match, precision)
    torch.manual_seed(config.seed)
    student = build(config.model).to(device, memory_format=torch.channels_last)
    teacher = weights.load_weights(config.teacher)[0].to(device, memory_format=torch.channels_last) if config.teacher else None
    if teacher is not None and binary_layers(teacher):
        raise ValueError(f"{config.teacher}: a teacher must be a float network (siamfc)")
    length = (config.pairs // (config.batch_size * world)) * config.batch_size * world
    dataset = PairDataset(
        stores, round(length * (1 + config.bn_pass)) + config.batch_size * world, config.seed,
        still_share=config.still_share, exclude=[s.name for s in held_out],
    )
    stats = _start(student, teacher, task, dataset, config, device) if teacher is not None else None
    if not (config.gan or config.lambda_match or config.response_match):
        teacher = None  # it has given the start; nothing else asks for it
    rectifier = Rectifier(student, teacher, task, config, stats)
    if config.compile:
        student.compile()
    loop = Loop(rectifier, Batches(dataset, config, rank, world), config, folder, _validator(held_out, config, device), rank, world)
    if state:
        loop.load(state)
    if rank == 0:
        print(f"{config.model}: {dataset.describe()}; {world} x {device.type}, {str(precision).removeprefix('torch.')}; into {folder}")
    loop.run()
    if rank == 0:
        final = folder / f"{config.model}.safetensors"
        weights.save_weights(student, config.model, final, {"config": dataclasses.asdict(config), **_environment(config, world)})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{final} ({final.stat().st_size / 1e6:.2f} MB); peak memory {peak:.0f} MB; losses in {folder / 'losses.png'}")


class Batches:
    """Batches of an epoch, from batch `start`: a pure function of seed, epoch and number."""

    def __init__(self, dataset: PairDataset, config: TrainConfig, rank: int, world: int) -> None:
        self.dataset, self.config, self.rank, self.world = dataset, config, rank, world
        self.loader: Any = None

    def __call__(self, epoch: int, start: int, count: int) -> Iterable[dict[str, Tensor]]:
        """See the class; `count` is the number of the last batch, plus one."""
        self.dataset.set_epoch(epoch)
        if self.loader is None:
            self.loader = make_loader(self.dataset, self.config.batch_size, self.config.workers, start, self.rank, self.world)
        for _, batch in zip(range(start, count), self.loader, strict=False):
            yield batch


def _start(
    student: nn.Module, teacher: nn.Module, task: SiameseTask, dataset: PairDataset, config: TrainConfig, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Start the student from its teacher.  Returns the statistics of the teacher's maps, by point."""
    points = [name.removesuffix(".conv") + ".norm" for name in binary_layers(student)]
    if not points:
        student.load_state_dict(teacher.state_dict())
        return {}
    recorder = MapRecorder(teacher, points)
    with torch.no_grad():
        for number, batch in enumerate(make_loader(dataset, config.batch_size)):
            task.respond(teacher.eval(), {k: v.to(device) for k, v in batch.items()})
            if number + 1 == CALIBRATION:
                break
    stats = measure_maps(recorder)
    recorder.remove()
    start_from_teacher(student, teacher, points, stats)
    return stats


def _validator(sequences: list, config: TrainConfig, device: torch.device) -> Callable[[nn.Module], dict[str, float]] | None:
    """Track held-out sequences with the network in training: `val_auc` and `val_precision`."""
    if not sequences:
        return None
    from eval.metrics import mean_scores, score_sequence
    from eval.runner import track_sequence
    from tracker.backbones import torch_backbone
    from tracker.siamfc import SiamFC

    heads = [dataclasses.replace(s, frames=s.frames[: config.val_frames], boxes=s.boxes[: config.val_frames]) for s in sequences]
    precision = "float32" if _precision(config.precision, device) == torch.float32 else "bfloat16"

    def validate(net: nn.Module) -> dict[str, float]:
        tracker = SiamFC(torch_backbone(net, device.type, precision))
        scores = mean_scores(score_sequence(track_sequence(tracker, s).boxes, s.boxes) for s in heads)
        return {"val_auc": scores.auc, "val_precision": scores.precision}

    return validate


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch finds no GPU; use --device cpu")
    return name


def _precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPUs and on CPUs with matrix tiles (AMX), where it is several times as fast."""
    if name != "auto":
        return getattr(torch, name)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device.type == "cuda" or tiles() else torch.float32


def _environment(config: TrainConfig, world: int) -> dict[str, Any]:
    """What a result needs to be repeated, besides its configuration."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=CONFIGS, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "command": " ".join(sys.argv), "commit": commit or "unknown", "python": platform.python_version(),
        "torch": torch.__version__, "processor": platform.processor() or platform.machine(), "processes": world,
    }


if __name__ == "__main__":
    run(main)
