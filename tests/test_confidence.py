"""The confidence that a place shows the target."""

from __future__ import annotations

import numpy as np
import pytest

from rbsf.tracker.confidence import Confidence, likeness


def look(degrees: float) -> np.ndarray:
    """A look whose likeness to `look(0)` is the cosine of the angle."""
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle)], np.float32).reshape(2, 1, 1)


def test_likeness_is_the_cosine_and_needs_no_length() -> None:
    assert likeness(look(0), 3 * look(60)) == pytest.approx(0.5)
    assert likeness(look(0), np.zeros((2, 1, 1), np.float32)) == 0


def test_the_score_is_a_probability_that_falls_with_the_likeness() -> None:
    scores = [Confidence(look(0)).judge(look(degrees)) for degrees in (0, 45, 60, 90)]
    assert scores == pytest.approx([0.988, 0.731, 0.198, 0.001], abs=0.002)


def test_a_target_may_change_step_by_step() -> None:
    confidence = Confidence(look(0))
    before = confidence.judge(look(75))
    for degrees in [*range(0, 55, 2), *[54] * 20]:  # cos 54 degrees = 0.588, just confirmed
        confidence.learn(look(degrees))
    assert before < 0.02
    assert confidence.judge(look(75)) > 0.9


def test_a_place_that_the_first_look_does_not_confirm_is_never_learned() -> None:
    confidence = Confidence(look(0))
    for degrees in [*range(0, 55, 2), *[60] * 100]:  # after small steps, too
        confidence.learn(look(degrees))
    learned = np.degrees(np.arctan2(*confidence.learned.ravel()[::-1]))
    assert learned < 54
