"""Build the engine's C++ kernels. Without a compiler, the install succeeds and NumPy is used."""

import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

NATIVE = Path("rbsf/engine/native")
# -ffp-contract=off: rounding a product and a sum only once would make results depend on the
# machine. -fno-trapping-math: no code uses floating-point exceptions; if GCC had to keep them, it
# would not vectorise loops with comparisons.
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
