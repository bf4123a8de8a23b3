"""Records the kernel launches of a step of Algorithm 1 once, as a CUDA graph, and replays them.

A step of a small network consists of hundreds of kernels of a few microseconds each. If Python
launches them one by one, the GPU is idle most of the time. A replayed graph launches all at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rbsf.train.rectify import Rectifier

WARM_UP = 3  # plain steps before a recording; optimizers and libraries allocate memory in them
Batch = dict[str, Tensor]
Step = Callable[[Batch, int], dict[str, Tensor]]


class CudaGraph:
    """The recorded launches of a function; they only run in a replay, which updates `result`.

    Raises RuntimeError if `function` does something that cannot be recorded, such as a wait.
    """

    def __init__(self, function: Callable[[], Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        # Each graph has its own stream, since two graphs must not share the data that libraries
        # keep for a stream. The outer context restores the current stream if recording fails.
        own = torch.cuda.Stream()
        with torch.cuda.stream(current), torch.cuda.graph(self._graph, stream=own):
            self.result = function()

    def replay(self) -> None:
        """Run the recorded launches."""
        self._graph.replay()


@dataclass
class Recording:
    """A recorded step."""

    key: tuple  # the conditions it was recorded for, see `CapturedSteps._key`
    inputs: Batch  # the tensors that it reads
    names: list[str]  # names of the values that it logs
    graph: CudaGraph


class CapturedSteps:
    """`step` and `norm_step` of a Rectifier, recorded once each and replayed.

    Results are those of the plain steps. The first steps of each kind are plain. A step is recorded
    again if the weights of the losses or the form of the batch change. If it cannot be recorded, a
    line on stderr says why, and all further steps are plain.
    """

    def __init__(self, rectifier: Rectifier) -> None:
        self.rectifier = rectifier
        self.failure = ""  # the reason why recording failed
        self._plain_steps: Counter[str] = Counter()
        self._recordings: dict[str, Recording] = {}

    def step(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """See `Rectifier.step`."""
        return self._run("step", self.rectifier.step, batch, epoch)

    def norm_step(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """See `Rectifier.norm_step`."""
        return self._run("norm_step", self.rectifier.norm_step, batch, epoch)

    def _run(self, kind: str, step: Step, batch: Batch, epoch: int) -> dict[str, Tensor]:
        if self.failure:
            return step(batch, epoch)
        if self._plain_steps[kind] < WARM_UP:
            self._plain_steps[kind] += 1
            return _on_side_stream(step, batch, epoch)
        self._bring_up_to_date(kind, step, batch, epoch)
        recording = self._recordings.get(kind)
        return step(batch, epoch) if recording is None else _replay(recording, batch)

    def _bring_up_to_date(self, kind: str, step: Step, batch: Batch, epoch: int) -> None:
        """Record the step if there is no recording or it is for other weights or batches."""
        key = self._key(batch, epoch)
        if kind in self._recordings and self._recordings[kind].key == key:
            return
        self._recordings.pop(kind, None)  # frees its memory for the next one
        try:
            self._recordings[kind] = self._record(key, step, batch, epoch)
        except RuntimeError as error:
            self._give_up(error)

    def _key(self, batch: Batch, epoch: int) -> tuple:
        """Everything that a recording depends on, except the numbers in tensors."""
        forms = [(name, tensor.shape, tensor.dtype) for name, tensor in batch.items()]
        config = self.rectifier.config
        return config.lambda_factor(epoch), self.rectifier.keeps_statistics(epoch), *forms

    def _record(self, key: tuple, step: Step, batch: Batch, epoch: int) -> Recording:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        names: list[str] = []

        def launch() -> Tensor:
            logged = step(inputs, epoch)
            names[:] = logged
            return torch.stack([value.double() for value in logged.values()])

        return Recording(key, inputs, names, CudaGraph(launch))

    def _give_up(self, error: RuntimeError) -> None:
        # The first error says why the recording failed, the last one only that it did.
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        self.failure = (str(first).splitlines() or [type(first).__name__])[0]
        self._recordings.clear()
        happened = "the training step cannot be captured and is launched piece by piece"
        print(f"{happened}: {self.failure}", file=sys.stderr)


def _on_side_stream(step: Step, batch: Batch, epoch: int) -> dict[str, Tensor]:
    """A plain step on a separate stream, which PyTorch requires for steps before a recording.

    Without a GPU it is just the step.
    """
    if not torch.cuda.is_available():
        return step(batch, epoch)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        logged = step(batch, epoch)
    torch.cuda.current_stream().wait_stream(side)
    return logged


def _replay(recording: Recording, batch: Batch) -> dict[str, Any]:
    for name, tensor in batch.items():
        recording.inputs[name].copy_(tensor)
    recording.graph.replay()
    values = recording.graph.result.clone()  # the next replay writes into the result
    return dict(zip(recording.names, values.unbind(), strict=True))
