"""Several targets in one video: added, corrected and dropped by number, in one network pass."""

from __future__ import annotations

import numpy as np
import pytest
from test_siamfc import contrast_backbone, frame

from rbsf.shipped import DEFAULT, find_weights
from rbsf.tracker.session import Session, follow
from rbsf.tracker.siamfc import SiamFC, TrackerConfig

CONFIG = TrackerConfig()
BOX = (90.0, 70.0, 21.0, 21.0)


@pytest.fixture
def session() -> Session:
    made = Session(contrast_backbone, CONFIG)
    made.update(frame(100, 80))
    return made


def test_numbers_count_up_and_are_not_used_again(session: Session) -> None:
    assert [session.add(BOX), session.add((10, 10, 20, 20))] == [1, 2]
    session.drop(1)
    assert session.add(BOX) == 3
    assert list(session.update(frame(101, 80))) == [2, 3]
    assert list(session.results) == [2, 3]


def test_results_are_those_of_a_tracker_alone(session: Session) -> None:
    number = session.add(BOX)
    alone = SiamFC(contrast_backbone, CONFIG)
    alone.init(frame(100, 80), BOX)
    for x in (103, 106, 109):
        np.testing.assert_array_equal(
            session.update(frame(x, 80))[number].box, alone.update(frame(x, 80)).box
        )


def test_one_pass_of_the_network_for_all_targets() -> None:
    calls: list[int] = []

    def backbone(crops: np.ndarray) -> np.ndarray:
        calls.append(len(crops))
        return contrast_backbone(crops)

    session = Session(backbone, CONFIG)
    session.update(frame(100, 80))
    for _ in range(3):
        session.add(BOX)
    calls.clear()
    session.update(frame(101, 80))
    assert calls == [3 * CONFIG.scales]


def test_a_correction_starts_anew_in_the_last_frame(session: Session) -> None:
    number = session.add((10, 10, 20, 20))
    session.correct(number, BOX)
    np.testing.assert_array_equal(session.results[number].box, BOX)
    found = session.update(frame(104, 80))[number].box
    assert abs(found[0] - 94) < 3


def test_without_targets_the_network_is_not_run() -> None:
    session = Session(lambda crops: pytest.fail("the network ran"), CONFIG)
    assert session.update(frame(100, 80)) == {}


def test_mistakes_of_a_user_are_named(session: Session) -> None:
    with pytest.raises(RuntimeError, match=r"call update\(frame\) before add\(box\)"):
        Session(contrast_backbone, CONFIG).add(BOX)
    with pytest.raises(ValueError, match="has no area"):
        session.add((1, 1, 0, 5))
    assert session.add(BOX) == 1  # the refused box has no number
    with pytest.raises(KeyError, match="there is no target "):
        session.drop(7)
    session.add((-5, 10, 20, 20))
    assert "clipped" in session.notes[0]


def test_follow_gives_every_frame() -> None:
    frames = [(frame(100 + 2 * i, 80), i / 25) for i in range(4)]
    tracked = list(follow(frames, [BOX, (10, 10, 20, 20)], contrast_backbone, CONFIG))
    assert [t.time for t in tracked] == [0, 1 / 25, 2 / 25, 3 / 25]
    assert all(list(t.results) == [1, 2] for t in tracked)
    assert tracked[0].results[1].score == 1
    assert tracked[3].results[1].box[0] == pytest.approx(96, abs=3)


def test_opencv_style_takes_what_opencv_reads() -> None:
    """BGR, BGRA and a tracker that is given RGB have the same boxes.

    What is no image is named.
    """
    import rbsf
    from rbsf.tracker.loading import constants_of, load_network, make_tracker

    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (8, 10, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    bgra = np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)])
    weights = find_weights(DEFAULT)
    own = make_tracker(load_network(weights, "cpu", threads=1), constants_of(weights)())
    own.init(bgr[..., ::-1].copy(), BOX)
    expected = own.update(np.roll(bgr, 3, 1)[..., ::-1].copy()).box
    for image in (bgr, bgra):
        tracker = rbsf.Tracker(threads=1)
        tracker.init(image, BOX)
        np.testing.assert_array_equal(tracker.update(np.roll(image, 3, 1))[1], expected)
    with pytest.raises(ValueError, match=r"not an image: int64 .*; give H x W x 3 uint8 BGR"):
        tracker.update(bgr.astype(np.int64))
    with pytest.raises(ValueError, match="None, which OpenCV gives after a video's last frame"):
        tracker.update(None)


def test_the_response_is_highest_where_the_target_is(session: Session) -> None:
    number = session.add(BOX)
    assert session.response(number) is None
    (x, y, w, h) = session.update(frame(104, 76))[number].box
    response = session.response(number)
    assert response is not None
    rows, columns = response.values.shape
    row, column = divmod(int(response.values.argmax()), columns)
    left, top, width, height = response.box
    assert abs(left + width * (column + 0.5) / columns - (x + w / 2)) < width / columns
    assert abs(top + height * (row + 0.5) / rows - (y + h / 2)) < height / rows
