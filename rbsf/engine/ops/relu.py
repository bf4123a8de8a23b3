"""relu: values below 0 become 0."""

import numpy as np

from rbsf.engine.op import REAL, Op

OP = Op(takes=(REAL,), reference=lambda node, x: np.maximum(x, np.float32(0)), onnx="Relu")
