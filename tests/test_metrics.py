from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.metrics import Scores, center_errors, mean_scores, overlaps, score_sequence


def test_overlaps_of_known_pairs() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [2, 2, 4, 4]], dtype=float)
    truth = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 0, 5, 5], [0, 0, 0, 0], [0, 0, 8, 8]], dtype=float)
    np.testing.assert_allclose(overlaps(boxes, truth), [1, 1 / 3, 0, 0, 0.25])


def test_center_errors_of_known_pairs() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 4, 4]], dtype=float)
    np.testing.assert_allclose(center_errors(boxes, np.array([[3, 4, 10, 10], [1, 1, 2, 2]])), [5, 0])


def test_perfect_boxes_score_twenty_of_twenty_one() -> None:
    boxes = np.tile([3.0, 4, 20, 30], (5, 1))
    assert score_sequence(boxes, boxes) == Scores(auc=pytest.approx(20 / 21), precision=1, ao=1, sr50=1)


def test_thresholds_are_strict() -> None:
    truth = np.tile([0.0, 0, 10, 10], (2, 1))
    half = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], dtype=float)  # overlap 0.5: above 0, 0.05, ... 0.45
    scores = score_sequence(half, truth)
    assert scores.auc == pytest.approx(10 / 21)
    assert scores.sr50 == 0


def test_precision_counts_up_to_twenty_pixels() -> None:
    truth = np.tile([0.0, 0, 10, 10], (4, 1))
    boxes = truth + np.array([[0, 0, 0, 0], [20, 0, 0, 0], [20.1, 0, 0, 0], [12, 16, 0, 0]])
    assert score_sequence(boxes, truth).precision == pytest.approx(2 / 3)


def test_first_and_absent_frames_do_not_count() -> None:
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [np.nan] * 4, [0, 0, 10, 10]], dtype=float)
    boxes = np.array([[90, 90, 1, 1], [0, 0, 10, 10], [np.nan] * 4, [50, 50, 10, 10]], dtype=float)
    assert score_sequence(boxes, truth).ao == pytest.approx(0.5)


def test_first_annotated_frame_does_not_count_where_earlier_ones_have_no_target() -> None:
    truth = np.array([[np.nan] * 4, [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], dtype=float)
    boxes = np.array([[0] * 4, [0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 10, 10]], dtype=float)
    assert score_sequence(boxes, truth).ao == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("boxes", "truth", "fault"),
    [
        (np.ones((3, 4)), np.ones((2, 4)), "differ in shape"),
        (np.ones((1, 4)), np.ones((1, 4)), "none of 1 frames"),
        (np.ones((3, 4)), np.full((3, 4), np.nan), "none of 3 frames"),
        (np.array([[1.0] * 4, [np.nan] * 4]), np.ones((2, 4)), "frame 1 is not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(boxes: np.ndarray, truth: np.ndarray, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        score_sequence(boxes, truth)


def test_mean_counts_each_sequence_once() -> None:
    mean = mean_scores([Scores(0.2, 0.4, 0.6, 1.0), Scores(0.4, 0.8, 0.0, 0.0)])
    assert mean == Scores(*map(pytest.approx, (0.3, 0.6, 0.3, 0.5)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no sequence"):
        mean_scores([])


def test_published_siamfc_boxes_on_all_of_otb100(real_data: Path) -> None:
    """Published boxes and annotations, text only: AUC 0.603 with strict >, 0.608 (as quoted) with >=."""
    annotations, results = real_data / "results/otb100_annotations", real_data / "results/otb100_boxes_siamfc"
    if not annotations.is_dir():
        pytest.skip(f"no {annotations}")
    names = {"Human4": "Human4.2", "Jogging.1": "Jogging-1", "Jogging.2": "Jogging-2"}
    scores, with_equal = [], []
    for path in sorted(results.glob("*.txt")):
        truth, boxes = (
            np.loadtxt(p.read_text().replace(",", " ").splitlines())
            for p in (annotations / f"{names.get(path.stem, path.stem)}.txt", path)
        )
        scores.append(score_sequence(boxes, truth))
        with_equal.append((overlaps(boxes, truth)[1:, None] >= np.linspace(0, 1, 21)).mean())
    assert len(scores) == 100
    assert np.mean(with_equal) == pytest.approx(0.608, abs=0.0005)
    assert mean_scores(scores).auc == pytest.approx(0.603, abs=0.0005)
