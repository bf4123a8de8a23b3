"""Trackers made of two ONNX graphs, run by ONNX Runtime, as networks of `rbsf.tracker.anchor_free`.

These are NanoTrack, similar trackers, and RB-SF 2 as `tools/export.py --format onnx` writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rbsf.system.text import one_line
from rbsf.tracker.anchor_free import AS_PUBLISHED, AnchorFreeConfig, Answer
from rbsf.tracker.rbsf2 import answer_of, try_network

OWN_INPUTS = {"template", "features"}  # inputs of the heads that this project writes


def split_pair(text: str | None, flag: str = "--teacher") -> tuple[Path, Path]:
    """The two files that `flag` was given as "BACKBONE,HEAD".

    Raises ValueError unless there are two.
    """
    files = [Path(name) for name in (text or "").split(",") if name]
    if len(files) != 2:
        raise ValueError(f"{flag} is {text!r}; give two files, BACKBONE.onnx,HEAD.onnx")
    return files[0], files[1]


def open_pair(backbone: str | Path, head: str | Path, threads: int = 1) -> OnnxPair:
    """The network made of two graphs; it uses `threads` CPU threads.

    Raises ValueError if the graphs cannot be read, are in the wrong order or do not fit together,
    ImportError without onnxruntime.
    """
    sessions = _session(backbone, threads), _session(head, threads)
    of_backbone, of_head = ([given.name for given in one.get_inputs()] for one in sessions)
    check_order(backbone, head, len(of_backbone), len(of_head))
    kind = RBSF2Pair if set(of_head) == OWN_INPUTS else OnnxPair
    network = kind(*sessions)
    try:
        answer = try_network(network)
    except Exception as error:  # ONNX Runtime has its own error classes
        fault = f"do not fit together ({one_line(error, 150)})"
        raise ValueError(f"{backbone} and {head} {fault}") from None
    target, sides = answer.target.shape, answer.sides.shape
    if len(target) != 2 or sides != (4, *target):
        raise ValueError(
            f"{head}: gives maps {target} and {sides},"
            " expected (rows, columns) and (4, rows, columns)"
        )
    return network


def check_order(
    backbone: str | Path, head: str | Path, backbone_inputs: int, head_inputs: int
) -> None:
    """Raise ValueError unless the backbone's graph takes one input and the head's takes two."""
    if (backbone_inputs, head_inputs) != (1, 2):
        raise ValueError(
            f"{backbone},{head}: the order is BACKBONE,HEAD, which take 1 and 2 inputs;"
            f" these take {backbone_inputs} and {head_inputs}"
        )


class OnnxPair:
    """Backbone and head as sessions of ONNX Runtime.

    Inputs and outputs are as in `rbsf.tracker.teachers.pair.TeacherPair`, which runs them in
    PyTorch.
    """

    constants = AS_PUBLISHED  # constants of the search

    def __init__(self, backbone: Any, head: Any) -> None:
        self._backbone = backbone
        self._head = head

    def learn(self, crop: np.ndarray) -> np.ndarray:
        """See `rbsf.tracker.anchor_free.Network`."""
        return self._backbone.run(None, self.image(crop))[0]

    def answer(self, template: np.ndarray, crop: np.ndarray) -> Answer:
        """See `rbsf.tracker.anchor_free.Network`."""
        return self._read(self._head.run(None, self.features(template, self.learn(crop))))

    def image(self, crop: np.ndarray) -> dict[str, np.ndarray]:
        """The backbone's input for a crop."""
        pixels = crop[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # BGR
        return {self._backbone.get_inputs()[0].name: pixels}

    def features(self, template: np.ndarray, search: np.ndarray) -> dict[str, np.ndarray]:
        """The head's inputs for features `[1, C, h, w]` and `[1, C, H, W]`."""
        first, second = (given.name for given in self._head.get_inputs())
        return {first: template, second: search}

    def _read(self, maps: list[np.ndarray]) -> Answer:
        background, target = maps[0][0].astype(np.float64)
        return Answer(1 / (1 + np.exp(background - target)), maps[1][0])


class RBSF2Pair(OnnxPair):
    """RB-SF 2's graphs, see `rbsf.export.onnx`."""

    constants = AnchorFreeConfig()

    def image(self, crop: np.ndarray) -> dict[str, np.ndarray]:
        """See `OnnxPair.image`."""
        return {"image": crop.transpose(2, 0, 1)[None].astype(np.float32)}

    def features(self, template: np.ndarray, search: np.ndarray) -> dict[str, np.ndarray]:
        """See `OnnxPair.features`."""
        return {"template": template, "features": search}

    def _read(self, maps: list[np.ndarray]) -> Answer:
        return answer_of(maps[0][0])


def load_any_size(path: str | Path) -> Any:
    """The ONNX model of a file, changed to take maps of any size; raises ValueError otherwise.

    Published backbones only allow the size of search regions, not that of exemplars.
    """
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # onnx has its own error classes
        raise ValueError(_unreadable(path, error)) from None
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for number, size in enumerate(value.type.tensor_type.shape.dim):
            if number >= 2:
                size.dim_param = f"{value.name}_{number}"
    return model


def _session(path: str | Path, threads: int) -> Any:
    import onnxruntime as ort

    if not Path(path).is_file():
        raise FileNotFoundError(f"no ONNX file {path}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # only errors
    model = load_any_size(path).SerializeToString()
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own error classes
        raise ValueError(_unreadable(path, error)) from None


def _unreadable(path: str | Path, error: Exception) -> str:
    return f"{path}: ONNX Runtime cannot read it: {one_line(error, 150)}"
