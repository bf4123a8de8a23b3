"""The operations of packed networks: a module each, whose OP is an `rbsf.engine.op.Op`."""

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
    """The output of `node`, whose map is `out`, computed in NumPy; real operations take numbers as
    float32.
    """
    as_real = out.kind in ("real", "planes")
    arrays = [
        np.asarray(x, np.float32) if as_real and m.kind != "bits" else x
        for x, m in zip(inputs, maps, strict=True)
    ]
    return np.ascontiguousarray(OPS[node.op].reference(node, *arrays)).astype(out.dtype, copy=False)


def kernel(node: Node, maps: list[Map], out: Map, target: Target) -> Kernel:
    """What runs `node`: its kernel, or its reference where it has none or NumPy is asked for.

    Raises ValueError for weights that would take too much memory in the kernels' order.
    """
    make = OPS[node.op].kernel if target.isa != "numpy" else None
    in_numpy = Kernel(
        lambda x, result, _: np.copyto(result, reference(node, maps, out, x)), native=False
    )
    return (make and make(node, maps, target)) or in_numpy
