"""The training of a classifier, run by tools/train_classifier.py and reproduce.py."""

from __future__ import annotations

import dataclasses
import json
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbsf.datasets.images.augment import augment, batch_generator, normalise
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.datasets.images.labelled import Labelled, open_labelled
from rbsf.layers import binary_layers
from rbsf.maps import CALIBRATION, Stats, map_statistics, measure_maps, start_from_teacher
from rbsf.models import CLASSIFIERS, OWN_LAYERS, build
from rbsf.models.rbsf2 import lower_gradients
from rbsf.system.files import write_atomically
from rbsf.system.text import one_line
from rbsf.tools.recipes.classifier_config import AFTER, RESULT, ClassifierConfig
from rbsf.train.cross_entropy import ClassificationTask, evaluate
from rbsf.train.device import dtype_of, place
from rbsf.train.distributed import Process
from rbsf.train.rectify import Rectifier
from rbsf.train.trainer import Recipe, Validate
from rbsf.weights import load_weights

NORM_PASS = 1_000_000  # added to the epoch that orders the images of a batch-norm pass


class ClassifierRecipe(Recipe[ClassifierConfig]):
    """See the module. `images`: training and test images, if they are open already."""

    def __init__(
        self,
        config: ClassifierConfig,
        process: Process,
        images: tuple[Labelled, Labelled] | None = None,
    ) -> None:
        super().__init__(config, process)
        self.asked = config  # `open` replaces the number of images 0, for all, by their number
        self.images = images
        self.precision = dtype_of(config.machine.precision, process.device)
        # Networks of whole numbers are exact; only their gradients have a lower precision.
        forward = torch.float32 if config.model in OWN_LAYERS else self.precision
        apprentice = config.algorithm.train_teacher
        self.task = ClassificationTask(forward, apprentice, config.lambda_distill)

    @property
    def model(self) -> str:
        """See `Recipe`."""
        return self.config.model

    @property
    def training(self) -> Labelled:
        """The training images."""
        assert self.images is not None  # for the type checker: `open` was called
        return self.images[0]

    @property
    def test(self) -> Labelled:
        """The test images."""
        assert self.images is not None  # as above
        return self.images[1]

    def open(self) -> None:
        """See `Recipe`. Faults of the network are reported before data is read."""
        config = self.config
        build(config.model, **config.network_options(1))
        self.images = self.images or open_data(config, self.process.device)
        classes = self.training.classes
        if len(classes) < 2:
            raise ValueError(
                f"--root {config.root}: all images are of one class, {classes[0]};"
                " a classifier needs two"
            )
        available = self._available()
        if config.images > available:
            raise ValueError(
                f"images is {config.images}: there are {available} to train on; 0 takes them all"
            )
        self.config = dataclasses.replace(config, images=config.images or available)

    def _available(self) -> int:
        """How many images there are to train on."""
        return min(len(self.training), self.config.subset or len(self.training))

    def missing_teacher(self) -> ClassifierRecipe | None:
        """The float twin, in `teachers` of the folder that trainings share."""
        config = self.config
        if not config.needs_teacher or config.teacher is not None:
            return None
        twin = self.asked.float_twin()
        folder = config.shared / twin.folder_name()  # the same as that of a float cell of a table
        twin = dataclasses.replace(twin, out=str(folder), resume=(folder / "config.yaml").is_file())
        return ClassifierRecipe(twin, self.process, self.images)

    def untrained(self) -> nn.Module:
        """See `Recipe`. Raises ValueError if the network does not take the images."""
        network = self._new_network(self.config)
        _check_images(self.model, network, self.training, self.process.device)
        return network

    def build(self) -> Rectifier:
        """The networks, the student started from its teacher, and their training."""
        config, device = self.config, self.process.device
        torch.manual_seed(config.seed)
        student = self.untrained()
        lower_gradients(student, self.precision)
        teacher, stats = None, None
        if config.algorithm.train_teacher:
            teacher = self._new_network(config.float_twin())
        elif config.binary and config.teacher:
            teacher = place(load_teacher(config, self.training), device)
            if config.needs_twin:
                stats = self._start(student, teacher)
            if not config.learns_from_teacher:
                teacher = None  # only the start needed it
        if config.machine.compile:
            student.compile()
        return Rectifier(student, teacher, self.task, config.algorithm, stats)

    def _new_network(self, config: ClassifierConfig) -> nn.Module:
        options = config.network_options(len(self.training.classes))
        return place(build(config.model, **options), self.process.device)

    def _start(self, student: nn.Module, teacher: nn.Module) -> Stats:
        """Measure the teacher's maps, and start the student from it if that is asked for."""

        def classify(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            return self.task.classify(net, batch["image"])

        stats = measure_maps(student, teacher, classify, self.some_batches(CALIBRATION))
        if self.config.start == "teacher":
            start_from_teacher(student, teacher, stats)
        if self.config.compare == AFTER:
            return stats
        run = partial(classify, teacher)
        return map_statistics(teacher, binary_layers(student), run, self.some_batches(CALIBRATION))

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
        """Augmented, normalised batches; those of the batch-norm pass come last."""
        train_steps, _ = self.config.steps(self.process.world)
        if start < train_steps:
            yield from self._batches(epoch, start, min(stop, train_steps))
        if stop > train_steps:
            first = max(start - train_steps, 0)
            yield from self._batches(epoch + NORM_PASS, first, stop - train_steps)

    def some_batches(self, count: int) -> Iterator[dict[str, Tensor]]:
        """See `Recipe`."""
        train_steps, _ = self.config.steps(self.process.world)
        return self.batches(0, 0, min(count, train_steps))

    def _batches(self, epoch: int, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
        """The batches from `start` up to `stop`, with the images in the order of `epoch`."""
        config, (rank, world, device), data = self.config, self.process, self.training
        limit = config.subset or None
        size = config.loop.batch_size
        batches = data.batches(size, config.seed, epoch, start, rank, world, limit=limit)
        for number, batch in enumerate(islice(batches, stop - start), start):
            images = batch["image"].to(device, non_blocking=True)
            if config.augment:
                generator = batch_generator(config.seed, epoch, number * world + rank, device)
                images = augment(images, generator, data.crop_padding, data.flip)
            yield {**batch, "image": prepare(images, data)}

    def test_batches(self) -> Iterator[dict[str, Tensor]]:
        """All test images, normalised, in order."""
        device = self.process.device
        for batch in self.test.batches(2 * self.config.loop.batch_size, 0, 0, train=False):
            images = prepare(batch["image"].to(device), self.test)
            yield {"image": images, "label": batch["label"].to(device)}

    def validation(self) -> Validate:
        """Top-1, top-5 and cross-entropy of the test images."""

        def validate(net: nn.Module) -> dict[str, float]:
            scores = evaluate(net, self.test_batches(), self.task)
            return {f"val_{name}": scores[name] for name in ("top1", "top5", "entropy")}

        return validate

    def yardsticks(self) -> dict[str, dict[str, float]]:
        """Scores of a guess that only knows how common each class of the test images is."""
        shares = np.sort(self.test.class_shares())[::-1]
        shares = shares[shares > 0]
        figures = {
            "val_top1": 100 * float(shares[0]),
            "val_top5": 100 * float(shares[:5].sum()),
            "val_entropy": -float((shares * np.log(shares)).sum()),
        }
        return {"a guess": figures}

    def describe(self, student: nn.Module) -> str:
        """Network and data, such as "lenet, rbcn: 9,284 parameters, 6,456 of them 1-bit ..."."""
        bits = sum(layer.weight.numel() for layer in binary_layers(student).values())
        parameters = sum(p.numel() for p in student.parameters())
        network = f"{self.model}, {self.config.method}"
        weights = f"{parameters:,} parameters, {bits:,} of them 1-bit weights"
        available = self._available()
        part = f", {available:,} of them taken" if available < len(self.training) else ""
        return f"{network}: {weights}; {self.training.describe()}{part}"

    def info(self) -> dict[str, Any]:
        """What a network has to know about its images."""
        return {"input": input_of(self.test)}

    def finish(self, weights: Path) -> None:
        """Load the weights file, measure it in float32, and write result.json.

        The file's `right` has a bit for each test image, in base64, that is 1 if the class is
        correct.
        """
        net = place(load_weights(weights)[0], self.process.device)
        result = evaluate(net, self.test_batches(), ClassificationTask())
        scores = f"top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}%"
        print(f"{scores} of {result['tested']:,} test images")
        config = self.config
        result |= {"epochs": config.loop.epochs, "images": config.images, "seed": config.seed}
        result["right"] = b64encode(np.packbits(result["right"]).tobytes()).decode()
        write_atomically(self.folder / RESULT, json.dumps(result, indent=1).encode())


def open_data(config: ClassifierConfig, device: torch.device) -> tuple[Labelled, Labelled]:
    """Training and test images; those that are arrays are moved to the device.

    Raises what `open_labelled` raises.
    """
    training, test = open_labelled(
        config.dataset,
        config.root,
        skip_broken=config.skip_broken,
        check=config.check,
        workers=config.machine.workers,
        size=config.size or None,
    )
    return _on_device(training, device), _on_device(test, device)


def _on_device(data: Labelled, device: torch.device) -> Labelled:
    return data.to(device) if isinstance(data, ArrayData) else data


def prepare(images: Tensor, data: Labelled) -> Tensor:
    """Images `[N, C, H, W]`, uint8, as a network takes them: normalised, channels last."""
    return normalise(images, data.mean, data.std).contiguous(memory_format=torch.channels_last)


def input_of(data: Labelled) -> dict[str, Any]:
    """What a network has to know about its images; it goes into the weights file."""
    return {
        "size": data.size,
        "share": data.share,
        "mean": list(data.mean),
        "std": list(data.std),
        "classes": list(data.classes),
    }


def load_teacher(config: ClassifierConfig, data: Labelled) -> nn.Module:
    """The network of --teacher.

    Raises ValueError if it cannot teach the network of `config`.
    """
    teacher, model, info = load_weights(str(config.teacher))
    known = [config.model] if config.needs_twin else [*CLASSIFIERS]
    if model not in known or binary_layers(teacher):
        wanted = " or ".join(known)
        raise ValueError(f"{config.teacher}: a teacher must be a float {wanted} (--method float)")
    classes = list(data.classes)
    if info.get("input", {}).get("classes", classes) != classes:
        raise ValueError(
            f"{config.teacher}: a teacher must have learned the same classes as {config.root} has"
        )
    return teacher


def _check_images(model: str, net: nn.Module, data: Labelled, device: torch.device) -> None:
    """Raise ValueError if the network does not take the images of the data set."""
    shape = (len(data.mean), data.size, data.size)
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        reason = one_line(error, 120)
        sides = " x ".join(map(str, shape))
        raise ValueError(f"{model} does not take images of {sides}: {reason}") from None
