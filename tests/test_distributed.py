"""A training in two processes equals one in a single process with batches of twice the size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conftest import ROOT
from requirements import needs
from torch import nn
from trainings import run_processes

from rbsf.train import distributed
from rbsf.train.config import from_settings, setting
from rbsf.train.loop import Loop
from rbsf.train.rectify import Rectifier
from rbsf.train.run_config import RunConfig

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(),
    reason=needs("distributed", "PyTorch was built without it"),
)

STEPS, BATCH = 3, 8


@dataclass
class ToyConfig(RunConfig):
    """Settings of the training."""

    UNIT: ClassVar[str] = "image"

    images: int = setting(STEPS * BATCH, "images")


class Toy(nn.Module):
    """Two linear layers, and the mean of the last batch as a buffer.

    Samples do not affect each other, as they would in a batch-norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.copy_(x.mean(0))
        return self.layers(x)


def task(student, teacher, batch):
    return (student(batch["x"]) - batch["y"]).square().mean(), {}


def train(out, batch_size):
    """Train in this process of its group, from weights of its own; the network goes to RANK.pt."""
    rank, world, _ = distributed.start(torch.device("cpu"))
    distributed.average_gradients([])  # as for layers with a rate of 0
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(STEPS, BATCH, size, generator=generator) for size in (4, 2))

    def batches(epoch, start, count):
        part = slice(rank * batch_size, (rank + 1) * batch_size)
        for step in range(start, count):
            yield {"x": x[step, part], "y": y[step, part]}

    torch.manual_seed(rank)
    plain = {"gan": False, "lambda_match": 0.0, "bn_pass": 0.0, "optimizer": "sgd", "lr_real": 0.1}
    pace = {"epochs": 1, "batch_size": batch_size, "warmup": 0}
    config = from_settings(ToyConfig, plain | pace)
    net = Toy()
    rectifier = Rectifier(net, None, task, config.algorithm)
    Loop(rectifier, batches, config, out, None, rank, world).run()
    torch.save(net.state_dict(), out / f"{rank}.pt")
    distributed.stop()


PROGRAM = """
import sys
from pathlib import Path
from test_distributed import train

train(Path(sys.argv[1]), {size})
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The networks of one process, and of two with halves of its batches."""
    folder = tmp_path_factory.mktemp("distributed")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    found = {}
    for count in (1, 2):
        out = folder / str(count)
        out.mkdir()
        program = folder / f"{count}.py"
        program.write_text(PROGRAM.format(size=BATCH // count))
        run_processes(count, program, str(out), PYTHONPATH=path)
        found[count] = [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(count)]
    return found


def test_both_processes_have_the_same_network(trained):
    first, second = trained[2]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_are_one_with_batches_of_twice_the_size(trained):
    """The mean of the gradients of both halves is that of the whole; buffers agree as well."""
    torch.testing.assert_close(trained[2][0], trained[1][0], rtol=1e-5, atol=1e-6)


def test_the_training_moves_every_weight(trained):
    torch.manual_seed(0)
    start = Toy().state_dict()
    assert all((trained[1][0][name] - start[name]).abs().max() > 1e-3 for name in start)
