"""Run packed networks on the CPU: uint8 images in, float32 features or logits out, without torch."""

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

MAX_BYTES = 1 << 30  # that the maps of one image, or the images of a call, may take
CHUNK_BYTES = (
    16 << 20
)  # of maps: more images than fit are computed in turns, which keeps to the caches
KEPT_SIZES = 8  # of input, whose plans and maps are kept for the next call
KEPT_RESULTS = 4  # arrays of results of one shape, likewise ...
KEPT_BYTES = 2 << 20  # ... if they are no larger


class Engine:
    """A packed network as a function of images uint8 (N, H, W, C), RGB where they have three
    channels: float32.

    A tracker gives features (N, C', H', W'), a classifier logits (N, classes).  Its kernels give
    the same numbers, to the bit, for every instruction set and number of threads.  isa="numpy" is
    the reference: the same bits and roundings but for the sums of real convolutions and linear
    layers, which BLAS adds in another order, with its own threads.  An engine may be called from
    several Python threads at once; the GIL is not held while kernels compute.
    """

    def __init__(
        self, model: PackedModel | str | Path, threads: int = 1, isa: str = "auto"
    ) -> None:
        """`model`: a checked model or the path of its file; `isa`: one of `available_isas`; see
        `choose_isa`.

        Raises ValueError for an instruction set this machine has not, more threads than cores, a
        network whose maps take over 1 GiB an image and what `read_packed` refuses;
        FileNotFoundError.
        """
        self.model = model if isinstance(model, PackedModel) else read_packed(model)
        self.threads, self.isa = check_threads(threads), choose_isa(isa)
        self._program = Program(self.model, Target(native, self.isa, self.threads))
        self._plans: dict[tuple[int, int], Plan] = {}
        self._free: dict[tuple[int, ...], list[Workspace]] = {}  # by (N, H, W)
        self._results: dict[Shape, deque[np.ndarray]] = {}
        self._lock = threading.Lock()
        steps = self._plan(*self.model.input_shape[:2]).steps
        self.in_numpy = sorted(
            {step.op for step in steps if not step.kernel.native}
        )  # operations without a kernel

    def __str__(self) -> str:
        """What runs the network, such as "packed engine, instruction set avx2, 2 threads"."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        slow = (
            f"; in NumPy: {', '.join(self.in_numpy)}"
            if self.in_numpy and self.isa != "numpy"
            else ""
        )
        return f"packed engine, instruction set {self.isa}, {threads}{slow}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The last node's map, float32 (N, ...), of images uint8 (N, H, W, C), C-contiguous.

        Raises ValueError for any other array, images too small for the network and batches too
        large for memory.
        """
        return self._run(images)

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (N, ...) of all edges that are computed, by the name of their node, and the
        images.

        Bits are uint8 0 or 1.  What lies inside of operations that are computed as one is not among
        them.
        """
        found = {self.model.nodes[0].name: images}
        packed = self._program.packed

        def watch(step: Step, out: np.ndarray, seconds: float) -> None:
            found[step.output[0]] = (
                packed[step.output].unpack(out) if step.output in packed else out.copy()
            )

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
        """The result, `chunk` images at a time, by default as many as keep to the caches."""
        plan = self._checked_plan(images)
        result = self._take_result((len(images), *plan.maps[self.model.nodes[-1].name].shape))
        chunk = chunk or max(1, CHUNK_BYTES // plan.bytes)
        for start in range(0, len(images), chunk):
            part = images[start : start + chunk]
            workspace = self._take(part.shape[:3], plan)
            workspace.run(part, result[start : start + chunk], watch)
            with self._lock:  # from here on another call may write into the maps
                self._free.setdefault(part.shape[:3], []).append(workspace)
        return result

    def _checked_plan(self, images: np.ndarray) -> Plan:
        channels = self.model.input_shape[2]
        known = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
        if not known or images.shape[3] != channels:
            found = (
                f"{images.dtype} {images.shape}"
                if isinstance(images, np.ndarray)
                else type(images).__name__
            )
            raise ValueError(f"images are {found}, expected a uint8 array (N, H, W, {channels})")
        if not images.flags.c_contiguous or not len(images):
            raise ValueError(
                f"images {images.shape} are none or not C-contiguous; numpy.ascontiguousarray makes them so"
            )
        if images.nbytes > MAX_BYTES:
            raise ValueError(
                f"images {images.shape} take over {MAX_BYTES >> 30} GiB; give fewer at a time"
            )
        return self._plan(*images.shape[1:3])

    def _plan(self, height: int, width: int) -> Plan:
        """The plan for images of this size; ValueError where they do not suit the network."""
        with self._lock:
            if (height, width) in self._plans:
                return self._plans[height, width]
        maps = self.model.maps_for(height, width)
        plan = Plan(self._program.steps(maps), maps, self._program.packed)
        if plan.bytes > MAX_BYTES:
            where = self.model.path or "the network"
            raise ValueError(
                f"{where}: its maps take {plan.bytes:,} bytes an image; {MAX_BYTES:,} at most"
            )
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
        """An array for results, in memory whose last array is gone where there is some: new memory
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
        # Of a memoryview, since parts of it then keep this very array alive; those of a view would
        # keep `memory` alone.
        array = np.asarray(memory.data)
        weakref.finalize(array, kept.append, memory).atexit = False
        return array
