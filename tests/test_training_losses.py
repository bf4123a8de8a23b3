"""A training computes the same as before: losses of 20 float64 steps equal commit 63f8f22.

Weights, statistics and images are drawn by NumPy from the numbers that name them, so that they do
not depend on the order in which a version of this project makes its networks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from rbsf.layers import binary_layers
from rbsf.maps import start_from_teacher
from rbsf.models import build
from rbsf.train.adversarial import WIDTHS
from rbsf.train.cross_entropy import ClassificationTask
from rbsf.train.rectify import Rectifier, RectifyConfig

NETWORK = {"stages": "32-32-64-128", "stem": "cifar", "classes": 100}
POINTS = [f"stages.{stage}.{block}.norms.0" for stage in range(4) for block in range(4)]
STEPS = 20
NORM_EVERY = 5  # every fifth step is one of the batch-norm pass
CIFAR_SMALL = {"lambda_match": 0.0, "lambda_kernel": 1e-6, "lambda_adversarial": 5.0, "lr_c": 1e-4}
CIFAR_MATCHED = {
    "lambda_match": 1.0,
    "lambda_kernel": 0.01,
    "lambda_adversarial": 10.0,
    "optimizer": "sgd",
    "lr_binary": 0.1,
    "lr_real": 0.1,
    "lr_norm": 0.1,
    "lr_c": 0.01,
    "weight_decay": 1e-4,
}
LOSSES_OF_ADAM = [
    5.48009498697213,
    5.38983570054225,
    5.4564886459956465,
    5.24160125556074,
    5.5603393081977055,
    5.111417946571354,
    5.058778539132091,
    5.54839510525658,
    5.990983599004242,
    5.399100950247685,
    5.098742955807875,
    5.01945276966218,
    5.641673418133513,
    5.062209562264641,
    4.834788427768202,
    5.024142832409764,
    5.1154964059834045,
    5.149861235102689,
    5.07929183977049,
    5.34326523635948,
]
LOSSES_OF_SGD = [
    192.7155194745012,
    191.8849139327066,
    192.52948142062095,
    192.4288490801725,
    48.85353653974072,
    191.49278076671342,
    190.3521201524735,
    191.44494579467028,
    187.58224646588124,
    49.386014627670185,
    184.15305636745617,
    186.02214681736604,
    185.65998237394373,
    183.9091834200729,
    47.40896689913558,
    183.06746109586388,
    178.62497834124798,
    177.50961244798842,
    179.88916323149715,
    48.17021720693319,
]


def numbers(*name):
    """Normal deviates of the shape that is the last item of `name`."""
    *seed, shape = name
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@torch.no_grad()
def fill(net):
    for number, (name, parameter) in enumerate(net.named_parameters()):
        values = numbers(1, number, tuple(parameter.shape))
        if parameter.ndim > 1:
            parameter.copy_(values / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(values / 10 + name.endswith("weight"))


@torch.no_grad()
def fill_discriminators(discriminators):
    for width, same in discriminators.points.items():
        stack = discriminators.stacks[width]
        for number, point in enumerate(same):
            for block, (before, after) in enumerate(pairwise(WIDTHS)):
                seed = (POINTS.index(point), block)
                stack.weights[block][number] = numbers(4, *seed, (after, before)).T / before**0.5
                stack.biases[block][number, 0] = numbers(5, *seed, (after,)) / 10


def make_rectifier(settings):
    teacher = build("resnet18", **NETWORK).double()
    student = build("resnet18", **NETWORK, method="rbcn").double()
    fill(teacher)
    fill(student)
    stats = {}
    for number, point in enumerate(POINTS):
        channels = (teacher.get_submodule(point).num_features,)
        mean, spread = numbers(2, number, channels), numbers(3, number, channels)
        stats[point] = (mean / 10, 1 + spread.abs() / 10)
    start_from_teacher(student, teacher, stats)
    config = RectifyConfig(**settings)
    rectifier = Rectifier(student, teacher, ClassificationTask(), config, stats)
    rectifier.map_norms.double()
    rectifier.discriminators.double()
    fill_discriminators(rectifier.discriminators)
    return rectifier


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(CIFAR_SMALL, LOSSES_OF_ADAM, id="adam"),
        pytest.param(CIFAR_MATCHED, LOSSES_OF_SGD, id="sgd", marks=pytest.mark.slow),
    ],
)
def test_losses_of_20_steps_are_those_of_63f8f22(settings, expected):
    rectifier = make_rectifier(settings)
    losses = []
    for number in range(STEPS):
        image = numbers(6, number, (2, 3, 32, 32)).contiguous(memory_format=torch.channels_last)
        label = torch.tensor([number % 100, (7 * number + 3) % 100])
        norm_pass = number % NORM_EVERY == NORM_EVERY - 1
        step = rectifier.norm_step if norm_pass else rectifier.step
        losses.append(step({"image": image, "label": label}, number // 10)["loss"].item())
    assert losses == pytest.approx(expected, rel=1e-6, abs=0)


def test_networks_have_the_sizes_of_63f8f22():
    rectifier = make_rectifier(CIFAR_SMALL)
    layers = binary_layers(rectifier.student).values()
    assert sum(p.numel() for p in rectifier.student.parameters()) == 754_788
    assert sum(layer.weight.numel() for layer in layers) == 718_848
    assert sum(p.numel() for p in rectifier.discriminators.parameters()) == 108_560
