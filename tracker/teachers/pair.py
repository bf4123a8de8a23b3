"""A published tracker made of two graphs, backbone and head, as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rbsf.system.text import one_line
from rbsf.tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE
from rbsf.tracker.onnx_pair import check_order
from rbsf.tracker.teachers.graph import OnnxGraph, read_graph


class Lesson(NamedTuple):
    """A teacher's output for pairs of crops."""

    template: Tensor  # features [N, C, h, w]
    search: Tensor  # features [N, C, H, W]
    target: Tensor  # [N, rows, columns]: probability that a position is on the target
    sides: Tensor  # [N, 4, rows, columns]: logs of left, top, right, bottom distances, crop pixels


class TeacherPair(nn.Module):
    """NanoTrack and trackers of the same form.

    The backbone takes crops `[N, 3, S, S]`, BGR 0 to 255. The head takes features of template and
    search region. It returns class logits `[N, 2, rows, columns]`, with the target as second class,
    and distances `[N, 4, rows, columns]` in crop pixels.
    """

    def __init__(self, backbone: OnnxGraph, head: OnnxGraph) -> None:
        """Raises ValueError if the graphs do not fit together or return NaN."""
        super().__init__()
        self.backbone, self.head = backbone, head
        self.eval().requires_grad_(False)
        crops = [
            torch.zeros(1, 3, size, size, dtype=torch.uint8)
            for size in (EXEMPLAR_SIZE, SEARCH_SIZE)
        ]
        try:
            lesson = self(*crops)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = one_line(error, 150)
            raise ValueError(
                f"crops of {EXEMPLAR_SIZE} and {SEARCH_SIZE} pixels do not suit it: {reason}"
            ) from None
        self.channels = lesson.search.shape[1]  # of the features
        if not all(torch.isfinite(part).all() for part in lesson):
            raise ValueError("it gives numbers that are not finite for black crops")
        if lesson.sides.shape[1] != 4 or lesson.target.shape[1:] != lesson.sides.shape[2:]:
            raise ValueError(
                f"its head gives {tuple(lesson.target.shape)} and {tuple(lesson.sides.shape)}"
            )

    @torch.no_grad()
    def forward(self, exemplar: Tensor, search: Tensor) -> Lesson:
        """The lesson for crops `[N, 3, 127, 127]` and `[N, 3, 255, 255]`, RGB, 0 to 255."""
        (template,) = self.backbone(exemplar.flip(1).float())  # flip: RGB to BGR
        (region,) = self.backbone(search.flip(1).float())
        logits, distances = self.head(template, region)
        return Lesson(template, region, logits.softmax(1)[:, 1], distances.clamp(min=1e-3).log())


def read_pair(backbone: str | Path, head: str | Path) -> TeacherPair:
    """Read a teacher from its two files.

    Errors are those of `read_graph`, `check_order` and `TeacherPair`, and name the files.
    """
    try:
        graphs = read_graph(backbone), read_graph(head)
    except ValueError as error:
        raise ValueError(f"{error}; the order is BACKBONE,HEAD") from None
    check_order(backbone, head, *(len(graph.inputs) for graph in graphs))
    try:
        return TeacherPair(*graphs)
    except ValueError as error:
        raise ValueError(f"{backbone}, {head}: {error}") from None
