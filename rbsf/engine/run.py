"""Runs packed networks on the CPU, without torch: uint8 images to float32 features or logits."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque
from math import prod
from pathlib import Path

import numpy as np

from rbsf.engine.cpu import check_threads, choose_isa, native
from rbsf.engine.file import read_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.kernel import Target
from rbsf.engine.node import Shape
from rbsf.engine.plan import Plan, Program, Step, Watch, Workspace

MAX_BYTES = 1 << 30  # limit for the maps of one image, and for the images of a call
# Larger batches are run in chunks whose maps fit this size, to stay in the cache.
CHUNK_BYTES = 16 << 20
KEPT_SIZES = 8  # how many input sizes have their plans and maps kept for the next call
KEPT_RESULTS = 4  # how many result arrays of one shape are kept
KEPT_BYTES = 2 << 20  # larger result arrays are not kept


class Engine:
    """A packed network as a function: images uint8 `[N, H, W, C]`, RGB if C is 3, to float32.

    A tracker returns features `[N, C', H', W']`, a classifier logits `[N, classes]`.

    Results are equal to the bit for every instruction set and number of threads. isa="numpy" is the
    reference. It computes the same bits and roundings, except for the sums of real convolutions and
    linear layers: BLAS adds these in another order, with its own threads.

    An engine may be called from several Python threads at once; the GIL is not held while kernels
    compute.
    """

    def __init__(
        self, model: PackedModel | str | Path, threads: int = 1, isa: str = "auto"
    ) -> None:
        """`model` is a checked model or the path of its file; `isa` is as in `choose_isa`.

        Raises ValueError for an instruction set that this machine lacks, more threads than cores,
        and a network with maps of over 1 GiB per image; also the errors of `read_packed`.
        """
        model = model if isinstance(model, PackedModel) else read_packed(model)
        self._start(model, Target(native, choose_isa(isa), check_threads(threads)))

    def _start(self, model: PackedModel, target: Target) -> None:
        self.model, self._target = model, target
        self.threads, self.isa = target.threads, target.isa
        self._program = Program(model, target)
        self._plans: dict[tuple[int, int], Plan] = {}
        self._free: dict[tuple[int, ...], list[Workspace]] = {}  # by (N, H, W)
        self._results: dict[Shape, deque[np.ndarray]] = {}
        self._lock = threading.Lock()
        steps = self._plan(*self.model.input_shape[:2]).steps
        without_kernel = {step.op for step in steps if not step.kernel.native}
        self.in_numpy = sorted(without_kernel)

    def with_weight(self, name: str, weight: np.ndarray) -> Engine:
        """An engine for the same network with another weight in node `name`.

        Both engines share the prepared weights of all other nodes. Raises ValueError if the weight
        does not fit.
        """
        engine = Engine.__new__(Engine)
        engine._start(self.model.with_weight(name, weight), self._target.without(name))
        return engine

    def __str__(self) -> str:
        """A description such as "packed engine, instruction set avx2, 2 threads"."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        slow = ""
        if self.in_numpy and self.isa != "numpy":
            slow = f"; in NumPy: {', '.join(self.in_numpy)}"
        return f"packed engine, instruction set {self.isa}, {threads}{slow}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The last node's map, float32 `[N, ...]`, for images uint8 `[N, H, W, C]`, C-contiguous.

        Raises ValueError for any other array, for images too small for the network, and for batches
        too large for memory.
        """
        return self._run(images)

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The images and the computed maps `[N, ...]`, by the name of their node.

        Bits are uint8 0 or 1. Maps inside operations that are computed as one are missing.
        """
        found = {self.model.nodes[0].name: images}
        packed = self._program.packed

        def watch(step: Step, out: np.ndarray, seconds: float) -> None:
            form = packed.get(step.output)
            found[step.output[0]] = form.unpack(out) if form else out.copy()

        self._run(images, len(images), watch)
        return found

    def node_seconds(self, images: np.ndarray) -> dict[str, float]:
        """Seconds that each step takes, by the name of its first node."""
        spent: dict[str, float] = defaultdict(float)

        def watch(step: Step, out: np.ndarray, seconds: float) -> None:
            spent[step.name] += seconds

        self._run(images, watch=watch)
        return dict(spent)

    def _run(self, images: np.ndarray, chunk: int = 0, watch: Watch | None = None) -> np.ndarray:
        """The result, computed `chunk` images at a time; 0 means as many as CHUNK_BYTES allow."""
        self._check_images(images)
        plan = self._plan(*images.shape[1:3])
        last = plan.maps[self.model.nodes[-1].name]
        result = self._take_result((len(images), *last.shape))
        chunk = chunk or max(1, CHUNK_BYTES // plan.bytes)
        for start in range(0, len(images), chunk):
            part = images[start : start + chunk]
            workspace = self._take(part.shape[:3], plan)
            workspace.run(part, result[start : start + chunk], watch)
            with self._lock:  # from here on another call may write into the maps
                self._free.setdefault(part.shape[:3], []).append(workspace)
        return result

    def _check_images(self, images: np.ndarray) -> None:
        """Raise ValueError if `images` do not suit this network or are too many."""
        expected = f"expected a uint8 array (N, H, W, {self.model.input_shape[2]})"
        if not isinstance(images, np.ndarray):
            raise ValueError(f"images are {type(images).__name__}, {expected}")
        known = images.dtype == np.uint8 and images.ndim == 4
        if not known or images.shape[3] != self.model.input_shape[2]:
            raise ValueError(f"images are {images.dtype} {images.shape}, {expected}")
        if not images.flags.c_contiguous or not len(images):
            advice = "numpy.ascontiguousarray makes them so"
            raise ValueError(f"images {images.shape} are none or not C-contiguous; {advice}")
        if images.nbytes > MAX_BYTES:
            limit = f"{MAX_BYTES >> 30} GiB"
            raise ValueError(f"images {images.shape} take over {limit}; give fewer at a time")

    def _plan(self, height: int, width: int) -> Plan:
        """The plan for images of this size; raises ValueError if the network cannot take them."""
        with self._lock:
            if (height, width) in self._plans:
                return self._plans[height, width]
        maps = self.model.maps_for(height, width)
        plan = Plan(self._program.steps(maps), maps, self._program.packed)
        if plan.bytes > MAX_BYTES:
            where = self.model.path or "the network"
            found = f"its maps take {plan.bytes:,} bytes an image"
            raise ValueError(f"{where}: {found}; {MAX_BYTES:,} at most")
        with self._lock:
            if len(self._plans) >= KEPT_SIZES:
                self._plans.clear()
                self._free.clear()
            self._plans[height, width] = plan
        return plan

    def _take(self, size: tuple[int, ...], plan: Plan) -> Workspace:
        """A workspace that no other call is using."""
        with self._lock:
            if self._free.get(size):
                return self._free[size].pop()
            if len(self._free) >= KEPT_SIZES:
                self._free.clear()
        return Workspace(plan, size[0])

    def _take_result(self, shape: Shape) -> np.ndarray:
        """An array for results.

        It reuses memory of an earlier array that no longer exists, if possible, since new memory
        costs as much time as a layer.
        """
        if 4 * prod(shape) > KEPT_BYTES:
            return np.empty(shape, np.float32)
        with self._lock:
            if shape not in self._results and len(self._results) >= KEPT_SIZES:
                self._results.clear()
            kept = self._results.setdefault(shape, deque(maxlen=KEPT_RESULTS))
        try:
            memory = kept.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)
        # Made from a memoryview, so that slices keep this array alive. Slices of a NumPy view would
        # only keep `memory` alive.
        array = np.asarray(memory.data)
        weakref.finalize(array, kept.append, memory).atexit = False
        return array
