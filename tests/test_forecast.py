"""What a training prints about its length, other trackers' figures, and where it writes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import NARROW
from trainings import train_resnet

from rbsf.datasets.video.sequences import load_sequences
from rbsf.shipped import WEIGHTS
from rbsf.tools.recipes.siamese import SiameseRecipe
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.tools.recipes.yardsticks import SHIPPED, STILL, digest_of, kept, still_and_shipped
from rbsf.tools.tables.studies import run_cell
from rbsf.tools.train_rbsf import main
from rbsf.train.config import from_settings
from rbsf.train.distributed import ALONE
from rbsf.train.forecast import END, LATER, NORM_STEP, STEP, Forecast, in_words
from rbsf.weights import load_weights

QUICK = shlex.split("--pairs 4 --batch-size 2 --epochs 1 --warmup 0 --workers 0 --threads 1")
QUICK += ["--precision", "float32", "--device", "cpu", "--width", str(NARROW)]


def test_the_time_left_is_that_of_all_kinds_of_work() -> None:
    forecast = Forecast()
    forecast.later = {LATER: 10}
    assert forecast.left({STEP: 5}) == ""
    for seconds in (1.0, 3.0):
        forecast.took(STEP, seconds)
    assert forecast.seconds == {STEP: 2.0}
    assert forecast.left({STEP: 5, NORM_STEP: 5, END: 1}) == "more than 20 s left"
    forecast.took(END, 40.0)
    forecast.took(NORM_STEP, 1.0)
    forecast.took(LATER, 6.0)
    assert forecast.left({STEP: 5, NORM_STEP: 5, END: 1}) == "2 min left"  # 10 + 5 + 40 + 60 s
    assert Forecast().left({}) == ""


def test_the_newest_counts_after_many() -> None:
    forecast = Forecast()
    for seconds in [1.0] * 200 + [2.0] * 200:
        forecast.took(STEP, seconds)
    assert 1.9 < forecast.seconds[STEP] < 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3570, "1 h 0 min"),
        (11_100, "3 h 5 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert in_words(seconds) == text


def test_a_classifier_is_compared_with_a_guess_and_its_teacher_is_counted(
    image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test images are two of each of two classes. The first epoch line is the teacher's."""
    assert train_resnet(image_root, tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "to compare with: a guess has val_top1 50.000, val_top5 100.000, val_entropy 0.693" in (
        said.out
    )
    lines = re.findall(r"epoch (\d): val_top1 \S+ \(a guess 50\.000\), .*", said.err + said.out)
    assert lines == ["1", "2", "1", "2"]
    left = re.findall(r"epoch \d: .*?(?:; (.*) left)?$", said.err + said.out, re.MULTILINE)
    assert [bool(text) for text in left] == [True, True, True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert (tmp_path / "run" / "teachers").is_dir()


def test_pairs_lie_in_out_or_where_cache_says(store: Path, tmp_path: Path) -> None:
    data = {"data": [str(store.parent / "videos")], "pairs": 8, "val_sequences": 0}
    for cache in (None, str(tmp_path / "cache")):
        run = tmp_path / f"run {cache is None}"
        config = from_settings(SiameseConfig, {"out": str(run), "cache": cache, **data})
        SiameseRecipe(config, ALONE).open()
        (cut,) = tmp_path.rglob("pairs-*.db")
        assert cut.parent == (run if cache is None else Path(cache))
        cut.unlink()


def test_cells_of_a_table_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr("rbsf.tools.tables.studies.run", lambda _, config: trained.append(config))
    run_cell(SiameseConfig(), tmp_path)
    run_cell(SiameseConfig(cache="mine"), tmp_path)
    assert [str(config.shared) for config in trained] == [str(tmp_path), "mine"]
    assert SiameseConfig(cache="mine").digest() == SiameseConfig().digest()


def test_the_shipped_float_network_teaches_where_it_fits(tmp_path: Path) -> None:
    def teacher_for(**settings: object) -> Path | None:
        config = from_settings(SiameseConfig, {"out": str(tmp_path / "run"), **settings})
        return SiameseRecipe(config, ALONE).shipped_teacher()

    shipped = WEIGHTS / "siamfc.safetensors"
    assert teacher_for() == teacher_for(model="xnor") == teacher_for(width=0.5) == shipped
    assert teacher_for(own_teacher=True) is None
    assert teacher_for(width=1.5) is None
    assert teacher_for(model="siamfc") is None
    (tmp_path / "run" / "teacher").mkdir(parents=True)  # of a training that made its own
    assert teacher_for() is None


@pytest.mark.slow
def test_a_try_out_says_how_long_it_takes_and_changes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(store), "--val-sequences", "0", *QUICK]
    flags += shlex.split("--no-gan --lambda-match 0 --response-match 0")  # the teacher is slow
    assert main([*flags, "--out", str(tmp_path / "plain")]) == 0
    said = capsys.readouterr().out
    assert f"no --teacher given: using the shipped {WEIGHTS / 'siamfc.safetensors'}" in said
    assert "on this machine" not in said
    monkeypatch.setattr(SiameseRecipe, "try_out", True)
    assert main([*flags, "--out", str(tmp_path / "tried")]) == 0
    assert re.search(r"this takes about \d+ (s|min) on this machine", capsys.readouterr().out)
    one, other = (
        load_weights(tmp_path / name / "rbsf.safetensors")[0].state_dict()
        for name in ("plain", "tried")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    config = yaml.safe_load((tmp_path / "plain" / "config.yaml").read_text())
    assert Path(config["teacher"]).name == "siamfc.safetensors"
    assert not (tmp_path / "plain" / "teacher").exists()


def test_yardsticks_are_of_the_same_frames_and_measured_once(store: Path, tmp_path: Path) -> None:
    heads = [each.part(0, 3) for each in load_sequences(store.parent / "videos" / "train")]
    figures = still_and_shipped(heads, 1)
    assert figures.keys() == {STILL, SHIPPED}
    overlaps = [_overlap(head.boxes[0], box) for head in heads for box in head.boxes]
    assert figures[STILL]["val_auc"] == pytest.approx(np.mean(overlaps), abs=0.05)
    state = digest_of(heads)
    assert kept(tmp_path, state, lambda: figures) == figures
    assert kept(tmp_path, state, lambda: {}) == figures
    assert json.loads((tmp_path / "yardsticks.json").read_text())["state"] == state
    fewer = digest_of([head.part(0, 2) for head in heads])
    assert fewer != state
    assert kept(tmp_path, fewer, lambda: {}) == {}
    (tmp_path / "yardsticks.json").write_text("[")
    assert kept(tmp_path, state, lambda: figures) == figures


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    start = np.maximum(one[:2], other[:2])
    inside = np.clip(np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - start, 0, None).prod()
    return float(inside / (one[2:].prod() + other[2:].prod() - inside))
