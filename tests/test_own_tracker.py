"""A user's own tracker in the benchmarks: its calls, its answers, and its faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rbsf.eval import evaluation, run_benchmarks
from rbsf.eval.trackers import parse_tracker
from rbsf.eval.trackers.spec import Tracker

IMAGE = np.zeros((20, 30, 3), np.uint8)
CODE = """
from __future__ import annotations
from dataclasses import dataclass
from beside import STEP
@dataclass
class State:
    step: int = STEP
class Right:
    def init(self, image, box):
        assert image.dtype == "uint8" and image.ndim == 3
        self.box = list(box)
    def update(self, image):
        self.box[0] += State().step
        return self.box
class Wrong(Right):
    def update(self, image):
        return None
class AsInOpenCV(Right):
    def update(self, image):
        return False, tuple(self.box)
class Endless(Right):
    def update(self, image):
        return [float("nan"), 2, 3, 4]
class Half:
    def init(self, image, box): ...
class Careless(Right):
    def update(self, image):
        return self.boxes
class Broken:
    def __init__(self): raise OSError("no model file")
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("STEP = 1")
    return tmp_path / "mine.py"


def started(code: Path, name: str) -> Tracker:
    """The tracker of this class, after its first frame."""
    tracker = parse_tracker(f"{code}:{name}").build()
    tracker.init(IMAGE, np.array([1.0, 2, 3, 4]))
    return tracker


def test_boxes_that_are_not_finite_are_refused(code: Path) -> None:
    tracker = started(code, "Endless")
    with pytest.raises(ValueError, match=r"update returned \[nan, 2, 3, 4\], expected x,y,w,h"):
        tracker.update(IMAGE)


def test_a_changed_module_beside_it_makes_other_results(code: Path) -> None:
    before = parse_tracker(f"{code}:Right").key()
    (code.parent / "beside.py").write_text("STEP = 500")
    assert parse_tracker(f"{code}:Right").key() != before


def test_its_boxes_are_taken(code: Path) -> None:
    spec = parse_tracker(f"ours={code}:Right")
    assert spec.label == "ours"
    assert spec.arithmetic is None
    assert spec.size() is None
    tracker = spec.build()
    tracker.init(IMAGE, np.array([1.0, 2, 3, 4]))
    assert tracker.update(IMAGE).box.tolist() == [2, 2, 3, 4]
    assert tracker.update(IMAGE).box.tolist() == [3, 2, 3, 4]


def test_it_may_answer_as_opencvs_trackers_do(code: Path) -> None:
    tracker = started(code, "AsInOpenCV")
    result = tracker.update(IMAGE)
    assert (result.box.tolist(), result.score) == ([1, 2, 3, 4], 0.0)
    assert result.lost


def test_its_results_are_those_of_its_code(code: Path) -> None:
    keys = {parse_tracker(f"{code}:{name}").key() for name in ("Right", "Wrong")}
    code.write_text(CODE + "\n")
    assert len(keys | {parse_tracker(f"{code}:Right").key()}) == 3


def test_it_runs_in_worker_processes(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(evaluation.SYNTHETIC, "count", 2)
    monkeypatch.setitem(evaluation.SYNTHETIC, "frames", 5)
    argv = ["--dataset", "synthetic", "--tracker", f"{code}:Right"]
    argv += ["--workers", "2", "--out", str(tmp_path / "out")]
    assert run_benchmarks.main(argv) == 0
    assert "| Right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Broken", r"Broken: line \d+: OSError: no model file"),
        ("Missing", "AttributeError: .* no attribute 'Missing'"),
        ("Half", "Half has no method update"),
    ],
)
def test_what_cannot_run_is_named_in_one_line(code: Path, name: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_tracker(f"{code}:{name}").build()


def test_an_answer_that_is_no_box_is_named(code: Path) -> None:
    tracker = started(code, "Wrong")
    with pytest.raises(ValueError, match="update returned None, expected x,y,w,h"):
        tracker.update(IMAGE)


def test_an_error_in_it_is_named(code: Path) -> None:
    tracker = started(code, "Careless")
    message = r"Careless: line \d+: AttributeError: .* no attribute 'boxes'"
    with pytest.raises(ValueError, match=message):
        tracker.update(IMAGE)


def test_a_missing_file_or_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.py: name its class too, as mine\.py:CLASS"):
        parse_tracker("mine.py")
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.py"):
        parse_tracker(f"{tmp_path}/none.py:Tracker")
