"""NanoTrack, and other published trackers of two ONNX graphs, in ONNX Runtime as a network of `tracker.anchor_free`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tracker.anchor_free import Answer
from tracker.geometry import EXEMPLAR_SIZE, SEARCH_SIZE


class OnnxPair:
    """Backbone and head; what they take and give: see `tracker.teachers.pair.OnnxPair`, which runs them in PyTorch."""

    def __init__(self, backbone: str | Path, head: str | Path, threads: int = 1) -> None:
        """ValueError for graphs that cannot be read or do not go together; ImportError without onnxruntime."""
        self._backbone, self._head = (_session(path, threads) for path in (backbone, head))
        crops = [np.zeros((size, size, 3), np.uint8) for size in (EXEMPLAR_SIZE, SEARCH_SIZE)]
        try:
            answer = self.answer(self.learn(crops[0]), crops[1])
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise ValueError(f"{backbone}, {head}: {' '.join(str(error).split())[:200]}") from None
        if answer.target.ndim != 2 or answer.sides.shape != (4, *answer.target.shape):
            raise ValueError(f"{head}: gives maps {answer.target.shape} and {answer.sides.shape}, expected a class map")

    def learn(self, crop: np.ndarray) -> np.ndarray:
        """See `tracker.anchor_free.Network`."""
        pixels = crop[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # BGR
        return self._backbone.run(None, {self._backbone.get_inputs()[0].name: pixels})[0]

    def answer(self, template: np.ndarray, crop: np.ndarray) -> Answer:
        """See `tracker.anchor_free.Network`."""
        first, second = (given.name for given in self._head.get_inputs())
        logits, sides = self._head.run(None, {first: template, second: self.learn(crop)})
        background, target = logits[0].astype(np.float64)
        return Answer(1 / (1 + np.exp(background - target)), sides[0])


def _session(path: str | Path, threads: int) -> Any:
    """A session of the graph for maps of any size: published backbones name that of search regions alone."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    try:
        model = onnx.load(path)
        del model.graph.value_info[:]
        for value in (*model.graph.input, *model.graph.output):
            for number, size in enumerate(value.type.tensor_type.shape.dim):
                if number >= 2:
                    size.dim_param = f"{value.name}_{number}"
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ValueError(f"{path}: ONNX Runtime cannot read it: {' '.join(str(error).split())[:150]}") from None
