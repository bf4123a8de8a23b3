"""A teacher with random weights, for tests and trial runs.

Its backbone is one convolution, its head consists of two.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rbsf.tracker.teachers.graph import OnnxGraph, Operation, write_graph


def write_made_up(backbone: Path, head: Path, *, features: int = 96) -> None:
    """Write both graphs in the form that `rbsf.tracker.teachers.pair.TeacherPair` takes.

    `features`: channels of the backbone's maps.
    """
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 30

    stride = {"strides": [16, 16], "pads": [1, 1, 0, 0]}
    operations = [Operation("Conv", ("pixels", "w"), "features", stride)]
    values = {"w": weight(features, 3, 16, 16) / 30}
    write_graph(OnnxGraph(["pixels"], ["features"], operations, values), backbone)
    operations = [
        Operation("Conv", ("search", "c"), "logits", {}),
        Operation("Conv", ("search", "b"), "logs", {}),
        Operation("Exp", ("logs",), "sides", {}),
    ]
    values = {"c": weight(2, features, 2, 2), "b": weight(4, features, 2, 2)}
    write_graph(OnnxGraph(["template", "search"], ["logits", "sides"], operations, values), head)
