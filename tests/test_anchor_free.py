"""Tracking by class map and boxes, by a made-up network and by NanoTrack on a real video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from requirements import needs, peers

from rbsf.datasets.video.sequences import load_sequences
from rbsf.eval.metrics import score_sequence
from rbsf.eval.runner import track_sequence
from rbsf.eval.trackers import parse_tracker
from rbsf.tracker.anchor_free import (
    AS_PUBLISHED,
    AnchorFree,
    AnchorFreeConfig,
    Answer,
    _mean_middle,
    _steadied,
)
from rbsf.tracker.siamfc import SiamFC, TrackerConfig
from rbsf.tracker.teachers.pair import read_pair

FRAME = np.full((240, 320, 3), 90, np.uint8)
FRAME[:, ::2] = 100


class Always:
    """A network that sees a target of `size` at `offset` (x, y), in pixels of the search crop."""

    def __init__(
        self,
        offset: tuple[int, int] = (0, 0),
        size: tuple[float, float] = (60, 60),
        share: float = 1.0,
    ) -> None:
        self.offset, self.size, self.share, self.sides = np.array(offset), np.array(size), share, []

    def learn(self, crop: np.ndarray) -> np.ndarray:
        self.sides.append(len(crop))
        return crop

    def answer(self, template: np.ndarray, crop: np.ndarray) -> Answer:
        self.sides.append(len(crop))
        cells = (np.arange(15) - 7) * 16
        x, y = self.offset[0] - cells[None, :], self.offset[1] - cells[:, None]
        near = np.hypot(x, y) < 12
        left, right = self.size[0] / 2 - x, self.size[0] / 2 + x
        top, bottom = self.size[1] / 2 - y, self.size[1] / 2 + y
        sides = np.stack([np.broadcast_to(side, (15, 15)) for side in (left, top, right, bottom)])
        return Answer(np.where(near, self.share, 0.0), sides)


def start(
    network: Always, box: tuple[float, ...] = (100, 80, 60, 60), **constants: float
) -> AnchorFree:
    tracker = AnchorFree(network, AnchorFreeConfig(**({"size_correction": 0.0} | constants)))
    assert tracker.init(FRAME, box) is None
    return tracker


def test_a_target_that_stands_still_stays() -> None:
    """A square of 60 pixels has a context of 120: a crop pixel is 120 / 127 of an image pixel."""
    tracker = start(Always(size=(63.5, 63.5)))
    for _ in range(5):
        result = tracker.update(FRAME)
    np.testing.assert_allclose(result.box, [100, 80, 60, 60], atol=1e-6)
    assert (result.score, result.lost) == (1.0, False)
    assert tracker.network.sides[:2] == [127, 255]  # type: ignore[attr-defined]


def test_a_target_that_moves_is_followed() -> None:
    network = Always(offset=(32, -16), size=(63.5, 63.5))
    result = start(network, window_influence=0, steadiness=0).update(FRAME)
    np.testing.assert_allclose(
        result.box, [100 + 32 * 120 / 127, 80 - 16 * 120 / 127, 60, 60], atol=1e-6
    )


def test_of_a_small_step_less_is_shown_than_of_a_large_one() -> None:
    shown, found, size = np.array([5.0, 7.0]), np.array([8.0, 11.0]), np.array([20.0, 5.0])
    length = 5 / 10  # in box sizes
    share = length / (length + 0.1)
    np.testing.assert_allclose(_steadied(shown, found, size, 0.1), [5 + 3 * share, 7 + 4 * share])
    np.testing.assert_allclose(_steadied(shown, found, size, 0.0), found)
    np.testing.assert_allclose(_steadied(shown, shown, size, 0.0), shown)


def test_a_moving_box_lags_by_less_than_the_steadiness_and_the_search_does_not() -> None:
    steady, plain = (
        start(Always(offset=(6, 0), size=(63.5, 63.5)), window_influence=0, steadiness=steadiness)
        for steadiness in (0.1, 0.0)
    )
    for _ in range(8):
        lag = plain.update(FRAME).box[0] - steady.update(FRAME).box[0]
        assert 1 < lag < 0.1 * 60
        assert steady._target.center[0] == plain._target.center[0]


def test_a_size_is_taken_over_in_part() -> None:
    """The part is size_rate times the score, as an unchanged size has no penalty."""
    about = {"change_penalty": 0, "size_rate": 0.4, "score_shift": 0}
    tracker = start(Always(size=(127, 127), share=0.5), **about)
    result = tracker.update(FRAME)
    np.testing.assert_allclose(result.box[2:], 60 * (1 + 0.4 * 0.5), atol=1e-6)


def test_sizes_are_corrected_by_the_error_in_the_first_frame() -> None:
    """The target has 63.5 x 63.5 pixels of the crop, and is found 1.44 times too wide."""
    found = Always(size=(63.5 * 1.44, 63.5))
    for share, width in ((0, 1.44), (0.5, 1.2), (1, 1)):
        tracker = start(found, size_rate=1, change_penalty=0, score_shift=0, size_correction=share)
        box = tracker.update(FRAME).box
        np.testing.assert_allclose(box[2:], [60 * width, 60], rtol=1e-6)
        np.testing.assert_allclose(box[:2] + box[2:] / 2, [130, 110], atol=0.51)


def test_a_correction_is_bounded_and_needs_a_target() -> None:
    for network, factor in ((Always(size=(635, 63.5)), 2), (Always(size=(635, 63.5), share=0), 1)):
        tracker = start(network, size_correction=1)
        np.testing.assert_allclose(tracker._correction, [1 / factor, 1], rtol=1e-6)


def test_the_middle_is_a_mean_of_the_boxes_that_agree() -> None:
    """Three positions find a target of 40 x 80 pixels, with their probabilities.

    The middles of the first two differ by 5 pixels, a reach of a box's width. The third is far off.
    """
    target = np.zeros((15, 15))
    target[7, 7], target[7, 8], target[2, 2] = 0.8, 0.4, 0.8
    sides = np.full((4, 15, 15), [[[20.0]], [[40.0]], [[20.0]], [[40.0]]])
    sides[:, 7, 8] = 20 + 11, 40, 20 - 11, 40  # its middle is 16 - 11 = 5 pixels to the right
    answer = Answer(target, sides)
    second = 0.25 * np.exp(-0.5)  # weight of the second box if that of the first is 1
    found = _mean_middle(answer, 7, 7, np.array([5.0, 10.0]))
    np.testing.assert_allclose(found, [5 * second / (1 + second), 0], atol=1e-9)
    np.testing.assert_allclose(_mean_middle(answer, 7, 7, np.zeros(2)), [0, 0])
    np.testing.assert_allclose(_mean_middle(answer, 0, 0, np.array([5.0, 10.0])), [-112, -112])


def test_changes_are_penalised() -> None:
    """The score of a box twice as large and twice as wide is multiplied by exp(-3 k)."""
    found = []
    for penalty in (0.0, 1.0):
        tracker = start(Always(size=(63.5, 63.5)), change_penalty=penalty, size_rate=1)
        answer = Always(size=(127 * 2**0.5, 127 / 2**0.5)).answer(FRAME, FRAME)
        size = np.stack([answer.sides[0] + answer.sides[2], answer.sides[1] + answer.sides[3]])
        found.append(tracker._penalty(size, np.array([63.5, 63.5]))[7, 7])
    assert found[0] == 1
    assert 0.02 < found[1] < 0.06


def test_a_target_of_a_low_score_is_lost() -> None:
    tracker = start(Always(share=0.2), lost_score=0.25, lost_frames=2, score_shift=0)
    assert [tracker.update(FRAME).lost for _ in range(3)] == [False, True, True]


def test_the_score_is_the_probability_with_its_odds_lowered() -> None:
    found = start(Always(share=0.8), score_shift=np.log(16)).update(FRAME)
    assert found.score == pytest.approx(0.2)  # odds of 4 become odds of 1/4


def test_sizes_stay_within_bounds() -> None:
    tracker = start(Always(size=(5000, 5000)), size_rate=1, change_penalty=0)
    for _ in range(4):
        box = tracker.update(FRAME).box
    assert box[2:].tolist() == [320, 240]
    tracker = start(Always(size=(0.1, 0.1)), size_rate=1, change_penalty=0)
    assert tracker.update(FRAME).box[2:].tolist() == [10, 10]


def test_a_frame_of_another_size_is_the_same_view() -> None:
    tracker = start(Always(size=(63.5, 63.5)))
    result = tracker.update(np.full((480, 640, 3), 90, np.uint8))
    np.testing.assert_allclose(result.box[2:], [120, 120], atol=1e-6)


def test_networks_and_constants_of_the_other_tracker_are_refused() -> None:
    with pytest.raises(ValueError, match="gives features, no boxes; give it to SiamFC"):
        AnchorFree(lambda crops: crops)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="constants are a TrackerConfig; give AnchorFreeConfig"):
        AnchorFree(Always(), TrackerConfig())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gives boxes, no features; give it to AnchorFree"):
        SiamFC(Always())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="constants are a AnchorFreeConfig; give TrackerConfig"):
        SiamFC(lambda crops: crops, AnchorFreeConfig())  # type: ignore[arg-type,return-value]


def test_what_a_user_can_do_wrong() -> None:
    with pytest.raises(RuntimeError, match="before init"):
        AnchorFree(Always()).update(FRAME)
    with pytest.raises(ValueError, match="has no area"):
        AnchorFree(Always()).init(FRAME, (1, 1, 0, 5))
    with pytest.raises(ValueError, match=r"window_influence=1\.5: give a number from 0 to 1"):
        AnchorFreeConfig(window_influence=1.5)
    with pytest.raises(ValueError, match="score_shift=800: give a number from -30 to 30"):
        AnchorFreeConfig(score_shift=800)
    assert "clipped" in str(AnchorFree(Always()).init(FRAME, (300, 200, 60, 60)))


def test_nanotrack_by_its_own_rules(real_data: Path) -> None:
    """It tracks alike in PyTorch and in ONNX Runtime."""
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    backbone, head = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    pair = read_pair(backbone, head)

    class Nano:
        @torch.inference_mode()
        def learn(self, crop: np.ndarray) -> torch.Tensor:
            return pair.backbone(torch.from_numpy(crop[None]).permute(0, 3, 1, 2).flip(1).float())[
                0
            ]

        @torch.inference_mode()
        def answer(self, template: torch.Tensor, crop: np.ndarray) -> Answer:
            logits, sides = pair.head(template, self.learn(crop))
            return Answer(logits.softmax(1)[0, 1].numpy(), sides[0].numpy())

    (david,) = load_sequences(real_data / "OTB" / "David")
    first = david.part(0, 40)
    spec = parse_tracker(f"NanoTrack=onnx:{backbone},{head}")
    assert spec.build().config == AS_PUBLISHED  # type: ignore[attr-defined]
    assert spec.label == "NanoTrack"
    own = AnchorFree(Nano(), AS_PUBLISHED)
    boxes = [track_sequence(tracker, first).boxes for tracker in (own, spec.build())]
    assert score_sequence(boxes[0], first.boxes).scores.auc > 0.6
    np.testing.assert_allclose(boxes[1], boxes[0], atol=0.5)


def test_files_that_are_no_pair_of_graphs_are_refused(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    backbone, head = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    with pytest.raises(ValueError, match=r"give two files, onnx:BACKBONE\.onnx,HEAD\.onnx"):
        parse_tracker(f"onnx:{backbone}")
    with pytest.raises(FileNotFoundError, match="no model file"):
        parse_tracker(f"onnx:{backbone},none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    for files, message in (
        (f"{backbone},{tmp_path / 'text.onnx'}", "cannot read it"),
        (f"{head},{backbone}", "the order is BACKBONE,HEAD"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_tracker(f"onnx:{files}").build()
