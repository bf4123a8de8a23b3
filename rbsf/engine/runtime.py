"""Run packed networks on the CPU: by the C++ kernels, or by the NumPy reference where they were not built."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections import deque
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rbsf.engine import reference
from rbsf.engine.layout import kernel_arguments, layout, unpack_map
from rbsf.engine.packed import Layer, PackedModel, check_layer, read_packed

_native: Any
try:
    _native = import_module("rbsf.engine._native")
except ImportError:  # it was installed without a compiler
    _native = None

MAX_MAP_BYTES = 1 << 30  # of one map of a batch
KEPT_SIZES = 8  # of input, whose maps are kept for the next call
KEPT_RESULTS = 4  # arrays of features of one shape, likewise
ISA_VARIABLE = "RBSF_ISA"  # names the instruction set that "auto" takes


def available_isas() -> list[str]:
    """Instruction sets this machine can run, fastest first: of amx, avx512, avx2, neon, scalar and numpy."""
    return [*(_native.isas() if _native else ()), "numpy"]


class Engine:
    """A packed network as a backbone: pixels uint8 (N, S, S, 3) RGB to float32 (N, C, H, W).

    Every instruction set and number of threads gives the same numbers, to the bit.  An engine may be called from
    several Python threads at once; the GIL is not held while it computes.
    """

    def __init__(self, model: PackedModel | str | Path, threads: int = 1, isa: str = "auto") -> None:
        """`model`: a checked model or the path of its file; `isa`: one of `available_isas`; see `choose_isa`.

        Raises ValueError for an instruction set this machine has not, more threads than cores and what `read_packed`
        refuses; FileNotFoundError.
        """
        self.model = model if isinstance(model, PackedModel) else read_packed(model)
        self.threads, self.isa = _check_threads(threads), choose_isa(isa)
        layers = self.model.layers
        readers = [*layers[1:], layers[-1]]
        self._layouts = [layout(a.outputs, a.groups, b.groups) for a, b in zip(layers, readers, strict=True)]
        self._margins = [*(layer.padding for layer in layers[1:]), 0]
        self._free: dict[tuple[int, ...], list[list[np.ndarray]]] = {}
        self._results: dict[tuple[int, ...], deque[np.ndarray]] = {}
        self._lock = threading.Lock()
        if self.isa != "numpy":
            outputs = ["bits"] * (len(layers) - 1) + ["real"]
            reads = [None, *self._layouts]
            parts = zip(layers, reads, self._layouts, self._margins, outputs, strict=False)
            self._convs = [_native.Conv(**kernel_arguments(*part)) for part in parts]

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Features float32 (N, C, H, W) of crops uint8 (N, S, S, 3), C-contiguous.

        Raises ValueError for any other array, crops too small for the network and batches too large for memory.
        """
        return self._run(crops)[0]

    def layer_outputs(self, crops: np.ndarray) -> list[np.ndarray]:
        """After every layer: bits 0 or 1, uint8 (N, C, H, W), pooled where the layer pools; float32 after the last."""
        if self.isa == "numpy":
            self._shapes(crops)
            return list(reference.layer_outputs(self.model, crops))
        features, bits, _ = self._run(crops, unpacked=True)
        return [*bits, features]

    def layer_seconds(self, crops: np.ndarray) -> np.ndarray:
        """Seconds that each layer takes, float64; ValueError for the instruction set numpy, which is not measured."""
        if self.isa == "numpy":
            raise ValueError("the NumPy reference measures no layers; choose another instruction set")
        return self._run(crops, timed=True)[2]

    def _run(
        self, crops: np.ndarray, timed: bool = False, unpacked: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Features; where ``unpacked``, the bits of the layers before; where ``timed``, seconds of every layer."""
        *shapes, final = self._shapes(crops)
        if self.isa == "numpy":
            return reference.forward(self.model, crops), [], np.zeros(0)
        features, seconds = self._take_result(final), np.zeros(len(self._convs))
        maps = self._take_maps(crops.shape, shapes)
        _native.forward(self._convs, [crops, *maps, features], self.threads, self.isa, seconds if timed else None)
        orders = zip(maps, self._layouts, self._margins, strict=False)
        bits = [unpack_map(*order) for order in orders] if unpacked else []
        with self._lock:  # from here on another call may write into the maps
            self._free.setdefault(crops.shape, []).append(maps)
        return features, bits, seconds

    def _shapes(self, crops: np.ndarray) -> list[tuple[int, ...]]:
        """Check crops; shapes of every layer's map, margins included, and of the features."""
        inputs = self.model.layers[0].inputs
        if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != inputs:
            found = f"{crops.dtype} {crops.shape}" if isinstance(crops, np.ndarray) else type(crops).__name__
            raise ValueError(f"crops are {found}, expected a uint8 array (N, S, S, {inputs})")
        if not crops.flags.c_contiguous or not crops.shape[0]:
            raise ValueError(f"crops {crops.shape} are none or not C-contiguous; numpy.ascontiguousarray makes them so")
        count, height, width, _ = crops.shape
        shapes: list[tuple[int, ...]] = []
        for layer, order, margin in zip(self.model.layers, self._layouts, self._margins, strict=True):
            height, width = layer.output_size(height), layer.output_size(width)
            if min(height, width) < 1:
                raise ValueError(f"crops of {crops.shape[1]} x {crops.shape[2]} pixels are too small for the network")
            shapes.append((count, order.planes, height + 2 * margin, width + 2 * margin, order.bytes))
        shapes[-1] = (count, self.model.layers[-1].outputs, height, width)
        if max(crops.nbytes, 4 * prod(shapes[-1]), *map(prod, shapes)) > MAX_MAP_BYTES:
            raise ValueError(f"crops {crops.shape} need maps of over {MAX_MAP_BYTES >> 30} GiB; give fewer at a time")
        return shapes

    def _take_maps(self, size: tuple[int, ...], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Maps that no other call is using; new ones are zero, and their margins stay so."""
        with self._lock:
            if self._free.get(size):
                return self._free[size].pop()
            if len(self._free) >= KEPT_SIZES:
                self._free.clear()
        return [np.zeros(shape, np.uint8) for shape in shapes]

    def _take_result(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array for features, in memory whose last array is gone where there is some: new memory costs as much time
        as a layer."""
        with self._lock:
            if shape not in self._results and len(self._results) >= KEPT_SIZES:
                self._results.clear()
            kept = self._results.setdefault(shape, deque(maxlen=KEPT_RESULTS))
        try:
            memory = kept.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)
        # Of a memoryview, since parts of it then keep this very array alive; those of a view would keep `memory` alone.
        array = np.asarray(memory.data)
        weakref.finalize(array, kept.append, memory).atexit = False
        return array


class BitConv:
    """A single binary convolution, for networks that are no plain chain: bits in, sums out."""

    def __init__(self, layer: Layer, threads: int = 1, isa: str = "auto") -> None:
        """`layer`: a conv_bits; its thresholds and pooling are not used.  Raises ValueError as `Engine` does."""
        check_layer(layer)
        if layer.kind == "conv_u8":
            raise ValueError(f"layer {layer.name!r} is a conv_u8, expected binary weights")
        self.layer, self.threads, self.isa = layer, _check_threads(threads), choose_isa(isa)
        self._read = layout(layer.inputs, 1, layer.groups)
        write = layout(layer.outputs, layer.groups, layer.groups)
        if self.isa != "numpy":
            self._conv = _native.Conv(**(kernel_arguments(layer, self._read, write, 0, "sums") | {"pool": False}))

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """Bits of `pack_signs`, uint8 (N, groups, H, W, bytes), to sums int32 (N, H', W', O); ValueError otherwise."""
        layer, pad = self.layer, self.layer.padding
        if not isinstance(bits, np.ndarray) or bits.dtype != np.uint8 or bits.ndim != 5 or not bits.shape[0]:
            raise ValueError("bits are no uint8 array (N, groups, H, W, bytes); pack_signs makes one")
        if (bits.shape[1], bits.shape[4]) != (self._read.planes, self._read.bytes):
            raise ValueError(f"bits {bits.shape} are not of {layer.inputs} channels in {layer.groups} groups")
        rows, columns = ((n + 2 * pad - layer.kernel) // layer.stride + 1 for n in bits.shape[2:4])
        if min(rows, columns) < 1:
            raise ValueError(f"bits {bits.shape} are too small for a {layer.kernel} x {layer.kernel} window")
        if self.isa == "numpy":
            return reference.conv_bits(unpack_map(bits, self._read, 0).transpose(0, 2, 3, 1), layer)
        bits = np.ascontiguousarray(np.pad(bits, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else bits)
        sums = np.empty((len(bits), rows, columns, layer.outputs), np.int32)
        _native.forward([self._conv], [bits, sums], self.threads, self.isa, None)
        return sums


def pack_signs(values: np.ndarray, groups: int = 1) -> np.ndarray:
    """Signs of numbers (N, H, W, C), bit 1 for those from 0 up, as uint8 (N, groups, H, W, ceil(C / groups / 8)).

    Raises ValueError for NaN, another number of dimensions, and channels that do not split into the groups.
    """
    values = np.asarray(values)
    if values.ndim != 4 or groups < 1 or values.shape[3] % groups or np.isnan(values).any():
        raise ValueError(f"values {values.shape} for {groups} groups: expected numbers (N, H, W, C), none of them NaN")
    parts = np.ascontiguousarray(values >= 0).reshape(*values.shape[:3], groups, -1)  # in order: 4 times faster
    return np.ascontiguousarray(np.packbits(parts, axis=-1, bitorder="little").transpose(0, 3, 1, 2, 4))


def _check_threads(threads: int) -> int:
    cores = os.cpu_count() or 1
    if type(threads) is not int or not 1 <= threads <= cores:
        raise ValueError(f"threads={threads!r}: give 1 to {cores}, the number of this machine's cores")
    return threads


def choose_isa(isa: str = "auto") -> str:
    """The instruction set to run: `isa` itself, or for "auto" the one that $RBSF_ISA names, else the fastest.

    Raises ValueError for one that this machine cannot run.  Warns where "auto" ends at NumPy for want of kernels.
    """
    name = "isa" if isa != "auto" else ISA_VARIABLE
    asked = isa if isa != "auto" else os.environ.get(ISA_VARIABLE) or "auto"
    if asked == "auto":
        if not _native:
            warnings.warn(
                "the engine's kernels were not built; NumPy runs, slowly: install a C++ compiler,"
                " then `pip install -e .`",
                stacklevel=3,
            )
        return available_isas()[0]
    if asked not in available_isas():
        raise ValueError(f"{name}={asked!r}: this machine has auto, {', '.join(available_isas())}")
    return asked
