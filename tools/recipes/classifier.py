"""The training of a classifier from its configuration.  What tools/train_classifier.py and reproduce.py run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rbsf.datasets.images.augment import augment, batch_generator, normalise
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.datasets.images.labelled import LABELLED, Labelled, open_labelled
from rbsf.export.pack import pack_weights
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, Stats, measure_maps, start_from_teacher
from rbsf.methods import METHODS
from rbsf.models import CLASSIFIERS, build
from rbsf.system.files import write_atomically
from rbsf.tools.recipes.common import (
    RunConfig,
    describe_place,
    dtype_of,
    place,
    provenance,
    report_size,
    resumed,
    run_training,
    saved_state,
    write_record,
)
from rbsf.train import distributed
from rbsf.train.config import parse_config
from rbsf.train.cross_entropy import ClassificationTask, evaluate
from rbsf.train.distributed import Process
from rbsf.train.loop import Loop
from rbsf.train.rectify import Rectifier, RectifyConfig
from rbsf.weights import load_weights, save_weights

RESULT = "result.json"
FLOAT = "float"  # in place of a method: the real network
# By default of all methods but RBCN, whose own G and B these are.  R stays: it weighs what the method itself adds to
# the loss, which is PCNN's projection loss, and nothing of the others.
RIVAL = {"gan": False, "lambda_match": 0.0, "bn_pass": 0.0}
NORM_PASS = 1_000_000  # added to an epoch's number for the order of the images of its batch-norm pass


@dataclass
class ClassifierConfig(RunConfig):
    """Everything about the training of a classifier."""

    UNIT: ClassVar[str] = "image"

    images: int = field(default=0, metadata={"help": "images an epoch; 0 = each of the training set once"})
    subset: int = field(default=0, metadata={"help": "train on so many images, as many of each class; 0 = on all"})
    batch_size: int = field(default=128, metadata={"help": "images a batch, per process"})
    dataset: str = field(default="cifar100", metadata={"help": "data set", "choices": tuple(LABELLED)})
    root: str = field(default="data", metadata={"help": "folder that holds the data set, or its files"})
    model: str = field(default="resnet18", metadata={"help": "network to train", "choices": tuple(CLASSIFIERS)})
    method: str = field(
        default="rbcn",
        metadata={
            "help": "how it is binarized; float: not at all. By default all but rbcn have no gan, lambda_match and"
            " bn_pass, and scheme_a has train_teacher and start random; files and flags win",
            "choices": (FLOAT, *METHODS),
        },
    )
    method_options: list[str] = field(
        default_factory=list,
        metadata={"help": "option of the method, such as weight_bases=5", "metavar": "NAME=VALUE"},
    )
    stages: str = field(default="", metadata={"help": "channels of the stages, such as 32-32-64-128"})
    stem: str = field(default="", metadata={"help": "first layer of resnet18: imagenet (7 x 7) or cifar (3 x 3)"})
    shortcut: str = field(
        default="", metadata={"help": "around every convolution (conv, Bi-Real Net's) or every two (block)"}
    )
    start: str = field(
        default="teacher", metadata={"help": "weights to start a 1-bit network from", "choices": ("teacher", "random")}
    )
    size: int = field(default=0, metadata={"help": "pixels of the images' side, of folders of images; 0 = 224, or 64"})
    augment: bool = field(default=True, metadata={"help": "crop at random, and flip where the data set allows it"})
    check: str = field(
        default="auto",
        metadata={
            "help": "checksums and counts as published: strict; auto, where a file has the published size; off",
            "choices": ("auto", "strict", "off"),
        },
    )
    skip_broken: bool = field(default=False, metadata={"help": "leave images out that cannot be read"})
    out: str = field(default="runs/classifier", metadata={"help": "folder for weights, checkpoint and logs"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        super().__post_init__()
        self.check_least(images=0, subset=0, size=0)
        if self.method == FLOAT and (self.gan or self.lambda_match or self.train_teacher):
            raise ValueError("method is float, but gan, lambda_match or train_teacher want a teacher; switch them off")
        if self.train_teacher and (self.gan or self.lambda_match):
            raise ValueError("train_teacher goes without gan and lambda_match: no maps are compared; switch them off")
        if self.method == "scheme_a" and not self.train_teacher:
            raise ValueError("method is scheme_a, which learns beside its teacher; switch train_teacher on")
        self.network_options(1)

    @property
    def binary(self) -> bool:
        """Whether the network is a 1-bit one."""
        return self.method != FLOAT

    @property
    def needs_teacher(self) -> bool:
        """Whether a float network has to be trained first."""
        return self.binary and not self.train_teacher and bool(self.gan or self.lambda_match or self.start == "teacher")

    def network_options(self, classes: int) -> dict[str, Any]:
        """What `rbsf.models.build` takes beside the model's name.  ValueError for method_options of another form."""
        given = {name: getattr(self, name) for name in ("stages", "stem", "shortcut") if getattr(self, name)}
        options = {**given, "classes": classes, "method": self.method if self.binary else ""}
        words = [option.partition("=") for option in self.method_options]
        if bad := [name for name, equals, value in words if not (name and equals and value)]:
            raise ValueError(f"method_options holds {bad[0]!r}; expected NAME=VALUE, such as weight_bases=5")
        return {**options, "method_options": {name: _value(value) for name, _, value in words}}

    def float_twin(self) -> ClassifierConfig:
        """The configuration of the teacher: the same training of the real network, without what is the student's."""
        off: dict[str, Any] = {"gan": False, "rectify": False, "train_teacher": False}
        off |= {f.name: 0.0 for f in dataclasses.fields(RectifyConfig) if f.name.startswith("lambda_")}
        off |= {"lr_binary": 0.0, "lr_c": 0.0, "lr_discriminator": 0.0}
        off |= {"lambda_epochs": 1, "bn_pass": 0.0, "norm_epochs": -1}
        return dataclasses.replace(self, method=FLOAT, method_options=[], start="random", teacher=None, **off)

    @property
    def result_file(self) -> str:
        """What a training writes last."""
        return RESULT

    def decisive(self) -> dict[str, Any]:
        """See `RunConfig.decisive`; of a folder of images its path is among them."""
        if not self.binary and self != (twin := self.float_twin()):
            return twin.decisive()  # what is left out there decides nothing here
        settings = super().decisive()
        if self.dataset == "folder":
            settings["root"] = str(Path(self.root).resolve())  # the name alone says nothing of the images
        return settings

    def folder_name(self) -> str:
        """Where trainings with these settings are kept: those of a table, and of the teachers that they share."""
        name = f"{self.dataset}-{self.model}-{self.method}-{self.digest()}"
        return name if self.binary else f"teachers/{name}"


def _value(text: str) -> int | float | bool | str:
    try:
        value = json.loads(text.lower())
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def method_defaults(method: str) -> dict[str, Any]:
    """What a training by `method` has in place of the defaults of `ClassifierConfig`, which are RBCN's."""
    apprentice = {"train_teacher": True, "start": "random"} if method == "scheme_a" else {}
    return {} if method == ClassifierConfig.method else {**RIVAL, **apprentice}


def with_defaults(settings: dict[str, Any]) -> ClassifierConfig:
    """The configuration of `settings`, the defaults of their method below them."""
    return ClassifierConfig(**{**method_defaults(settings.get("method", ClassifierConfig.method)), **settings})


def read_config(argv: list[str] | None, description: str = "") -> ClassifierConfig:
    """The method's defaults, then --config, then flags; on --resume the settings of the run itself, then flags."""
    settings = parse_config(ClassifierConfig, argv, description)
    return resumed(ClassifierConfig, settings) if settings.get("resume") else with_defaults(settings)


def train_all(config: ClassifierConfig) -> int:
    """Train what `config` says, its teacher first where it needs one; 0 when done, 128 + signal when stopped."""

    def body(process: Process) -> None:
        build(config.model, **config.network_options(1))  # what is wrong with the student is said before the teacher
        data = open_data(config, process.device)
        teacher = config.teacher
        if config.needs_teacher and teacher is None:
            teacher = str(_train_teacher(config, data, process))
        train(dataclasses.replace(config, teacher=teacher), data, process)

    return run_training(config, body)


def _train_teacher(config: ClassifierConfig, data: tuple[Labelled, Labelled], process: Process) -> Path:
    """Train the float twin into OUT/../teachers, where all runs beside OUT find it, unless it is there; returns its
    weights.
    """
    twin = config.float_twin()
    folder = Path(config.out).parent / twin.folder_name()
    done = folder / f"{config.model}.safetensors"
    if done.is_file():
        if process.rank == 0:  # the folder's name tells settings apart, but not images that were swapped since
            made = datetime.fromtimestamp(done.stat().st_mtime)
            print(f"no --teacher given: {done}, made {made:%Y-%m-%d %H:%M}, serves; delete it if the data has changed")
        return done
    if process.rank == 0:
        print(f"no --teacher given: the float {config.model} is trained first, into {folder}")
    train(dataclasses.replace(twin, out=str(folder), resume=(folder / "config.yaml").is_file()), data, process)
    return done


def open_data(config: ClassifierConfig, device: torch.device) -> tuple[Labelled, Labelled]:
    """Training and test images, on the device where they are arrays; errors as `open_labelled` raises them."""

    training, test = open_labelled(
        config.dataset,
        config.root,
        skip_broken=config.skip_broken,
        check=config.check,
        workers=config.workers,
        size=config.size or None,
    )
    return _on_device(training, device), _on_device(test, device)


def _on_device(data: Labelled, device: torch.device) -> Labelled:
    return data.to(device) if isinstance(data, ArrayData) else data


def train(config: ClassifierConfig, data: tuple[Labelled, Labelled], process: Process) -> None:
    """One training: OUT/MODEL.safetensors, MODEL-packed.safetensors of a 1-bit network, and result.json."""
    training, test = data
    state = saved_state(config)
    available = min(len(training), config.subset or len(training))
    if config.images > available:
        raise ValueError(f"images is {config.images}: there are {available} to train on; 0 takes them all")
    config = dataclasses.replace(config, images=config.images or available)
    task = ClassificationTask(dtype_of(config.precision, process.device), apprentice=config.train_teacher)
    batches = Batches(training, config, process)
    rectifier = build_rectifier(config, task, batches)

    def validate(net: nn.Module) -> dict[str, float]:
        scores = evaluate(net, evaluation_batches(test, config, process.device), task)
        return {f"val_{name}": scores[name] for name in ("top1", "top5", "entropy")}

    loop = Loop(rectifier, batches, config, Path(config.out), validate, process.rank, process.world)
    if state:
        loop.load(state)
    if process.rank == 0:
        write_record(config, process.world)
        part = f", {available:,} of them taken" if available < len(training) else ""
        print(f"{describe_network(config, rectifier.student)}; {training.describe()}{part}", end="")
        print(f"; on {describe_place(config, process)}; into {config.out}")
    loop.run()
    with distributed.first_process_first(process.rank):  # what is written may be the teacher that all read next
        if process.rank == 0:
            finish(config, rectifier.student, test, process)


def describe_network(config: ClassifierConfig, net: nn.Module) -> str:
    """Such as "resnet18, rbcn: 693,284 parameters, 659,456 of them 1-bit weights"."""
    bits = sum(layer.weight.numel() for layer in binary_layers(net).values())
    parameters = sum(p.numel() for p in net.parameters())
    return f"{config.model}, {config.method}: {parameters:,} parameters, {bits:,} of them 1-bit weights"


def finish(config: ClassifierConfig, net: nn.Module, test: Labelled, process: Process) -> None:
    """Write the weights, the packed file, and the result, in float32, of the weights file as it reads back."""
    folder = Path(config.out)
    final = folder / f"{config.model}.safetensors"
    save_weights(net, config.model, final, provenance(config, process.world) | {"input": input_of(test)})
    report_size(final, folder)
    net = load_weights(final)[0]
    batches = evaluation_batches(test, config, process.device)
    result = evaluate(place(net, process.device), batches, ClassificationTask())
    if config.binary:
        packed = folder / f"{config.model}-packed.safetensors"
        pack_weights(final, packed)
        print(f"{packed}: {packed.stat().st_size / 1e6:.3f} MB, to run without PyTorch")
    print(f"top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}% of {result['tested']:,} test images")
    result |= {"epochs": config.epochs, "images": config.images, "seed": config.seed}
    write_atomically(folder / RESULT, json.dumps(result, indent=1).encode())


def input_of(data: Labelled) -> dict[str, Any]:
    """What a network has to know of its images; goes into its weights file."""
    shape = {"size": data.size, "share": data.share}
    return {**shape, "mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}


class Batches:
    """Augmented, normalised batches of an epoch, from batch `start`: a pure function of seed, epoch and number."""

    def __init__(self, data: Labelled, config: ClassifierConfig, process: Process) -> None:
        self.data, self.config, self.process = data, config, process

    def __call__(self, epoch: int, start: int, count: int) -> Iterator[dict[str, Tensor]]:
        """See the class; `count` is the number of the last batch, plus one; those of the batch-norm pass come last."""
        train_steps, _ = self.config.steps(self.process.world, self.config.bn_pass)
        if start < train_steps:
            yield from self._batches(epoch, start, min(count, train_steps))
        if count > train_steps:
            yield from self._batches(epoch + NORM_PASS, max(start - train_steps, 0), count - train_steps)

    def _batches(self, epoch: int, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
        config, (rank, world, device), data = self.config, self.process, self.data
        limit = config.subset or None
        batches = data.batches(config.batch_size, config.seed, epoch, start, rank, world, limit=limit)
        for number, batch in enumerate(islice(batches, stop - start), start):
            images = batch["image"].to(device, non_blocking=True)
            if config.augment:
                generator = batch_generator(config.seed, epoch, number * world + rank, device)
                images = augment(images, generator, data.crop_padding, data.flip)
            yield {**batch, "image": _prepare(images, data)}


def evaluation_batches(data: Labelled, config: ClassifierConfig, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """All images of `data`, normalised, in order."""
    for batch in data.batches(2 * config.batch_size, 0, 0, train=False):
        yield {"image": _prepare(batch["image"].to(device), data), "label": batch["label"].to(device)}


def _prepare(images: Tensor, data: Labelled) -> Tensor:
    return normalise(images, data.mean, data.std).contiguous(memory_format=torch.channels_last)


def build_rectifier(config: ClassifierConfig, task: ClassificationTask, batches: Batches) -> Rectifier:
    """The networks, the student started from its teacher, and their training."""
    torch.manual_seed(config.seed)
    classes, device = len(batches.data.classes), batches.process.device
    student = place(build(config.model, **config.network_options(classes)), device)
    _check_images(config.model, student, batches.data, device)
    teacher, stats = None, None
    if config.train_teacher:
        teacher = place(build(config.model, **config.float_twin().network_options(classes)), device)
    elif config.binary and config.teacher:
        teacher, model, info = load_weights(config.teacher)
        _check_teacher(config, teacher, model, info, batches.data)
        teacher = place(teacher, device)
        stats = _start(student, teacher, task, batches)
    if not (config.gan or config.lambda_match or config.train_teacher):
        teacher = None  # it has given the start; nothing else asks for it
    if config.compile:
        student.compile()
    return Rectifier(student, teacher, task, config, stats)


def _check_images(model: str, net: nn.Module, data: Labelled, device: torch.device) -> None:
    """Raise ValueError where the network does not take the images of the data set."""
    shape = (len(data.mean), data.size, data.size)
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"{model} does not take images of {' x '.join(map(str, shape))}: {reason}") from None


def _check_teacher(
    config: ClassifierConfig, teacher: nn.Module, model: str, info: dict[str, Any], data: Labelled
) -> None:
    """Raise ValueError for a network that cannot teach the one of `config`."""
    if model != config.model or binary_layers(teacher):
        raise ValueError(f"{config.teacher}: a teacher must be a float {config.model} (--method float)")
    if info.get("input", {}).get("classes", list(data.classes)) != list(data.classes):
        raise ValueError(f"{config.teacher}: a teacher must have learned the same classes as {config.root} has")


def _start(student: nn.Module, teacher: nn.Module, task: ClassificationTask, batches: Batches) -> Stats:
    """Measure the teacher's maps, and start the student from it if that is asked for."""
    first = batches(0, 0, min(CALIBRATION, *batches.config.steps(batches.process.world, 1.0)))
    device = batches.process.device
    stats = measure_maps(student, teacher, lambda net, batch: task.classify(net, batch["image"].to(device)), first)
    if batches.config.start == "teacher":
        start_from_teacher(student, teacher, stats)
    return stats
