"""What tests of the engine share: instruction sets, images, threads and fresh Python processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from requirements import needs

from rbsf.engine.cpu import available_isas
from rbsf.engine.run import Engine

ISAS = available_isas()
THREADS = min(2, os.cpu_count() or 1)
needs_kernels = pytest.mark.skipif(
    len(ISAS) == 1, reason=needs("kernels", "the extension is not built")
)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random images, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_threads_agree(engines: list[Engine], inputs: list[np.ndarray], turns: int) -> None:
    """Python threads, one for each input, get what one thread alone gets from these engines."""
    expected = [engines[0](images) for images in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(turns):
            engine = engines[turn % len(engines)]
            if (engine(inputs[number]) != expected[number]).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def run_python(code: str, **variables: str) -> None:
    """Run code in a fresh Python that finds what this one finds; it must not fail."""
    path = os.pathsep.join(folder for folder in sys.path if folder)
    env = os.environ | {"PYTHONPATH": path} | variables
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=env)
