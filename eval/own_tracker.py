"""A tracker of one's own for the benchmarks: a class in a Python file."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

from rbsf.tracker.siamfc import Result


class OwnTracker:
    """The class `name` of a Python file, made without arguments: it has `init(image, box)` and
    `update(image)`.

    Images are H x W x 3 uint8 RGB, boxes x,y,w,h in pixels, 0-based; `update` returns the box, or
    a `Result`. Raises ValueError where the file cannot be run, has no such class, or the class not
    these methods.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._place = f"{path}:{name}"
        spec = spec_from_file_location(f"own_tracker_{path.stem}", path)
        assert spec is not None  # its name ends in .py
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there for the module that they are in
        if (
            str(path.parent) not in sys.path
        ):  # what lies beside the file can be imported, as if it were run
            sys.path.append(str(path.parent))
        try:
            spec.loader.exec_module(module)
            self._tracker = getattr(module, name)()
        except Exception as error:  # whatever the code of others does
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"--tracker {self._place}: {type(error).__name__}: {reason}"
            ) from error
        if missing := [
            method
            for method in ("init", "update")
            if not callable(getattr(self._tracker, method, None))
        ]:
            raise ValueError(f"--tracker {self._place} has no method {' and no '.join(missing)}")

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start it on a box."""
        self._tracker.init(image, box)

    def update(self, image: np.ndarray) -> Result:
        """Ask it for the box; ValueError for what is none."""
        found = self._tracker.update(image)
        if isinstance(found, Result):
            return found
        box = np.asarray(found, dtype=np.float64)
        if box.shape != (4,):
            raise ValueError(
                f"--tracker {self._place}: update returned {found!r}, expected x,y,w,h or a Result"
            )
        return Result(box, 1.0, False)
