"""Build the engine's C++ kernels; without a compiler the install succeeds and NumPy does their
work.
"""

import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

NATIVE = Path("rbsf/engine/native")
# Contracting a product and a sum into one rounding would make results depend on the machine.
# Nobody looks at floating point exceptions, and where they count GCC does not vectorise loops with
# comparisons.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-pthread"]
UNIX = {"extra_compile_args": FLAGS, "extra_link_args": ["-pthread"]}

native = Pybind11Extension(
    "rbsf.engine._native",
    [str(NATIVE / "native.cpp")],
    depends=[str(path) for path in sorted(NATIVE.glob("*.hpp"))],
    cxx_std=17,
    optional=True,
    **({} if sys.platform == "win32" else UNIX),
)
setup(ext_modules=[native], cmdclass={"build_ext": build_ext})
