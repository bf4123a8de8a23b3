from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rbsf.datasets.synthetic.scene import Actor, Scene, SceneConfig, smear
from rbsf.datasets.synthetic.videos import make_sequence, write_got10k, write_video
from rbsf.datasets.video.sequences import load_sequences

SIZE = (160, 120)
OFF = dict.fromkeys(
    ("speed", "camera", "shake", "rotation", "deform", "occlusions", "light", "blur", "noise"), 0.0
)
STILL = SceneConfig(scale=1, distractors=(0, 0), **OFF)


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (list(make_sequence(7, 5, SIZE)) for _ in range(2))
    for (image, box), (other_image, other_box) in zip(first, second, strict=True):
        assert image.tobytes() == other_image.tobytes()
        assert box.tobytes() == other_box.tobytes()
    other = next(make_sequence(8, 5, SIZE))
    assert not np.array_equal(first[0][0], other[0])
    assert (first[0][0].shape, first[0][0].dtype) == ((120, 160, 3), np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_the_box_bounds_the_pixels_of_the_target(seed: int) -> None:
    config = SceneConfig(light=0, noise=0, shake=0, blur=0, occlusions=0)
    scene = Scene(seed, 12, (320, 240), config)
    image, box = scene.render(11)
    scene.target = replace(scene.target, centers=scene.target.centers + 10_000)
    without, _ = scene.render(11)
    rows, columns = np.nonzero((image != without).any(axis=2))
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    x, y, w, h = box
    assert np.abs(np.array([x, y, x + w, y + h]) - seen).max() < 4  # the edge is soft


@pytest.mark.parametrize("seed", range(4))
def test_default_motion_is_moderate_and_stays_in_view(seed: int) -> None:
    scene = Scene(seed, 300, (320, 240), SceneConfig())
    whole = np.array([scene.target.box(i) for i in range(300)])
    seen = np.array([scene.box(i) for i in range(300)])
    size = np.sqrt(whole[:, 2:].prod(axis=1))
    steps = np.linalg.norm(np.diff(whole[:, :2] + whole[:, 2:] / 2, axis=0), axis=1) / size[1:]
    assert 0.01 < steps.mean() < 0.06
    assert steps.max() < 0.12
    assert (seen[:, 2:].prod(axis=1) >= 0.5 * whole[:, 2:].prod(axis=1)).all()
    growth = np.sqrt(np.abs(np.linalg.det(scene.target.shapes)))
    assert growth[0] == pytest.approx(1, abs=0.01)
    assert 0.58 < growth.min() < 0.95 or 1.05 < growth.max() < 1.72


def test_every_effect_can_be_switched_off() -> None:
    frames = list(make_sequence(3, 6, SIZE, STILL))
    for image, box in frames[1:]:
        assert np.array_equal(image, frames[0][0])
        assert np.array_equal(box, frames[0][1])


@pytest.mark.parametrize(
    ("name", "value", "moves"),
    [
        ("speed", 0.05, True),
        ("camera", 0.01, False),
        ("shake", 1.0, True),
        ("scale", 1.7, True),
        ("rotation", 20.0, True),
        ("deform", 0.1, True),
        ("occlusions", 20.0, False),
        ("light", 0.3, False),
        ("noise", 4.0, False),
    ],
)
def test_each_effect_alone_shows(name: str, value: float, moves: bool) -> None:
    frames = list(make_sequence(3, 12, SIZE, replace(STILL, **{name: value})))
    assert any(not np.array_equal(image, frames[0][0]) for image, _ in frames)
    assert any(not np.allclose(box, frames[0][1]) for _, box in frames) == moves


def test_a_passing_object_hides_part_of_the_target() -> None:
    config = replace(STILL, occlusions=5, cover=0.5)
    hidden = []
    for frame, (image, box) in enumerate(make_sequence(1, 20, SIZE, config)):
        if frame == 0:
            x, y, w, h = box.round().astype(int)
            clear = image[y : y + h, x : x + w].astype(int)
        hidden.append((np.abs(image[y : y + h, x : x + w] - clear).sum(axis=2) > 20).mean())
    assert 0.1 < max(hidden) < 0.7


def test_distractors_are_counted() -> None:
    plain = Scene(5, 3, SIZE, STILL)
    crowded = Scene(5, 3, SIZE, replace(STILL, distractors=(3, 3)))
    assert len(crowded.behind) == len(plain.behind) + 3


def test_smear_follows_the_motion() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    rows, columns = np.nonzero(smear(image, np.array([8.0, 0.0]))[..., 0])
    assert np.ptp(rows) <= 2
    assert 6 <= np.ptp(columns) <= 10
    assert smear(image, np.array([0.3, 0.3])) is image


@pytest.mark.parametrize("center", [(-500.0, 10.0), (10.0, 900.0)])
def test_what_is_out_of_view_is_not_painted(center: tuple[float, float]) -> None:
    actor = Scene(0, 1, SIZE, STILL).target
    canvas = np.zeros((120, 160, 3), np.uint8)
    Actor(actor.sprite, np.array([center]), actor.shapes).draw(canvas, 0, 0)
    assert canvas.max() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": -1}, "speed is -1; it must be 0 or more"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"scale": 0.5}, "scale is 0.5; it must lie between 1"),
        ({"target": (0.4, 0.2)}, "target is"),
        ({"distractors": (3, 1)}, "distractors is"),
        ({"light": 1.0}, "light and deform must be below 1"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], message: str) -> None:
    assert {f.name for f in fields(SceneConfig)} >= set(change)
    with pytest.raises(ValueError, match=message):
        SceneConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "frames", "size"), [(0, 0, SIZE), (0, 5, (20, 240)), (-1, 5, SIZE)]
)
def test_impossible_videos_are_refused_at_once(
    seed: int, frames: int, size: tuple[int, int]
) -> None:
    message = "cannot be made; give a seed from 0, 1 frame or more, 32x32 up"
    with pytest.raises(ValueError, match=message):
        make_sequence(seed, frames, size)


def test_a_written_split_reads_back(tmp_path: Path) -> None:
    write_got10k(tmp_path / "train", count=2, seed=4, frames=3, size=SIZE)
    sequences = load_sequences(tmp_path / "train")
    expected = [("synthetic_000004", 3), ("synthetic_000005", 3)]
    assert [(s.name, len(s)) for s in sequences] == expected
    for sequence, seed in zip(sequences, (4, 5), strict=True):
        image, box = next(make_sequence(seed, 3, SIZE))
        assert sequence.boxes[0] == pytest.approx(box, abs=1e-4)
        # JPEG changes pixels a little.
        assert np.abs(sequence.image(0).astype(int) - image).mean() < 6


def test_a_split_written_again_holds_only_the_new_frames(tmp_path: Path) -> None:
    for frames in (4, 2):
        write_got10k(tmp_path, count=1, frames=frames, size=SIZE)
        assert [len(s) for s in load_sequences(tmp_path)] == [frames]


@pytest.mark.parametrize("other", ["real", "synthetic_000001", "photo.jpg"])
def test_a_folder_with_other_data_is_refused_and_stays(tmp_path: Path, other: str) -> None:
    """A second video of an earlier run counts: the new list would not name it."""
    write_got10k(tmp_path, count=1, frames=2, size=SIZE)
    (tmp_path / other).mkdir()
    (tmp_path / "list.txt").write_text(f"{other}\n")
    (tmp_path / ".hidden").touch()
    with pytest.raises(ValueError, match=f"1 other files or folders, such as {other}; give anoth"):
        write_got10k(tmp_path, count=1, frames=1, size=SIZE)
    assert (tmp_path / "list.txt").read_text() == f"{other}\n"
    assert len(list((tmp_path / "synthetic_000000").glob("*.jpg"))) == 2


def test_a_written_video_reads_back(tmp_path: Path) -> None:
    write_video(tmp_path / "demo.mp4", seed=4, frames=5, size=SIZE)
    sequence = load_sequences(tmp_path)[0]
    expected = list(make_sequence(4, 5, SIZE))
    assert sequence.boxes == pytest.approx(np.array([box for _, box in expected]), abs=1e-4)
    for image, (original, _) in zip(sequence, expected, strict=True):
        assert np.abs(image.astype(int) - original).mean() < 12  # as does MPEG-4


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = Path(__file__).resolve().parents[1] / "tools" / "make_synthetic.py"
    return subprocess.run(
        [sys.executable, str(tool), *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_program_writes_splits_and_videos(tmp_path: Path) -> None:
    small = ("--count", "1", "--frames", "2", "--size", "160x120")
    assert run_tool("--out", str(tmp_path / "split"), *small).returncode == 0
    assert len(load_sequences(tmp_path / "split")[0]) == 2
    assert (
        run_tool("--out", str(tmp_path / "clips"), *small, "--seed", "9", "--video").returncode == 0
    )
    assert [s.name for s in load_sequences(tmp_path / "clips")] == ["synthetic_000009"]


@pytest.mark.parametrize("extra", [(), ("--video",)])
def test_the_program_names_a_folder_it_cannot_write_to(
    tmp_path: Path, extra: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    done = run_tool("--out", str(tmp_path / "file" / "x"), "--count", "1", "--frames", "1", *extra)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert "file/x" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--size", "10"), "is not WIDTHxHEIGHT"), (("--count", "0"), "is not a whole number")],
)
def test_the_program_refuses_bad_numbers(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run_tool("--out", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
