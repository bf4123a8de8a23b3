"""sigmoid: 1 / (1 + exp(-x)), float32.

exp is NumPy's, whose last bit may differ from machine to machine.
"""

import numpy as np

from rbsf.engine.node import Node
from rbsf.engine.op import REAL, Op


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # for very low values, as 1 / (1 + inf) is 0
        return np.float32(1) / (np.float32(1) + np.exp(-x))


OP = Op(takes=(REAL,), reference=_reference, onnx="Sigmoid")
