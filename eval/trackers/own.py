"""A user's own tracker for the benchmarks: a class in a Python file."""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np

from rbsf.eval.trackers.spec import TrackerSpec
from rbsf.system.files import state_digest
from rbsf.system.text import one_line
from rbsf.tracker.states import Result, State


class OwnTracker:
    """The class `name` of a Python file, made without arguments.

    It has `init(image, box)` and `update(image)`, which returns the box, or a `Result`, or as
    OpenCV's trackers whether the target was found and the box. Images are `[H, W, 3]` uint8 RGB,
    boxes x,y,w,h in pixels, 0-based. Raises ValueError if the file cannot be run, has no such
    class, or the class lacks a method.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._place = path, f"{path}:{name}"
        try:
            self._tracker = getattr(_run_file(path), name)()
        except Exception as error:  # a user's code may raise any class
            raise self._fault(error) from error
        methods = {name: getattr(self._tracker, name, None) for name in ("init", "update")}
        missing = [name for name, method in methods.items() if not callable(method)]
        if missing:
            raise ValueError(f"--tracker {self._place} has no method {' and no '.join(missing)}")

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start it on a box. Raises ValueError if it fails."""
        try:
            self._tracker.init(image, box)
        except Exception as error:
            raise self._fault(error) from error

    def update(self, image: np.ndarray) -> Result:
        """Ask it for the box. Raises ValueError if it fails or returns something else."""
        try:
            found = self._tracker.update(image)
        except Exception as error:
            raise self._fault(error) from error
        if isinstance(found, Result):
            return found
        pair = isinstance(found, tuple) and len(found) == 2
        try:
            score, box = found if pair else (1.0, found)
            state = State.TRACKED if score else State.LOST
            sides = np.asarray(box, dtype=np.float64).reshape(4)
            if not np.isfinite(sides).all():
                raise ValueError("not finite")
            return Result(sides, float(score), state)
        except (TypeError, ValueError):
            shown = one_line(repr(found), 100)
            expected = "expected x,y,w,h, a Result, or (found, (x, y, w, h))"
            raise ValueError(
                f"--tracker {self._place}: update returned {shown}, {expected}"
            ) from None

    def _fault(self, error: Exception) -> ValueError:
        """What the user's code raised, as an error of one line."""
        calls = traceback.extract_tb(error.__traceback__)
        own = [call.lineno for call in calls if Path(call.filename).name == self._path.name]
        where = f"line {own[-1]}: " if own else ""
        what = f"{type(error).__name__}: {one_line(error, 300)}"
        return ValueError(f"--tracker {self._place}: {where}{what}")


@dataclass(frozen=True)
class OwnSpec(TrackerSpec):
    """`FILE.py:CLASS`, see `OwnTracker`."""

    own: str = ""  # the class

    FORMS: ClassVar[tuple[str, ...]] = ("FILE.py:CLASS",)

    @classmethod
    def read(cls, what: str, label: str) -> OwnSpec | None:
        """See `Kind`."""
        found = re.fullmatch(r"(.+\.py)(?::(\w+))?", what)
        if not found:
            return None
        path, name = Path(found[1]), found[2]
        if not name:
            raise ValueError(f"--tracker {path}: name its class too, as {path}:CLASS")
        if not path.is_file():
            raise FileNotFoundError(f"--tracker {path}:{name}: there is no {path}")
        return cls(label or name, (path,), own=name)

    @property
    def name(self) -> str:
        """See `TrackerSpec`."""
        return self.own

    @property
    def decisive(self) -> str:
        """See `TrackerSpec`: the modules beside the file, which it may import."""
        beside = sorted(self.files[0].absolute().parent.glob("*.py"))
        return state_digest([("", beside)])

    def size(self) -> None:
        """Code is no weights."""
        return

    def load(self, threads: int) -> OwnTracker:
        """See `TrackerSpec`."""
        return OwnTracker(self.files[0], self.own)


def _run_file(path: Path) -> ModuleType:
    """Run a Python file as a module; it can import modules beside it."""
    spec = spec_from_file_location(f"own_tracker_{path.stem}", path)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module
