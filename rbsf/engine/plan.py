"""From a packed network to the steps that compute it: what is fused, how bits lie, which maps share
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from time import perf_counter

import numpy as np

from rbsf.engine import fusion_kernels, ops
from rbsf.engine.fusion import Need, Run, find_runs, need_of
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.layout import Packed, layout
from rbsf.engine.node import Map, Node
from rbsf.engine.ops import conv_bits, sign

Key = tuple[str, Need | None]  # an edge, as it is or as binary convolutions take it


@dataclass(frozen=True)
class Step:
    """One kernel's run: it reads the arrays called `inputs` and writes that called `output`."""

    name: str  # of the node that the time counts for
    op: str
    inputs: tuple[Key, ...]
    output: Key
    kernel: Kernel
    overwrites: Key | None = None  # an input whose memory the output may take


class Program:
    """A network's runs and the order of its bits, for images of any size."""

    def __init__(self, model: PackedModel, target: Target) -> None:
        self.model, self.target = model, target
        self.runs = find_runs(model, fuse=target.isa != "numpy")
        self.needs: dict[str, set[Need | None]] = {run.output: set() for run in self.runs}
        for name, need in (self._key(*read) for run in self.runs for read in run.inputs):
            self.needs.setdefault(name, set()).add(need)
        self.packed: dict[Key, Packed] = {
            (run.output, need): self._packed(run, need)
            for run in self.runs
            for need in self.needs[run.output]
            if need
        }

    def _packed(self, run: Run, need: Need) -> Packed:
        groups, padding, border = need
        channels = self.model.maps[run.output].shape[-1]
        written_in, inverted = 1, np.zeros(channels, bool)
        if run.kind == "to bits":
            written_in = run.nodes[0].attributes["groups"]
            inverted |= run.nodes[-1].tensors.get("flip", np.uint8(0)) > 0
        return Packed(layout(channels, written_in, groups), padding, border, inverted)

    def steps(self, maps: dict[str, Map]) -> list[Step]:
        """What to do for images of one size, in order."""
        return [step for run in self.runs for step in self._steps_of(run, maps)]

    def _steps_of(self, run: Run, maps: dict[str, Map]) -> Iterator[Step]:
        inputs = tuple(self._key(*read) for read in run.inputs)
        first, name = run.nodes[0], run.output
        needs = sorted(self.needs[name] or {None}, key=str)
        if run.kind != "single":
            (need,) = needs
            overwrites = inputs[-1] if fusion_kernels.ends_in_sum(run) else None
            yield Step(
                first.name,
                first.op,
                inputs,
                (name, need),
                self._fused(run, inputs, (name, need)),
                overwrites,
            )
            return
        if first.op != "sign" or None in needs:  # a sign writes packed bits at once
            yield Step(name, first.op, inputs, (name, None), self._single(first, inputs, maps))
        for key in ((name, need) for need in needs if need):
            if first.op == "sign":
                kernel = sign.packed_kernel(
                    first, [maps[n] for n in first.inputs], self.packed[key], self.target
                )
                yield Step(name, first.op, inputs, key, kernel)
            else:
                yield Step(name, "pack", ((name, None),), key, _packing(self.packed[key]))

    def _key(self, name: str, need: Need | None) -> Key:
        """The array that a run reads; NumPy takes bits as they are."""
        return name, need if self.target.isa != "numpy" else None

    def _fused(self, run: Run, inputs: tuple[Key, ...], output: Key) -> Kernel:
        if run.kind == "to bits":
            return fusion_kernels.to_bits(
                run, self.packed.get(inputs[0]), self.packed[output], self.target
            )
        if run.kind == "to planes":
            return fusion_kernels.to_planes(run, self.packed[inputs[0]], self.target)
        if run.kind == "steps":
            return fusion_kernels.steps(run, self.packed[inputs[0]], self.target)
        if run.kind == "rounded":
            return fusion_kernels.rounded(run, self.model.maps[run.output].shape[-1], self.target)
        reads = [self.packed[key] for key in inputs if key in self.packed]
        return fusion_kernels.scaled(run, reads, self.target)

    def _single(self, node: Node, inputs: tuple[Key, ...], maps: dict[str, Map]) -> Kernel:
        out = maps[node.name]
        if need_of(node) and self.target.isa != "numpy":
            return conv_bits.packed_kernel(node, self.packed[inputs[0]], out, self.target)
        return ops.kernel(node, [maps[name] for name in node.inputs], out, self.target)


def _packing(write: Packed) -> Kernel:
    def run(inputs: list[np.ndarray], out: np.ndarray, _: list[np.ndarray]) -> None:
        write.inside(out)[:] = write.pack(inputs[0])

    return Kernel(run, native=False)


@dataclass
class Plan:
    """Steps for images of one size, and the memory of their maps; those never alive together share
    some.
    """

    steps: list[Step]
    maps: dict[str, Map]
    packed: dict[Key, Packed]
    slots: dict[Key, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)  # bytes an image, of each slot

    def __post_init__(self) -> None:
        last_use = {key: number for number, step in enumerate(self.steps) for key in step.inputs}
        free: list[int] = []
        for number, step in enumerate(self.steps):
            done = {key for key in step.inputs if last_use[key] == number and key in self.slots}
            if (
                step.output not in self.packed and step is not self.steps[-1]
            ):  # the last one's is the caller's
                self.slots[step.output] = self._slot(step, done, free)
                if step.output not in last_use:
                    done.add(step.output)
            free += [self.slots[key] for key in done]

    def _slot(self, step: Step, done: set[Key], free: list[int]) -> int:
        """A slot that holds nothing that is read later."""
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
        """That the maps of one image take, the result's among them."""
        packed = sum(prod(form.shape(self.maps[key[0]].shape)) for key, form in self.packed.items())
        scratch = sum(step.kernel.scratch_bytes() for step in self.steps)
        return sum(self.sizes) + packed + scratch + self.maps[self.steps[-1].output[0]].bytes

    def arrays(self, count: int) -> dict[Key, np.ndarray]:
        """Memory for the maps of so many images; not for the images themselves and the last step's
        output.
        """
        slots = [np.empty(count * size, np.uint8) for size in self.sizes]
        arrays = {
            key: form.array(count, self.maps[key[0]].shape) for key, form in self.packed.items()
        }
        for key, slot in self.slots.items():
            out = self.maps[key[0]]
            arrays[key] = (
                slots[slot][: count * out.bytes].view(out.dtype).reshape(count, *out.shape)
            )
        return arrays


Watch = Callable[[Step, np.ndarray, float], None]  # takes a step, its output, and its seconds


class Workspace:
    """A plan's memory for so many images, and its kernels bound to it."""

    def __init__(self, plan: Plan, count: int) -> None:
        self.arrays = plan.arrays(count)
        self._image: Key = (next(iter(plan.maps)), None)
        self._calls: list[tuple[Step, list[np.ndarray], list[np.ndarray]]] = []
        for step in plan.steps:
            scratch: list[np.ndarray] = [
                np.zeros((count, *shape), kind) for shape, kind in step.kernel.scratch
            ]
            self._calls.append(
                (step, [self.arrays.get(key, NOTHING) for key in step.inputs], scratch)
            )
        self._readers = [
            (n, i)
            for n, s in enumerate(plan.steps)
            for i, k in enumerate(s.inputs)
            if k == self._image
        ]

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


NOTHING = np.empty(0, np.uint8)  # stands where the images of a call will
