"""Turns a packed network into the steps that compute it.

This module decides what is fused, how bits are stored, and which maps share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from time import perf_counter

import numpy as np

from rbsf.engine import ops
from rbsf.engine.bit_layout import Packed, layout
from rbsf.engine.fusion import find_runs
from rbsf.engine.fusions.base import Fusion, Need, Run, Single, need_of
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits, sign

Key = tuple[str, Need | None]  # an edge: unpacked, or packed as binary convolutions need it


@dataclass(frozen=True)
class Step:
    """One run of a kernel, which reads the arrays `inputs` and writes the array `output`."""

    name: str  # the node to which its time is added
    op: str
    inputs: tuple[Key, ...]
    output: Key
    kernel: Kernel
    overwrites: Key | None = None  # an input whose memory the output may take


class Program:
    """The runs of a network and the order of its bits, for images of any size."""

    def __init__(self, model: PackedModel, target: Target) -> None:
        self.model, self.target = model, target
        self.runs = find_runs(model, target)
        self.needs: dict[str, set[Need | None]] = {run.output: set() for run in self.runs}
        reads = [self._key(*read) for run in self.runs for read in run.inputs]
        for name, need in reads:
            self.needs.setdefault(name, set()).add(need)
        self.packed: dict[Key, Packed] = {}
        for run in self.runs:
            for need in filter(None, self.needs[run.output]):
                key = run.output, need
                self.packed[key] = target.prepare(key, partial(self._packed, run, need))

    def _packed(self, run: Run, need: Need) -> Packed:
        """The form in which `run` writes its bits for readers with this need."""
        groups, padding, border = need
        channels = self.model.maps[run.output].shape[-1]
        order = layout(channels, run.written_groups(), groups)
        return Packed(order, padding, border, run.flips(channels))

    def steps(self, maps: dict[str, Map]) -> list[Step]:
        """The steps for images of one size, in order."""
        return [step for run in self.runs for step in self._steps_of(run, maps)]

    def _steps_of(self, run: Run, maps: dict[str, Map]) -> Iterator[Step]:
        inputs = tuple(self._key(*read) for read in run.inputs)
        needs = sorted(self.needs[run.output] or {None}, key=str)
        if isinstance(run, Single):
            yield from self._steps_of_single(run.node, inputs, needs, maps)
            return
        assert isinstance(run, Fusion)  # for the type checker
        (need,) = needs
        first, output = run.nodes[0], (run.output, need)
        reads = [self.packed[key] for key in inputs if key in self.packed]
        kernel = run.kernel(reads, self.packed.get(output), self.target)
        overwrites = inputs[-1] if run.ends_in_sum else None
        yield Step(first.name, first.op, inputs, output, kernel, overwrites)

    def _steps_of_single(
        self, node: Node, inputs: tuple[Key, ...], needs: list[Need | None], maps: dict[str, Map]
    ) -> Iterator[Step]:
        """The steps of a single node; a sign writes packed bits, other outputs are packed later."""
        plain: Key = (node.name, None)
        if node.op != "sign" or None in needs:
            yield Step(node.name, node.op, inputs, plain, self._single(node, inputs, maps))
        for need in filter(None, needs):
            packed = self.packed[node.name, need]
            if node.op == "sign":
                sources = [maps[name] for name in node.inputs]
                kernel = sign.packed_kernel(node, sources, packed, self.target)
                yield Step(node.name, node.op, inputs, (node.name, need), kernel)
            else:
                yield Step(node.name, "pack", (plain,), (node.name, need), _packing(packed))

    def _key(self, name: str, need: Need | None) -> Key:
        """The array that a run reads; NumPy reads unpacked bits."""
        return name, need if self.target.isa != "numpy" else None

    def _single(self, node: Node, inputs: tuple[Key, ...], maps: dict[str, Map]) -> Kernel:
        out = maps[node.name]
        if need_of(node) and self.target.isa != "numpy":
            return conv_bits.packed_kernel(node, self.packed[inputs[0]], out, self.target)
        return ops.kernel(node, [maps[name] for name in node.inputs], out, self.target)


def _packing(write: Packed) -> Kernel:
    """A kernel that packs bits in NumPy."""

    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        write.inside(out)[:] = write.pack(inputs[0])

    return Kernel(run, native=False)


@dataclass
class Plan:
    """Steps for images of one size, and the memory of their maps.

    Maps that are never needed at the same time share a slot of memory.
    """

    steps: list[Step]
    maps: dict[str, Map]
    packed: dict[Key, Packed]
    slots: dict[Key, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)  # bytes of each slot for one image

    def __post_init__(self) -> None:
        last_use = {key: number for number, step in enumerate(self.steps) for key in step.inputs}
        free: list[int] = []
        for number, step in enumerate(self.steps):
            done = {key for key in step.inputs if last_use[key] == number and key in self.slots}
            if self._needs_slot(step):
                self.slots[step.output] = self._slot(step, done, free)
                if step.output not in last_use:
                    done.add(step.output)
            free += [self.slots[key] for key in done]

    def _needs_slot(self, step: Step) -> bool:
        """False for packed bits, which have their own memory, and for the caller's result array."""
        return step.output not in self.packed and step is not self.steps[-1]

    def _slot(self, step: Step, done: set[Key], free: list[int]) -> int:
        """A slot with no map that a later step reads."""
        if step.overwrites in done:
            done.remove(step.overwrites)
            slot = self.slots[step.overwrites]
        elif free:
            slot = free.pop()
        else:
            slot = len(self.sizes)
            self.sizes.append(0)
        self.sizes[slot] = max(self.sizes[slot], self.maps[step.output[0]].bytes)
        return slot

    @cached_property
    def bytes(self) -> int:
        """Bytes that the maps of one image take, including the result."""
        packed = 0
        for (name, _), form in self.packed.items():
            packed += prod(form.shape(self.maps[name].shape))
        scratch = sum(step.kernel.scratch_bytes() for step in self.steps)
        result = self.maps[self.steps[-1].output[0]].bytes
        return sum(self.sizes) + packed + scratch + result

    def arrays(self, count: int) -> dict[Key, np.ndarray]:
        """Memory for the maps of `count` images.

        The images themselves and the output of the last step are not included.
        """
        slots = [np.empty(count * size, np.uint8) for size in self.sizes]
        arrays = {}
        for key, form in self.packed.items():
            arrays[key] = form.array(count, self.maps[key[0]].shape)
        for key, slot in self.slots.items():
            out = self.maps[key[0]]
            memory = slots[slot][: count * out.bytes]
            arrays[key] = memory.view(out.dtype).reshape(count, *out.shape)
        return arrays


Watch = Callable[[Step, np.ndarray, float], None]  # takes a step, its output, and its seconds


class Workspace:
    """A plan's memory for `count` images, with its kernels bound to that memory."""

    def __init__(self, plan: Plan, count: int) -> None:
        self.arrays = plan.arrays(count)
        self._image: Key = (next(iter(plan.maps)), None)
        self._calls: list[tuple[Step, list[np.ndarray], list[np.ndarray]]] = []
        self._readers: list[tuple[int, int]] = []  # the step and the place of each image input
        for number, step in enumerate(plan.steps):
            inputs = [self.arrays.get(key, NOTHING) for key in step.inputs]
            self._calls.append((step, inputs, _scratch(step.kernel, count)))
            for place, key in enumerate(step.inputs):
                if key == self._image:
                    self._readers.append((number, place))

    def run(self, images: np.ndarray, result: np.ndarray, watch: Watch | None = None) -> None:
        """Compute `result` from `images`; call `watch` after each step."""
        for number, place in self._readers:
            self._calls[number][1][place] = images
        last = self._calls[-1][0]
        for step, inputs, scratch in self._calls:
            out = result if step is last else self.arrays[step.output]
            start = perf_counter() if watch else 0.0
            step.kernel.run(inputs, out, scratch)
            if watch:
                watch(step, out, perf_counter() - start)


def _scratch(kernel: Kernel, count: int) -> list[np.ndarray]:
    return [np.zeros((count, *shape), dtype) for shape, dtype in kernel.scratch]


NOTHING = np.empty(0, np.uint8)  # placeholder for the images of a call
