"""A training from its configuration: data, networks, validation, loop.  What tools/train_rbsf.py runs."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.crops import CropStore
from datasets.pairs import PairDataset, make_loader
from datasets.sequences import Sequence
from datasets.training import open_training_data
from eval.metrics import mean_curves, score_sequence
from eval.runner import track_sequence
from rbsf.environment import environment
from rbsf.export import pack_weights
from rbsf.files import write_atomically
from rbsf.layers import binary_layers
from rbsf.maps import MapRecorder, Stats, measure_maps, start_from_teacher
from rbsf.models import MODELS, build
from rbsf.rectify import Rectifier, RectifyConfig
from rbsf.train import distributed
from rbsf.train.checkpoint import load_checkpoint
from rbsf.train.config import parse_config, read_yaml, write_yaml
from rbsf.train.distributed import Process
from rbsf.train.loop import CHECKPOINT, Loop, LoopConfig, Stopped
from rbsf.weights import load_weights, save_weights
from tracker.backbones import choose_device, torch_backbone
from tracker.siamfc import SiamFC
from tracker.task import SiameseTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CALIBRATION = 16  # batches over which the teacher's map statistics are measured


@dataclass
class TrainConfig(LoopConfig, RectifyConfig):
    """Everything about a training; written as config.yaml beside its weights."""

    model: str = field(default="rbsf", metadata={"help": "network to train", "choices": tuple(MODELS)})
    data: list[str] = field(
        default_factory=list, metadata={"help": "dataset folder (layout detected) or crop store .db"}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "float weights: .safetensors, siamfc-pytorch .pth, or .npz"}
    )
    out: str = field(default="runs/rbsf", metadata={"help": "folder for weights, checkpoint and logs"})
    resume: bool = field(default=False, metadata={"help": "continue the training in --out"})
    val: str | None = field(default=None, metadata={"help": "folder of sequences to track after each epoch"})
    val_sequences: int = field(
        default=4, metadata={"help": "sequences tracked after each epoch; held out of --data without --val"}
    )
    val_frames: int = field(default=60, metadata={"help": "frames of each"})
    response_match: float = field(
        default=1.0, metadata={"help": "weight of the distance to the teacher's response map"}
    )
    still_share: float = field(
        default=0.3, metadata={"help": "share of pairs made from still images, where there are both"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, or auto"})
    precision: str = field(
        default="auto",
        metadata={
            "help": "bfloat16 where the device is fast at it, or as said",
            "choices": ("auto", "float32", "bfloat16"),
        },
    )
    compile: bool = field(default=False, metadata={"help": "compile the networks (needs a C++ compiler; pays on GPUs)"})
    workers: int = field(default=2, metadata={"help": "processes that read pairs; 0 = none"})
    threads: int = field(default=0, metadata={"help": "CPU threads of the network; 0 = all cores"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        LoopConfig.__post_init__(self)
        RectifyConfig.__post_init__(self)
        for name, least in (("val_sequences", 0), ("val_frames", 2), ("workers", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")


def read_config(argv: list[str] | None, description: str = "") -> TrainConfig:
    """The model's file in configs/ (on --resume: the run's own), then --config, then flags."""
    settings = parse_config(TrainConfig, argv, description, _model_defaults(TrainConfig.model))
    if settings.get("resume"):
        base = Path(settings.get("out", TrainConfig.out)) / "config.yaml"
        if not base.is_file():
            raise FileNotFoundError(f"nothing to resume: no {base}; start without --resume")
        return TrainConfig(**{**read_yaml(TrainConfig, base), **settings})
    defaults = _model_defaults(settings.get("model", TrainConfig.model))
    if not settings.get("data"):
        defaults |= read_yaml(TrainConfig, CONFIGS / "tryout.yaml")
    return TrainConfig(**{**defaults, **settings})


def _model_defaults(model: str) -> dict[str, Any]:
    if model not in MODELS:
        raise ValueError(f"model is {model!r}; known: {', '.join(MODELS)}")
    return read_yaml(TrainConfig, CONFIGS / f"{model}.yaml")


def train_all(config: TrainConfig) -> int:
    """Train what `config` says, its teacher first where none is given; 0 when done, 128 + signal when stopped."""
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = Path(config.out)
    if not config.resume and any((f / CHECKPOINT).is_file() for f in (folder, folder / "teacher")):
        raise ValueError(f"{folder} holds a training already; add --resume to continue it, or choose another --out")
    process = distributed.start(choose_device(config.device))
    try:
        if process.rank == 0 and not config.resume:
            write_yaml(config, folder / "config.yaml")  # so that --resume works from here on
        if config.model != "siamfc" and config.teacher is None:
            config = dataclasses.replace(config, teacher=str(_train_teacher(config, process)))
        train(config, folder.parent, process)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
    finally:
        distributed.stop()
    return 0


def _train_teacher(config: TrainConfig, process: Process) -> Path:
    """Train the float network on the same data into OUT/teacher, unless it is there; returns its weights."""
    folder = Path(config.out) / "teacher"
    done = folder / "siamfc.safetensors"
    if config.resume and done.is_file():
        return done
    if process.rank == 0:
        print(f"no --teacher given: the float SiamFC is trained first, into {folder}")
    defaults = _model_defaults("siamfc")
    own = {name: defaults[name] for name in defaults.keys() - {"epochs", "pairs"}}
    settings = {**dataclasses.asdict(config), **own, "model": "siamfc", "out": str(folder)}
    train(TrainConfig(**settings), Path(config.out).parent, process)
    return done


def train(config: TrainConfig, cache: Path, process: Process) -> None:
    """One training, from data (cut out into the folder `cache`) to OUT/MODEL.safetensors, and -packed of 1-bit ones."""
    rank, world, device = process
    folder = Path(config.out)
    checkpoint = folder / CHECKPOINT
    state = load_checkpoint(checkpoint) if config.resume and checkpoint.is_file() else None
    stores, held_out = open_data(config, cache, rank)
    dataset = PairDataset(
        stores,
        sum(config.steps(world, config.bn_pass)) * config.batch_size * world,
        config.seed,
        still_share=config.still_share,
        exclude=[sequence.name for sequence in held_out],
    )
    rectifier = build_rectifier(config, dataset, device)
    batches, validate = Batches(dataset, config, rank, world), _validator(held_out, config, device)
    loop = Loop(rectifier, batches, config, folder, validate, rank, world)
    if state:
        loop.load(state)
    if rank == 0:
        _write_record(config, world)
        where = f"{world} x {device.type} in {str(_precision(config.precision, device)).removeprefix('torch.')}"
        print(f"{config.model}: {dataset.describe()}; on {where}; into {folder}")
    loop.run()
    if rank == 0:
        final = folder / f"{config.model}.safetensors"
        save_weights(rectifier.student, config.model, final, provenance(config, world))
        size, peak = final.stat().st_size / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{final}: {size:.2f} MB; curves: {folder / 'losses.png'}; peak memory {peak:.0f} MB")
        if binary_layers(rectifier.student):
            packed = folder / f"{config.model}-packed.safetensors"
            pack_weights(final, packed)
            print(f"{packed}: {packed.stat().st_size / 1e6:.2f} MB, to track with")


def open_data(config: TrainConfig, cache: Path, rank: int = 0) -> tuple[list[CropStore], list[Sequence]]:
    """Crop stores, and the sequences held out for validation; says what is used where no data is named."""
    if not config.data and rank == 0:
        print("no --data given: training on synthetic videos made here, a try-out that teaches little of real ones")
        print("for a real training: --data PATH/TO/GOT-10k/train   (other layouts and folders of images work too)")
    with distributed.first_process_first(rank):
        data, val = [Path(path) for path in config.data], Path(config.val) if config.val else None
        return open_training_data(data, cache, val, config.val_sequences, prepare_missing=rank == 0)


def build_rectifier(config: TrainConfig, dataset: PairDataset, device: torch.device) -> Rectifier:
    """The networks, the student started from its teacher, and their training."""
    task = SiameseTask(config.response_match, _precision(config.precision, device))
    torch.manual_seed(config.seed)
    student, teacher, stats = _place(build(config.model), device), None, None
    if config.teacher:
        teacher = _place(load_weights(config.teacher)[0], device)
        if binary_layers(teacher):
            raise ValueError(f"{config.teacher}: a teacher must be a float network (siamfc)")
        stats = _start(student, teacher, task, dataset, config, device)
    if not (config.gan or config.lambda_match or config.response_match):
        teacher = None  # it has given the start; nothing else asks for it
    if config.compile:
        student.compile()
    return Rectifier(student, teacher, task, config, stats)


def _place(net: nn.Module, device: torch.device) -> nn.Module:
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _write_record(config: TrainConfig, world: int) -> None:
    """What a result needs to be repeated, beside its weights; `environment.json` has an entry for each start."""
    folder = Path(config.out)
    write_yaml(dataclasses.replace(config, resume=False), folder / "config.yaml")
    record = folder / "environment.json"
    starts = json.loads(record.read_text()) if config.resume and record.is_file() else []
    write_atomically(record, json.dumps([*starts, environment() | {"processes": world}], indent=1).encode())


class Batches:
    """Batches of an epoch, from batch `start`: a pure function of seed, epoch and number."""

    def __init__(self, dataset: PairDataset, config: TrainConfig, rank: int, world: int) -> None:
        self.dataset, self.config, self.rank, self.world = dataset, config, rank, world
        self.loader: Any = None

    def __call__(self, epoch: int, start: int, count: int) -> Iterable[dict[str, Tensor]]:
        """See the class; `count` is the number of the last batch, plus one."""
        self.dataset.set_epoch(epoch)
        if self.loader is None:
            self.loader = make_loader(
                self.dataset, self.config.batch_size, self.config.workers, start, self.rank, self.world
            )
        for _, batch in zip(range(start, count), self.loader, strict=False):
            yield batch


def _start(
    student: nn.Module,
    teacher: nn.Module,
    task: SiameseTask,
    dataset: PairDataset,
    config: TrainConfig,
    device: torch.device,
) -> Stats:
    """Start the student from its teacher.  Returns the statistics of the teacher's maps, by point."""
    points = [name.removesuffix(".conv") + ".norm" for name in binary_layers(student)]
    if not points:
        student.load_state_dict(teacher.state_dict())
        return {}
    recorder = MapRecorder(teacher, points)
    with torch.no_grad(), recorder.recording() as maps:
        for number, batch in enumerate(make_loader(dataset, config.batch_size)):
            task.respond(teacher.eval(), {k: v.to(device) for k, v in batch.items()})
            if number + 1 == CALIBRATION:
                break
    stats = measure_maps(maps)
    start_from_teacher(student, teacher, points, stats)
    return stats


def _validator(
    sequences: list[Sequence], config: TrainConfig, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Track the heads of held-out sequences with the network in training: `val_auc` and `val_precision`."""
    if not sequences:
        return None
    heads = [_head(sequence, config.val_frames) for sequence in sequences]
    precision = str(_precision(config.precision, device)).removeprefix("torch.")

    def validate(net: nn.Module) -> dict[str, float]:
        tracker, curves = SiamFC(torch_backbone(net, str(device), precision)), []
        for head in heads:
            try:
                curves.append(score_sequence(track_sequence(tracker, head).boxes, head.boxes))
            except (ValueError, OSError) as error:  # one bad frame must not end a training
                tqdm.write(f"warning: {head.name} is left out of the validation: {error}")
        if not curves:
            return {}
        mean = mean_curves(curves).scores
        return {"val_auc": mean.auc, "val_precision": mean.precision}

    return validate


def _head(sequence: Sequence, frames: int) -> Sequence:
    """The first `frames` frames from where the target is first seen."""
    start = int(np.isfinite(sequence.boxes).all(1).argmax())
    part = slice(start, start + frames)
    return dataclasses.replace(sequence, frames=sequence.frames[part], boxes=sequence.boxes[part])


def _precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on GPUs and on CPUs with matrix tiles (AMX), where it is several times as fast."""
    if name != "auto":
        return getattr(torch, name)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device.type == "cuda" or tiles() else torch.float32


def provenance(config: TrainConfig, world: int) -> dict[str, Any]:
    """What goes into a weights file about its training.  Of paths only the last part: weights travel, folders don't."""
    settings = dataclasses.asdict(config)
    for name in ("teacher", "out", "val"):
        settings[name] = Path(settings[name]).name if settings[name] else settings[name]
    settings["data"] = [Path(path).name for path in config.data]
    return {"config": settings, **{k: v for k, v in environment().items() if k != "command"}, "processes": world}
