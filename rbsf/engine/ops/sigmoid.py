"""sigmoid: 1 / (1 + exp(-x)), float32.

It uses NumPy's exp; its last bit may differ between machines.
"""

import numpy as np

from rbsf.engine.node import Node
from rbsf.engine.op import REAL, Op


def _reference(node: Node, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp overflows for very low x; 1 / (1 + inf) is 0, as needed
        return np.float32(1) / (np.float32(1) + np.exp(-x))


OP = Op(takes=(REAL,), reference=_reference, onnx="Sigmoid")
