"""The operations of packed networks: each is a module with an `OP`, an `rbsf.engine.op.Op`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import numpy as np

from rbsf.engine.kernel import Kernel, Target
from rbsf.engine.node import Map, Node
from rbsf.engine.op import Op

OPS: dict[str, Op] = {
    module.name: import_module(f"{__name__}.{module.name}").OP
    for module in iter_modules(__path__)
    if not module.name.startswith("_")
}


def reference(node: Node, maps: list[Map], out: Map, inputs: list[np.ndarray]) -> np.ndarray:
    """The output of `node`, in the form of the map `out`, computed in NumPy.

    If the result is real, numbers are passed to the operation as float32.
    """
    is_real = out.kind in ("real", "planes")
    arrays = []
    for x, source in zip(inputs, maps, strict=True):
        arrays.append(np.asarray(x, np.float32) if is_real and source.kind != "bits" else x)
    result = OPS[node.op].reference(node, *arrays)
    return np.ascontiguousarray(result).astype(out.dtype, copy=False)


def kernel(node: Node, maps: list[Map], out: Map, target: Target) -> Kernel:
    """The kernel that runs `node`; it is the reference if there is no other or NumPy is chosen.

    Raises ValueError for weights that would take too much memory in the kernels' order.
    """
    make = OPS[node.op].kernel
    made = make(node, maps, target) if make and target.isa != "numpy" else None
    if made:
        return made

    def run(inputs: list[np.ndarray], result: np.ndarray, _: list[np.ndarray]) -> None:
        np.copyto(result, reference(node, maps, out, inputs))

    return Kernel(run, native=OPS[node.op].moves)
