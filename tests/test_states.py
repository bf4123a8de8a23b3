"""The states of a target, and the windows in which a lost one is searched for."""

from __future__ import annotations

import numpy as np
import pytest

from rbsf.tracker.scan import Windows
from rbsf.tracker.states import Result, State, StateConfig, StateMonitor

CONFIG = StateConfig(sure_score=0.5, lost_score=0.2, lost_frames=3, found_score=0.6, found_frames=2)


def states(*scores: float) -> str:
    """The first letters of the states after each score."""
    monitor = StateMonitor(CONFIG)
    return "".join(monitor.update(score).value[0] for score in scores)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.5, 0.49, 0.2, 0.9), "ttuut"),
        ((0.1, 0.1, 0.3, 0.1, 0.1), "uuuuu"),  # never three low ones in a row
        ((0.1, 0.1, 0.1, 0.55, 0.55), "uulll"),  # 0.55 is enough to stay, not to be found
        ((0.1, 0.1, 0.1, 0.7, 0.1, 0.7, 0.7), "uullllt"),
    ],
)
def test_a_state_changes_by_two_thresholds_and_counts(
    scores: tuple[float, ...], expected: str
) -> None:
    assert states(*scores) == expected


def test_a_high_score_elsewhere_counts_as_the_first() -> None:
    monitor = StateMonitor(CONFIG)
    for _ in range(3):
        monitor.update(0.0)
    assert monitor.update(0.7, elsewhere=True) is State.LOST
    assert monitor.update(0.7, elsewhere=True) is State.LOST
    assert monitor.update(0.7) is State.TRACKED


def test_lost_is_the_state_lost_alone() -> None:
    box = np.zeros(4)
    assert [Result(box, 0.0, state).lost for state in State] == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"sure_score": 1.5}, "sure_score=1.5: give a number from 0 to 1"),
        ({"lost_frames": 0}, "lost_frames=0: give a whole number from 1"),
        ({"redetect": "far"}, "redetect='far': give one of off, local, frame"),
        ({"lost_score": 0.7, "found_score": 0.6}, "found_score=0.6: give at least lost_score=0.7"),
    ],
)
def test_config_names_what_is_wrong(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        StateConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(640, 360), (100, 500), (30, 20)])
def test_windows_cover_the_frame_and_begin_near_the_place(width: int, height: int) -> None:
    place = np.array([0.8 * width, 0.2 * height])
    windows = Windows(place, np.array([width, height]), step=100, reach=np.inf)
    centers = windows.take(1000)
    assert len(centers) == -(-width // 100) * -(-height // 100)
    rows, columns = np.mgrid[:height, :width]
    far = np.full((height, width), np.inf)
    for x, y in centers:
        far = np.minimum(far, np.maximum(abs(columns - x), abs(rows - y)))
    assert far.max() <= 50
    distances = abs(centers - place).max(1)
    assert (np.diff(distances) >= 0).all()


def test_windows_are_taken_in_turn_and_anew() -> None:
    windows = Windows(np.zeros(2), np.array([300, 100]), step=100, reach=np.inf)
    taken = [windows.take(2)[:, 0].tolist() for _ in range(3)]
    assert taken == [[49.5, 149.5], [249.5, 49.5], [149.5, 249.5]]


def test_windows_around_a_place() -> None:
    windows = Windows(np.array([450, 50]), np.array([1000, 100]), step=100, reach=120)
    assert sorted(windows.take(9)[:, 0]) == [349.5, 449.5, 549.5]
