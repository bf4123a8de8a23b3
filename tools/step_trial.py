"""A training step of a CIFAR network on made-up images: what checks and timings of a step run."""

from __future__ import annotations

import dataclasses
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rbsf.datasets.images.cifar import CIFAR100
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.models import build
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.classifier import ClassifierConfig, ClassifierRecipe
from rbsf.train.config import changed, from_settings, read_yaml
from rbsf.train.distributed import ALONE, Process
from rbsf.train.rectify import Rectifier
from rbsf.weights import save_weights

# Powers of two, which are the same number in 32 and in 64 bits: a GPU keeps rates in 32.
RATES = {
    "lr_binary": 0.125,
    "lr_real": 0.125,
    "lr_norm": 0.125,
    "lr_c": 2.0**-7,
    "lr_discriminator": 2.0**-10,
}
TEACHER_BATCHES = 4  # that give a teacher's batch-norms their statistics


def trial_config(**settings: Any) -> ClassifierConfig:
    """R+G+B by the paper's settings, `settings` on top."""
    paper = read_yaml(ClassifierConfig, CONFIGS / "classify" / "resnet18_cifar.yaml")
    return from_settings(ClassifierConfig, paper | RATES | settings)


def made_up_images(count: int, seed: int = 0) -> ArrayData:
    """Smooth images of 32 x 32 pixels with labels at random."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = functional.interpolate(coarse, size=32, mode="bilinear").mul(255).to(torch.uint8)
    labels = torch.randint(CIFAR100.classes, (count,), generator=generator)
    return ArrayData(
        images, labels, tuple(map(str, range(CIFAR100.classes))), CIFAR100.mean, CIFAR100.std
    )


class Trial:
    """A rectifier on `device` and batches for it, the same on every device.

    `dtype`: of all weights and images.  `precision`: bfloat16 casts inside the networks, as a
    training does.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        precision: torch.dtype = torch.float32,
    ) -> None:
        images = config.loop.batch_size * TEACHER_BATCHES
        self.config = dataclasses.replace(config, images=images)
        self.device, self.dtype = device, dtype
        self.rectifier = self._build(precision)
        for module in self.rectifier.modules().values():
            module.to(device, dtype)

    def _build(self, precision: torch.dtype) -> Rectifier:
        """The networks as made on the CPU, so that they are the same everywhere, then on the
        device.
        """
        config = changed(self.config, precision=str(precision).removeprefix("torch."))
        images = made_up_images(config.images)
        self._recipe = ClassifierRecipe(config, ALONE, (images, images))
        made = self._rectifier(self._recipe)
        if self.device.type == "cpu":
            return made
        there = images.to(self.device)
        placed = self._rectifier(
            ClassifierRecipe(config, Process(0, 1, self.device), (there, there))
        )
        placed.load_state_dict(made.state_dict())
        return placed

    def _rectifier(self, recipe: ClassifierRecipe) -> Rectifier:
        if not recipe.config.needs_teacher:
            return recipe.build()
        with tempfile.TemporaryDirectory() as folder:
            teacher = Path(folder) / "teacher.safetensors"
            self._write_teacher(teacher)
            recipe.config = dataclasses.replace(recipe.config, teacher=str(teacher))
            return recipe.build()

    def _write_teacher(self, path: Path) -> None:
        """A float twin that has learned nothing but the statistics of its batch-norms."""
        torch.manual_seed(self.config.seed)
        twin = self.config.float_twin()
        net = build(self.config.model, **twin.network_options(CIFAR100.classes)).train()
        with torch.no_grad():
            for batch in self._recipe.batches(0, 0, TEACHER_BATCHES):
                net(batch["image"])
        save_weights(net, self.config.model, path)

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """The first `count` batches, on the device; they begin anew after the last."""
        first = list(islice(self._recipe.batches(0, 0, min(count, TEACHER_BATCHES)), count))
        placed = [self._placed(batch) for batch in first]
        return [placed[number % len(placed)] for number in range(count)]

    def _placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch["image"].to(self.device, self.dtype)
        return {"image": image, "label": batch["label"].to(self.device)}
