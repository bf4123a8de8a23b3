"""What this machine can run: instruction sets for which kernels exist, and threads."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import Any

native: Any
try:
    native = import_module("rbsf.engine._native")
    MISSING = ""
except ImportError as error:  # the project was installed without a compiler, or not at all
    native = None
    MISSING = str(error)

NO_KERNELS = (
    f"the engine's kernels are missing ({MISSING}), so NumPy does their work,"
    " 20 times as slowly or more;"
    " install a C++ compiler, then this project: pip install -e ."
)
ISA_VARIABLE = "RBSF_ISA"  # environment variable: the instruction set for "auto"


def available_isas() -> list[str]:
    """Instruction sets this machine can run, fastest first.

    All that exist are amx, avx512, avx2, neon, scalar and numpy.
    """
    return [*(native.isas() if native else ()), "numpy"]


def check_threads(threads: int) -> int:
    """Return `threads`; raises ValueError if it is below 1 or more than there are cores."""
    cores = os.cpu_count() or 1
    if type(threads) is not int or not 1 <= threads <= cores:
        advice = f"give 1 to {cores}, the number of this machine's cores"
        raise ValueError(f"threads={threads!r}: {advice}")
    return threads


def choose_isa(isa: str = "auto") -> str:
    """The instruction set to run.

    It is `isa` itself, except for "auto": then it is the one named by $RBSF_ISA, or the fastest if
    that is not set. Raises ValueError for an instruction set that this machine cannot run. Warns if
    "auto" chooses NumPy because the kernels are missing.
    """
    name, asked = "isa", isa
    if isa == "auto":
        name, asked = ISA_VARIABLE, os.environ.get(ISA_VARIABLE) or "auto"
    if asked == "auto":
        if not native:
            warnings.warn(NO_KERNELS, stacklevel=3)
        return available_isas()[0]
    if asked not in available_isas():
        raise ValueError(f"{name}={asked!r}: this machine has auto, {', '.join(available_isas())}")
    return asked
