"""The made-up street: its boxes are true, and its target vanishes and comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from requirements import needs

from rbsf.datasets.synthetic.scene import Scene, SceneConfig
from rbsf.datasets.synthetic.street import FPS, VISIBLE, Street
from rbsf.tools import animation

MOST_BYTES = 2_500_000  # of README's animation


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(0)


def test_the_box_bounds_the_target(street: Street) -> None:
    """A frame without the target differs where the target and its shadow are."""
    image, box = street.render(60)
    assert (image.shape, image.dtype) == ((360, 640, 3), np.uint8)
    x, y, w, h = box.round().astype(int)
    red = image[y : y + h, x : x + w].astype(int)
    assert (red[..., 0] > red[..., 1] + 60).mean() > 0.15  # a red car with windows and stripes
    painted = np.zeros_like(image)
    time = 60 / FPS + 0.25 / FPS  # the middle of the exposure
    street.target.solid.paint(painted, street.camera(time), street.target.pose(time))
    rows, columns = np.nonzero(painted.any(axis=2))
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array([x, y, x + w, y + h]) - seen).max() <= 2


def test_the_target_vanishes_once_and_comes_back(street: Street) -> None:
    numbers = np.arange(0, 250, 10)
    hidden = np.array([np.isnan(street._box(number / FPS)).all() for number in numbers])
    assert numbers[hidden].tolist() == [120, 130, 140]
    assert street._visible(street.camera(5.2), 5.2) < VISIBLE


def test_a_frame_is_the_same_each_time_and_no_other(street: Street) -> None:
    first, again, other = (street.render(number)[0] for number in (7, 7, 8))
    assert first.tobytes() == again.tobytes()
    assert np.abs(first.astype(int) - other).mean() > 5


def test_cars_keep_their_distance(street: Street) -> None:
    """No two cars on the road are ever in one place."""
    cars = [street.target, *street.traffic]
    for time in np.arange(0, 10, 0.25):
        places = np.array([car.pose(float(time)).place[:2] for car in cars])
        apart = np.abs(places[:, None] - places[None])
        too_near = (apart[..., 0] < 1.9) & (apart[..., 1] < 4.4)
        assert too_near.sum() == len(cars), time


def test_the_generator_of_trainings_stays_as_it_is() -> None:
    """Numbers of `scene.py` from before there was a street."""
    scene = Scene(7, 5, (160, 120), SceneConfig())
    image, box = scene.render(4)
    assert scene.rng.random() == pytest.approx(0.5450315356201213, abs=1e-12)
    assert box == pytest.approx([8.269132, 35.688076, 36.979310, 32.132870], abs=1e-6)
    assert image.mean(axis=(0, 1)) == pytest.approx([121.03, 122.91, 112.92], abs=0.3)


def test_an_animation_is_written(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Image = pytest.importorskip("PIL.Image", reason=needs("pillow", "it reads the animation"))
    monkeypatch.setattr("rbsf.datasets.synthetic.street.Street", lambda seed: street)
    out = tmp_path / "a.webp"
    assert animation.main(["--out", str(out), "--frames", "4", "--threads", "1"]) == 0
    with Image.open(out) as image:
        assert (image.n_frames, image.size) == (2, (640, 360 + animation.STRIP))
        assert image.info["loop"] == 0
    said = capsys.readouterr().out
    assert "2 pictures" in said
    assert "the target is visible in 4 of 4 frames, in which the mean overlap is 0.9" in said


def test_the_animation_of_the_readme_is_small_and_ten_seconds_long() -> None:
    Image = pytest.importorskip("PIL.Image", reason=needs("pillow", "it reads the animation"))
    file = ROOT / "docs" / "rbsf.webp"
    assert file.stat().st_size <= MOST_BYTES
    with Image.open(file) as image:
        assert image.size[0] == 640
        assert 8 <= image.n_frames * animation.STEP / FPS <= 12
