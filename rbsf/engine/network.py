"""Run packed network files on the CPU: uint8 images in, float32 logits out, without torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from rbsf.engine import runtime
from rbsf.engine.node_kernels import Kernel, Target, prepare
from rbsf.engine.nodes import NetworkModel, Node, Shape, read_network

MAX_IMAGE_BYTES = 1 << 30  # that the maps of one image may take
CHUNK_BYTES = 16 << 20  # of maps: more images than fit are computed in turns, which keeps to the caches
KEPT = 4  # numbers of images, whose maps are kept for the next call


@dataclass(frozen=True)
class _Step:
    """One kernel's run: it reads the maps called `inputs` and writes that called `output`, of buffer `slot`."""

    name: str  # of the node that takes the time
    inputs: tuple[str, ...]
    output: str
    slot: int
    shape: Shape
    kernel: Kernel


@dataclass
class _Workspace:
    """Arrays for so many images: a map for each step, of which those never alive together share memory."""

    maps: dict[str, np.ndarray]
    scratch: list[list[np.ndarray]]


class Network:
    """A packed network as a function of images uint8 (N, H, W, C): float32 (N, classes).

    Its kernels give the same numbers, to the bit, for every instruction set and number of threads.  isa="numpy" is the
    reference: the same bits and roundings but for the sums of real convolutions and linear layers, which BLAS adds in
    another order, with its own threads.  A network may be called from several Python threads at once.
    """

    def __init__(self, model: NetworkModel | str | Path, threads: int = 1, isa: str = "auto") -> None:
        """`model`: a checked model or the path of its file; `isa`: one of `runtime.available_isas`; see `choose_isa`.

        Raises ValueError for an instruction set this machine has not, more threads than cores, a network whose maps
        take over 1 GiB an image and what `read_network` refuses; FileNotFoundError.
        """
        self.model = model if isinstance(model, NetworkModel) else read_network(model)
        self.threads, self.isa = runtime._check_threads(threads), runtime.choose_isa(isa)
        self._steps = _plan(self.model, Target(runtime._native, self.isa, self.threads))
        self._slots = [0] * (1 + max(step.slot for step in self._steps))  # floats an image
        for step in self._steps:
            self._slots[step.slot] = max(self._slots[step.slot], int(np.prod(step.shape)))
        needed = 4 * sum(self._slots) + sum(step.kernel.scratch_bytes() for step in self._steps)
        if needed > MAX_IMAGE_BYTES:
            where = self.model.path or "the network"
            raise ValueError(f"{where}: its maps take {needed:,} bytes an image; {MAX_IMAGE_BYTES:,} at most")
        self.chunk = max(1, CHUNK_BYTES // needed)
        self._free: dict[int, list[_Workspace]] = {}
        self._lock = threading.Lock()

    @property
    def input_shape(self) -> Shape:
        """(H, W, C) of the images."""
        return self.model.shapes[self.model.nodes[0].name]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 (N, classes), the last node's map, of images uint8 (N, H, W, C); ValueError otherwise."""
        self._check(images)
        out = np.empty((len(images), *self._steps[-1].shape), np.float32)
        for start in range(0, len(images), self.chunk):
            part = images[start : start + self.chunk]
            workspace = self._take(len(part))
            self._run(part, workspace)
            out[start : start + len(part)] = workspace.maps[self._steps[-1].output]
            self._give_back(len(part), workspace)
        return out

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """After every step its map, float32 (N, H, W, C) or (N, C), by the name of its node; and the images.

        A binary convolution with nothing but a shortcut's sum behind it has no map of its own.
        """
        self._check(images)
        found: dict[str, np.ndarray] = {self.model.nodes[0].name: images}
        self._run(images, self._workspace(len(images)), found)
        return found

    def node_seconds(self, images: np.ndarray) -> dict[str, float]:
        """Seconds that each step takes, by the name of its node; a sum that is part of a convolution is in its."""
        self._check(images)
        workspace = self._take(len(images))
        spent = self._run(images, workspace)
        self._give_back(len(images), workspace)
        return spent

    def _check(self, images: np.ndarray) -> None:
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != self.input_shape:
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise ValueError(f"images are {found}, expected a uint8 array (N, {', '.join(map(str, self.input_shape))})")
        if not len(images):
            raise ValueError("there are no images")

    def _run(
        self, images: np.ndarray, workspace: _Workspace, found: dict[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """Fill the workspace's maps; put copies of them into `found`; return seconds by node."""
        spent = {}
        maps = {**workspace.maps, self.model.nodes[0].name: np.ascontiguousarray(images)}
        for step, scratch in zip(self._steps, workspace.scratch, strict=True):
            start = perf_counter()
            step.kernel.run([maps[name] for name in step.inputs], maps[step.output], scratch)
            spent[step.name] = perf_counter() - start
            if found is not None:
                found[step.output] = maps[step.output].copy()
        return spent

    def _take(self, count: int) -> _Workspace:
        """A workspace that no other call is using."""
        with self._lock:
            if self._free.get(count):
                return self._free[count].pop()
        return self._workspace(count)

    def _give_back(self, count: int, workspace: _Workspace) -> None:
        with self._lock:
            if len(self._free) >= KEPT and count not in self._free:
                self._free.clear()
            self._free.setdefault(count, []).append(workspace)

    def _workspace(self, count: int) -> _Workspace:
        slots = [np.empty(count * size, np.float32) for size in self._slots]
        maps = {s.output: slots[s.slot][: count * int(np.prod(s.shape))].reshape(count, *s.shape) for s in self._steps}
        scratch: list[list[np.ndarray]] = [
            [np.zeros((count, *shape), kind) for shape, kind in s.kernel.scratch] for s in self._steps
        ]
        return _Workspace(maps, scratch)


def _plan(model: NetworkModel, target: Target) -> list[_Step]:
    """The steps in order, each with a buffer that holds nothing that is read later."""
    work = _fuse(model.nodes, target)
    last_use = {name: number for number, (_, inputs, _) in enumerate(work) for name in inputs}
    slots: dict[str, int] = {}
    free: list[int] = []
    steps = []
    for number, (node, inputs, output) in enumerate(work):
        done = [slots[name] for name in {*inputs} & slots.keys() if last_use[name] == number]
        if output != node.name and last_use[inputs[1]] == number and inputs[1] in slots:
            slots[output] = slots[inputs[1]]  # the sum takes the place of what was added
            done.remove(slots[output])
        else:
            slots[output] = free.pop() if free else 1 + max(slots.values(), default=-1)
        shapes = [model.shapes[name] for name in inputs]
        kernel = prepare(node, shapes, target, plus=output != node.name)
        if node.op != "affine" and model.nodes[0].name in inputs:
            kernel = _of_floats(kernel)
        steps.append(_Step(node.name, inputs, output, slots[output], model.shapes[output], kernel))
        free += done if output in last_use else [*done, slots[output]]
    return steps


def _of_floats(kernel: Kernel) -> Kernel:
    """For a node that reads the images themselves."""
    return Kernel(
        lambda inputs, out, own: kernel.run([np.asarray(x, np.float32) for x in inputs], out, own), kernel.scratch
    )


def _fuse(nodes: Sequence[Node], target: Target) -> list[tuple[Node, tuple[str, ...], str]]:
    """(node, inputs, output) in order: a binary convolution whose map is only added to another does that as well."""
    uses = [name for node in nodes for name in node.inputs]
    alone = {n.name: n for n in nodes if n.op == "conv_bits" and uses.count(n.name) == 1 and target.isa != "numpy"}
    fused: dict[str, tuple[Node, tuple[str, ...], str]] = {}  # by the name of the sum
    for node in nodes:
        if node.op == "add" and (conv := next((alone[name] for name in node.inputs if name in alone), None)):
            other = next(name for name in node.inputs if name != conv.name)
            fused[node.name] = (conv, (*conv.inputs, other), node.name)
            del alone[conv.name]
    gone = {conv.name for conv, _, _ in fused.values()}
    return [fused.get(n.name, (n, n.inputs, n.name)) for n in nodes[1:] if n.name not in gone]
