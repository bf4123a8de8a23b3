"""A training step of a CIFAR network on made-up images, for checks and timings of a step."""

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
from rbsf.tools.recipes.classifier import ClassifierRecipe
from rbsf.tools.recipes.classifier_config import ClassifierConfig
from rbsf.train.config import changed, from_settings, read_yaml
from rbsf.train.device import name_of
from rbsf.train.distributed import ALONE, Process
from rbsf.train.rectify import Rectifier
from rbsf.weights import save_weights

# Powers of two are exact in 32 and in 64 bits. A GPU keeps rates in 32 bits.
RATES = {
    "lr_binary": 0.125,
    "lr_real": 0.125,
    "lr_norm": 0.125,
    "lr_c": 2.0**-7,
    "lr_discriminator": 2.0**-10,
}
TEACHER_BATCHES = 4  # batches from which a teacher's batch-norms get their statistics


def trial_config(**settings: Any) -> ClassifierConfig:
    """The paper's settings of R+G+B, changed by `settings`."""
    paper = read_yaml(ClassifierConfig, CONFIGS / "classify" / "resnet18_cifar.yaml")
    return from_settings(ClassifierConfig, paper | RATES | settings)


def made_up_images(count: int, seed: int = 0) -> ArrayData:
    """Smooth images of 32 x 32 pixels with random labels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    fine = functional.interpolate(coarse, size=32, mode="bilinear")  # [count, 3, 32, 32]
    images = fine.mul(255).to(torch.uint8)
    labels = torch.randint(CIFAR100.classes, (count,), generator=generator)
    names = tuple(map(str, range(CIFAR100.classes)))
    return ArrayData(images, labels, names, CIFAR100.mean, CIFAR100.std)


class Trial:
    """A rectifier on `device` and batches for it, the same on every device.

    `dtype` is that of all weights and images. With `precision` bfloat16 the networks compute in
    bfloat16 where a training does.
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
        """Make the networks on the CPU, so that they are the same everywhere, then move them."""
        config = changed(self.config, precision=name_of(precision))
        images = made_up_images(config.images)
        self._recipe = ClassifierRecipe(config, ALONE, (images, images))
        on_cpu = self._rectifier(self._recipe)
        if self.device.type == "cpu":
            return on_cpu
        moved = images.to(self.device)
        recipe = ClassifierRecipe(config, Process(0, 1, self.device), (moved, moved))
        on_device = self._rectifier(recipe)
        on_device.load_state_dict(on_cpu.state_dict())
        return on_device

    def _rectifier(self, recipe: ClassifierRecipe) -> Rectifier:
        if not recipe.config.needs_teacher:
            return recipe.build()
        with tempfile.TemporaryDirectory() as folder:
            teacher = Path(folder) / "teacher.safetensors"
            self._write_teacher(teacher)
            recipe.config = dataclasses.replace(recipe.config, teacher=str(teacher))
            return recipe.build()

    def _write_teacher(self, path: Path) -> None:
        """Write a float twin that has learned only the statistics of its batch-norms."""
        torch.manual_seed(self.config.seed)
        twin = self.config.float_twin()
        net = build(self.config.model, **twin.network_options(CIFAR100.classes)).train()
        with torch.no_grad():
            for batch in self._recipe.batches(0, 0, TEACHER_BATCHES):
                net(batch["image"])
        save_weights(net, self.config.model, path)

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """`count` batches on the device; after TEACHER_BATCHES they repeat."""
        first = list(islice(self._recipe.batches(0, 0, min(count, TEACHER_BATCHES)), count))
        placed = [self._placed(batch) for batch in first]
        return [placed[number % len(placed)] for number in range(count)]

    def _placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch["image"].to(self.device, self.dtype)
        return {"image": image, "label": batch["label"].to(self.device)}
